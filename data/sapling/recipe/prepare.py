"""Make Sapling's pictures and captions of Debian's wallpapers and Tux Paint's stamps.

\b
    python -m data.sapling.recipe.prepare                           72,000 pictures into build/sapling
    python -m data.sapling.recipe.prepare --from ~/debs --count 200

Packages are downloaded with apt and extracted into the folder; no root is needed. The i-th picture depends on the
seed, i, and the packages' versions, which go into ``sources.json`` with the licences and a SHA-256 of all pixels.
Every twelfth wallpaper is for the held-out pictures alone; their objects are those of the others, since a name that
was never seen cannot be drawn. An interrupted run goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from data.sapling.recipe import dataset, sources
from data.sapling.recipe.composites import compose
from data.sapling.recipe.pictures import Wallpaper, read_stamps, read_wallpapers

FOLDER = Path("build/sapling")
COUNT = 72_000
"""Pictures to train on, unless another number is given."""

HELD_OUT_WALLPAPERS = 12
"""One of so many."""


def prepare(
    folder: Path, given: Sequence[Path], *, count: int, held_out: int, size: int, seed: int
) -> dict[str, Any]:
    """Write the pictures into ``folder/data``; what ``sources.json`` says of them."""
    data = folder / "data"
    data.mkdir(parents=True, exist_ok=True)
    packages = sources.find(given, folder / "packages")
    roots = list(dict.fromkeys(root for root, _ in packages.values()))
    asked = {
        "count": count,
        "held_out": held_out,
        "size": size,
        "seed": seed,
        "packages": {
            p.name: {"version": packages[p.name][1], "licences": list(p.licences)} for p in sources.PACKAGES
        },
    }
    about = data / "sources.json"
    before = json.loads(about.read_text(encoding="utf-8")) if about.exists() else asked
    if any(before[key] != value for key, value in asked.items()):
        raise click.ClickException(f"{data} has pictures with other settings or packages: remove it first")
    if "sha256" in before and all(dataset.finished(data, name) for name in (dataset.TRAIN, dataset.HELD_OUT)):
        return before
    dataset.replace(about, json.dumps(before, indent=1))

    stamps, wallpapers = read_stamps(roots), read_wallpapers(roots, folder / "wallpapers")
    if not stamps or len(wallpapers) < HELD_OUT_WALLPAPERS:
        raise click.ClickException(f"{len(stamps)} stamps and {len(wallpapers)} wallpapers are too few")
    apart = wallpapers[::HELD_OUT_WALLPAPERS]
    others = [w for i, w in enumerate(wallpapers) if i % HELD_OUT_WALLPAPERS]

    def make(part: int, behind: Sequence[Wallpaper], i: int) -> tuple[NDArray[np.uint8], str]:
        return compose(np.random.default_rng((seed, part, i)), stamps, behind, size)

    dataset.write(data, dataset.TRAIN, count, size, partial(make, 0, others))
    dataset.write(data, dataset.HELD_OUT, held_out, size, partial(make, 1, apart))
    found = asked | {
        "stamps": len(stamps),
        "names": sorted({stamp.name for stamp in stamps}),
        "wallpapers": [w.name for w in others],
        "held-out wallpapers": [w.name for w in apart],
        "sha256": digest(data),
    }
    dataset.replace(about, json.dumps(found, indent=1, ensure_ascii=False))
    return found


def digest(data: Path) -> str:
    """SHA-256 of all pixels and captions."""
    sha = hashlib.sha256()
    for name in (dataset.TRAIN, dataset.HELD_OUT):
        own = dataset.load(data, name)
        for start in range(0, len(own), dataset.EVERY):
            sha.update(own.pixels[start : start + dataset.EVERY].tobytes())
        sha.update("\n".join(own.captions).encode())
    return sha.hexdigest()


def sheet(pictures: dataset.Pictures, across: int, down: int) -> Image.Image:
    """The first pictures side by side."""
    shown = np.array(pictures.pixels[: across * down])
    size = shown.shape[1]
    blank = np.full((across * down - len(shown), size, size, 3), 255, np.uint8)
    tiles = np.concatenate([shown, blank]).reshape(down, across, size, size, 3)
    return Image.fromarray(tiles.transpose(0, 2, 1, 3, 4).reshape(down * size, across * size, 3))


@click.command(context_settings={"help_option_names": ["-h", "--help"]}, help=__doc__)
@click.option("--folder", type=click.Path(file_okay=False, path_type=Path), default=FOLDER, show_default=True)
@click.option(
    "--from",
    "given",
    multiple=True,
    type=click.Path(exists=True, path_type=Path),
    help="A .deb file, a folder of them, or one that the packages were extracted to. Repeatable.",
)
@click.option("--count", type=click.IntRange(1), default=COUNT, show_default=True, help="Pictures to train on.")
@click.option("--held-out", type=click.IntRange(1), default=512, show_default=True, help="Pictures to test with.")
@click.option("--size", type=click.IntRange(32), default=128, show_default=True, help="Pixels on a side.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
def main(folder: Path, given: tuple[Path, ...], count: int, held_out: int, size: int, seed: int) -> None:
    """Prepare."""
    found = prepare(folder, given, count=count, held_out=held_out, size=size, seed=seed)
    data = folder / "data"
    sheet(dataset.load(data, dataset.TRAIN), 12, 8).save(data / "train.png")
    sheet(dataset.load(data, dataset.HELD_OUT), 12, 8).save(data / "held_out.png")
    click.echo(
        f"{count} + {held_out} pictures of {len(found['names'])} objects on {len(found['wallpapers'])} + "
        f"{len(found['held-out wallpapers'])} wallpapers in {data}; sha256 {found['sha256'][:16]}"
    )


if __name__ == "__main__":
    main()

"""The command ``treering verify``."""

from __future__ import annotations

import os
import sys
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing
from functools import partial
from glob import has_magic
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import click

from watermark.commands.chosen import calibrated, chosen_keys, fits
from watermark.commands.errors import Trouble, understood
from watermark.commands.models import load_model
from watermark.commands.options import (
    any_model_option,
    calibration_option,
    fpr_option,
    inversion_options,
    model_options,
    output_options,
    store_option,
)
from watermark.commands.parameters import Numbers
from watermark.commands.progress import progress_bar
from watermark.commands.transformations import LookedAt, transform_options
from watermark.commands.verdicts import finish, show, write

if TYPE_CHECKING:
    from watermark.foreign import ArrayKey
    from watermark.keys import RingKey
    from watermark.verdict import Verdict


@click.command()
@click.argument("images", nargs=-1, type=click.Path())
@click.option("--recursive", is_flag=True, help="Verify all files in folders; without it, a folder is unreadable.")
@click.option(
    "--from-file",
    "from_file",
    type=click.Path(exists=True, dir_okay=False, allow_dash=True),
    help="File with more names, one a line, or as find -print0 writes them; - for standard input.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="Write verdicts to this .jsonl or .parquet file as they come, and print their numbers alone.",
)
@click.option(
    "--resume",
    is_flag=True,
    help="Go on with the file of --output where it ends; what is known of an image is not tested again. Name all "
    "images: verdicts on others are set aside.",
)
@click.option(
    "--workers",
    type=click.IntRange(0),
    help="Processes that read files; with 0, files are read without bounds on time and memory.  "
    "[default: one a core, at most 4]",
)
@click.option("--key", "key_names", multiple=True, help="Key to look for; may be repeated.")
@click.option("--all-keys", is_flag=True, help="Look for every key of the store.")
@any_model_option
@click.option(
    "--foreign-key",
    "foreign",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    multiple=True,
    help="File of treering key foreign: a key of other code; may be repeated.",
)
@fpr_option
@inversion_options
@click.option("--batch-size", type=click.IntRange(1), default=8, show_default=True)
@transform_options
@click.option(
    "--numbers",
    type=Numbers(),
    help="Say which of these pictures of the key it is, e.g. 0-999: see embed --number.",
)
@calibration_option
@click.option(
    "--coarse",
    is_flag=True,
    help="Say whether a mark was found, and no numbers, which help to remove or forge one: for answers that the "
    "public sees.",
)
@store_option
@model_options
@output_options
def verify(
    images: tuple[str, ...],
    recursive: bool,
    from_file: str | None,
    output: Path | None,
    resume: bool,
    workers: int | None,
    key_names: tuple[str, ...],
    all_keys: bool,
    any_model: bool,
    foreign: tuple[Path, ...],
    fpr: float,
    steps: int,
    decoder: str,
    batch_size: int,
    looked_at: LookedAt,
    numbers: range | None,
    calibration: Path | None,
    coarse: bool,
    store: Path,
    form: str | None,
    **model: Any,  # noqa: ANN401 - exactly the options of model_options
) -> int:
    """Test images for keys.

    The p-value is the probability that a picture without the mark fits a key as well as this one does, corrected
    for the number of keys and of transformations that were looked at: by default mirroring and right angles. ρ
    says how well the mark came back: about 0.7 is unharmed, 0 is nothing. What p rests on is said below the table.
    Exit codes: 0 every image carries a key, 1 some image does not, 2 trouble, 130 and 143 interrupted.

    \b
    treering verify out/*.png --key alice
    treering verify suspect.jpg --key alice --key bob --fpr 1e-9
    treering verify turned-or-cropped.jpg --key alice --wide
    treering verify turned.jpg --key alice --rotations 36 --crop 0.8 --crop 0.9
    treering verify out/*.png --key alice --calibration sapling.safetensors
    treering verify *.png --all-keys --json | jq 'select(.status == "watermarked")'
    treering verify picture.png --key alice --numbers 0-9999
    treering verify upload.jpg --all-keys --coarse --json
    treering verify theirs.png --foreign-key theirs.safetensors
    treering verify photos --recursive --key alice -o report.jsonl --resume
    find photos -name '*.jpg' -print0 | treering verify --from-file - --key alice -o report.parquet
    treering verify --key alice -- -oddly-named.png
    """
    from watermark.verify import Verifier

    check_usage(images, from_file, output, resume, form, coarse)
    chosen = chosen_keys(store, key_names, all_keys, model["model"], any_model=any_model, optional=bool(foreign))
    keys = with_foreign(chosen, foreign)
    loaded = load_model(**model)
    with understood(), progress_bar() as track:
        transforms = looked_at(loaded.latent_shape)
        fitting = {name: key for name, key in keys.items() if not all_keys or fits(name, key, loaded)}
        count = usual_workers() if workers is None else workers
        verifier = Verifier(
            loaded, fitting, fpr, steps, decoder, batch_size, transforms, numbers=numbers or (), workers=count
        )
        verifier = calibrated(verifier, calibration)
        verifier.prepare(lambda done, total: track("null images", done, total))
    names = partial(every_name, images, recursive, from_file)
    again = from_file is None or (from_file != "-" and Path(from_file).is_file())  # a pipe is read but once
    with understood():
        total = sum(1 for _ in names()) if again and sys.stderr.isatty() else None
    if output is None:
        known = not recursive and from_file is None and not any(map(has_magic, images))
        verdicts = verifier.verify(names())
        if coarse:
            verdicts = coarsely(verdicts)
        return finish(show(verdicts, form, total, images if known else None, keys))
    also = {file.stem: [file.stat().st_size, file.stat().st_mtime_ns] for file in foreign}
    return finish(write(verifier, names(), output, resume, also, total))


def coarsely(verdicts: Generator[Verdict, None, None]) -> Generator[Verdict, None, None]:
    """Verdicts as the public may see them."""
    from watermark.verdict import coarse

    with closing(verdicts):
        yield from map(coarse, verdicts)


def with_foreign(keys: Mapping[str, RingKey], files: tuple[Path, ...]) -> dict[str, RingKey | ArrayKey]:
    """Keys by name, and those of other code by the names of their files."""
    from watermark.foreign import read_array_key

    every: dict[str, RingKey | ArrayKey] = dict(keys)
    with understood():
        for file in files:
            if file.stem in every:
                raise Trouble(f"two keys are called {file.stem!r}; rename {file}")
            every[file.stem] = read_array_key(file)
    return every


def check_usage(
    images: tuple[str, ...],
    from_file: str | None,
    output: Path | None,
    resume: bool,
    form: str | None,
    coarse: bool,
) -> None:
    """Refuse what does not go together, before anything is loaded."""
    from watermark.batch import check_report

    if not images and from_file is None:
        raise click.UsageError("give images, folders with --recursive, or --from-file LIST")
    if resume and output is None:
        raise click.UsageError("--resume goes on with the file of --output")
    if output is not None:
        if coarse:
            raise click.UsageError("--coarse is for what is shown; a report is for those who may see all")
        if form is not None:
            raise click.UsageError(
                f"--{form} is for standard output; with --output, the file's ending says what it is"
            )
        with understood():
            check_report(output, resume=resume)


def usual_workers() -> int:
    """One for each core that may be used, at most four: reading files is quick beside the networks."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(4, cores)


def every_name(images: tuple[str, ...], recursive: bool, from_file: str | None) -> Iterator[str]:
    """Names of all images, of the arguments first."""
    from watermark.inputs import listed, names_in

    yield from names_in(images, recursive=recursive)
    if from_file is not None:
        with click.open_file(from_file, "rb") as file:
            yield from names_in(listed(cast(BinaryIO, file)), recursive=recursive, patterns=False)

"""The command ``treering calibrate``."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import Any

import click

from watermark.commands.errors import Trouble, understood
from watermark.commands.models import load_model
from watermark.commands.options import inversion_options, model_options
from watermark.commands.progress import progress_bar


@click.command()
@click.option(
    "--generate", "count", type=click.IntRange(0), default=0, help="Pictures of the model, half of them marked."
)
@click.option(
    "--images",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of real images; links in it are not followed.",
)
@click.option("--prompts", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="One prompt a line.")
@click.option(
    "--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True, help="Of the first picture."
)
@click.option("--guidance", type=float, default=3.0, show_default=True, help="Classifier-free guidance scale.")
@inversion_options
@click.option("--resume", is_flag=True, help="Add to the output; what it was made of already is left out.")
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False, path_type=Path), required=True, help="File to write."
)
@model_options
def calibrate(
    count: int,
    images: Path | None,
    prompts: Path | None,
    seed: int,
    guidance: float,
    steps: int,
    decoder: str,
    resume: bool,
    output: Path,
    **model: Any,  # noqa: ANN401 - exactly the options of model_options
) -> None:
    """Measure what noise without a mark looks like, for verify --calibration.

    Use pictures that the model generated, unmarked and marked with keys that nobody has, and real images of the
    kind that will be verified. To support a false positive rate of 1e-3, 3,000 images without any false positive
    are needed.
    A file called calibration.safetensors in the folder of a local model is used by verify without being asked for.
    What there is already is saved now and then, and --resume goes on after a stop. A seed is used once, whatever
    the prompt: another --seed adds more pictures.

    \b
    treering calibrate --images photographs/ -o sapling.safetensors
    treering calibrate --images photographs/ --generate 500 -o sapling.safetensors --resume
    treering calibrate --images photographs/ --model stabilityai/sdxl-turbo -o turbo.safetensors
    """
    from inversion.embedded import data_folder
    from watermark.calibration import Calibration
    from watermark.inputs import walk
    from watermark.keys import RingKey
    from watermark.nulls import calibrate, generated_nulls, given_nulls, seed_source
    from watermark.verify import Verifier

    files = sorted(map(Path, walk(str(images)))) if images is not None else []
    if not count and not files:
        raise click.UsageError("give --generate N, --images FOLDER with files in it, or both")
    if not output.absolute().parent.is_dir():
        raise Trouble(f"there is no folder {output.absolute().parent}")
    if output.exists() and not resume:
        raise Trouble(f"{output} exists: give --resume to add to it, or another name")
    loaded = load_model(**model)
    with understood(), progress_bar() as track:
        lines = (prompts or data_folder() / "prompts" / "sapling.txt").read_text(encoding="utf-8").splitlines()
        wanted = [line for line in lines if line.strip()]
        if count and not wanted:
            raise Trouble(f"{prompts} has no prompts")
        before = Calibration.load(output) if output.exists() else None
        known = frozenset() if before is None else frozenset(before.sources)
        given = given_nulls(files, known)
        left = len(given) + sum(seed_source(seed + i) not in known for i in range(count))
        made = generated_nulls(loaded, wanted, count, seed=seed, guidance=guidance, known=known)
        verifier = Verifier(loaded, {"none": RingKey.generate()}, steps=steps, decoder=decoder, workers=1)
        found = calibrate(
            verifier,
            chain(made, given),
            lambda done: track("null images", done, left),
            start=before,
            save=lambda part: part.save(output),
        )
        found.save(output)
    counts = ", ".join(f"{n} {family}" for family, n in found.counts.items())
    click.echo(f"wrote {output}: {counts}; supports false positive rates down to {found.smallest_level:.1e}")
    left_out = left + (0 if before is None else len(before.families)) - len(found.families)
    if left_out:
        click.echo(f"{left_out} images could not be tested and were left out")

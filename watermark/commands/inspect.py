"""The command ``treering inspect``."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from watermark.commands.chosen import calibrated, chosen_keys
from watermark.commands.errors import CARRIED, NOT_CARRIED, TROUBLE, Trouble, understood
from watermark.commands.models import load_model
from watermark.commands.options import (
    any_model_option,
    calibration_option,
    fpr_option,
    inversion_options,
    model_options,
    store_option,
)
from watermark.commands.progress import progress_bar
from watermark.commands.transformations import LookedAt, transform_options

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@click.command()
@click.argument("image", type=click.Path(path_type=Path))
@click.option("--key", "key_name", required=True, help="Key to look for.")
@any_model_option
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="[default: IMAGE-rings.png]")
@fpr_option
@inversion_options
@transform_options
@calibration_option
@store_option
@model_options
def inspect(
    image: Path,
    key_name: str,
    any_model: bool,
    output: Path | None,
    fpr: float,
    steps: int,
    decoder: str,
    looked_at: LookedAt,
    calibration: Path | None,
    store: Path,
    **model: Any,  # noqa: ANN401 - exactly the options of model_options
) -> int:
    """Draw the spectrum of an image's recovered noise, and what a key sees in it.

    What was done to the image, as far as it was looked at, is undone in the figure, which shows the key's pattern:
    keep it as secret as the key. Exit codes are those of verify.

    \b
    treering inspect suspect.png --key alice
    treering inspect suspect.png --key alice -o rings.pdf
    treering inspect turned-or-cropped.jpg --key alice --wide
    """
    from watermark import plots
    from watermark.reports import tables
    from watermark.verdict import UNREADABLE, WATERMARKED
    from watermark.verify import Verifier

    file = output or image.with_name(f"{image.stem}-rings.png")
    if os.path.lexists(file):
        raise Trouble(f"{file} exists; choose another --output")
    keys = chosen_keys(store, (key_name,), False, model["model"], any_model=any_model)
    loaded = load_model(**model)
    with understood():
        transforms = looked_at(loaded.latent_shape)
        verifier = Verifier(loaded, keys, fpr, steps, decoder, transforms=transforms, workers=1)
        verifier = calibrated(verifier, calibration)
        with progress_bar() as track:
            verifier.prepare(lambda done, total: track("null images", done, total))
        (examined,) = verifier.examine([image])
        verdict = examined.verdict
        tables.print_table(tables.verdict_table([verdict]), sys.stdout)
        if examined.noise is None:
            return TROUBLE if verdict.status == UNREADABLE else NOT_CARRIED
        plots.save(plots.inspection_figure(same_picture(image, verdict.sha256), examined, keys[key_name]), file)
    click.echo(f"figure: {file} (mode 0600; keep it as secret as the key)")
    return CARRIED if verdict.status == WATERMARKED else NOT_CARRIED


def same_picture(image: Path, sha256: str) -> NDArray[np.uint8]:
    """The pixels of an image, of which the file's digest is known; Trouble if it has changed since."""
    from watermark.reading.images import ImageError, read_picture

    try:
        picture = read_picture(image)
    except ImageError as error:
        raise Trouble(f"{image} cannot be read any more: {error}") from error
    if picture.sha256 != sha256:
        raise Trouble(f"{image} was changed while it was tested")
    return picture.pixels

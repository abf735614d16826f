"""The command ``treering edit``."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from watermark.commands.errors import Trouble, understood
from watermark.commands.models import load_model
from watermark.commands.options import model_options, output_options
from watermark.commands.pictures import check_new, write_png
from watermark.commands.progress import progress_bar
from watermark.commands.records import write_records

if TYPE_CHECKING:
    from torch import Tensor

    from watermark.reading.images import Picture

HALF = 127
"""The darker half of a mask's levels ends here."""


@dataclass(frozen=True)
class Row:
    """What was edited: the share of the latents, and the PSNR in dB of the pixels that were to stay, as written.

    The PSNR is None if no such pixel changed, or there are none.
    """

    path: str
    edited_share: float
    background_psnr: float | None


@click.command()
@click.argument("image", type=click.Path(path_type=Path))
@click.option("--prompt", required=True, help="What is to be seen there.")
@click.option(
    "--mask",
    "mask_file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Picture of the same size, white where the image may change, else black.  "
    "[default: where the prompts disagree]",
)
@click.option("--source", help="What is seen there now, if it is known.")
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="[default: IMAGE-edited.png]")
@click.option("--save-mask", type=click.Path(dir_okay=False, path_type=Path), help="Write the mask, too.")
@click.option("--guidance", type=float, default=3.0, show_default=True, help="Classifier-free guidance scale.")
@click.option(
    "--steps", type=click.IntRange(1), default=25, show_default=True, help="Of inversion, and of sampling."
)
@click.option(
    "--decoder",
    type=click.Choice(["anderson", "forward_step", "adam", "gradient", "encoder"]),
    default="anderson",
    show_default=True,
    help="How pixels become latents: by decoder inversion, or by the encoder alone.",
)
@click.option(
    "--restore/--no-restore",
    default=True,
    show_default=True,
    help="Take the pixels of the background from the picture; without it, they are decoded.",
)
@model_options
@output_options
def edit(
    image: Path,
    prompt: str,
    mask_file: Path | None,
    source: str | None,
    output: Path | None,
    save_mask: Path | None,
    guidance: float,
    steps: int,
    decoder: str,
    restore: bool,
    form: str | None,
    **model: Any,  # noqa: ANN401 - exactly the options of model_options
) -> None:
    """Edit a part of a picture with a prompt, and preserve the rest.

    The path from the picture to its noise is recovered; the new prompt is followed inside the mask, the old path
    outside of it. The result is of the model's own size: larger pictures are cropped around the centre and resized.

    \b
    treering edit photo.png --prompt "a yellow flower on a purple background"
    treering edit photo.png --prompt "a strawberry" --mask mask.png -o strawberry.png
    treering edit photo.png --prompt "a tiger" --source "a lion" --save-mask where.png --guidance 5
    """
    import numpy as np

    from inversion.editing import edit as edit_pictures
    from watermark.generate import to_images
    from watermark.reading.fitting import as_tensor, fit
    from watermark.similarity import psnr

    with understood():
        picture, mask = read(image, mask_file)
        file = output or image.with_name(f"{image.stem}-edited.png")
        check_new(*filter(None, (file, save_mask)))
    loaded = load_model(**model)
    with understood(), progress_bar() as track:
        pixels, notes = fit(picture, loaded.image_size)
        for note in (*picture.warnings, *notes):
            click.echo(f"treering: note: {note}", err=True)
        x = as_tensor([pixels])
        allowed = None if mask is None else area_of(mask, loaded.image_size)
        if allowed is not None and not allowed.any():
            raise Trouble("the mask is black wherever the model looks: nothing may change")
        edited = edit_pictures(
            loaded,
            x,
            prompt,
            mask=allowed,
            source=source,
            decoder=decoder,
            steps=steps,
            guidance=guidance,
            restore=restore,
            progress=lambda done, total: track("editing", done, total),
        )
        if not edited.mask.any():
            raise Trouble("both prompts lead to the same picture everywhere: give a --mask, or another --source")
        (made,) = to_images(edited.x)
        write_png(made, file)
        if save_mask is not None:
            area = 2 * (1 - edited.background) - 1
            write_png(to_images(area.expand(-1, 3, -1, -1))[0], save_mask)
        kept = edited.background.cpu()[0, 0] == 1
        same = np.asarray(made)[kept.numpy()], pixels[kept.numpy()]
        noise = psnr(*(part[None] for part in same)) if kept.any() else math.inf
        row = Row(str(file), float(edited.mask.mean()), noise if math.isfinite(noise) else None)
    write_records([row if form is not None else shown(row)], ("path", "edited_share", "background_psnr"), form)


def read(image: Path, mask_file: Path | None) -> tuple[Picture, Picture | None]:
    """The image, and its mask of the same size if there is a file of it."""
    from watermark.reading.images import ImageError, read_picture

    try:
        picture = read_picture(image)
        mask = None if mask_file is None else read_picture(mask_file)
    except ImageError as error:
        raise Trouble(f"{error.code}: {error}") from error
    if mask is not None:
        if any(note.startswith("transparent") for note in mask.warnings):
            raise Trouble("the mask is transparent in places: paint it white and black")
        if mask.pixels.shape != picture.pixels.shape:
            raise Trouble(f"the mask is {size_of(mask)}, the image {size_of(picture)} pixels")
        if mask.pixels.mean(2).max() <= HALF:
            raise Trouble("the mask is black: nothing may change")
    return picture, mask


def area_of(mask: Picture, size: tuple[int, int]) -> Tensor:
    """Where a mask, fitted to a model's size, is nearer to white than to black: (1, 1, H, W) of 0 and 1."""
    from watermark.reading.fitting import as_tensor, fit

    return (as_tensor([fit(mask, size)[0]]).mean(1, keepdim=True) > 0).float()


def size_of(picture: Picture) -> str:
    """Width × height."""
    return f"{picture.pixels.shape[1]} × {picture.pixels.shape[0]}"


def shown(row: Row) -> Row:
    """The row as people read it."""
    noise = "–" if row.background_psnr is None else f"{row.background_psnr:.1f}"
    return Row(row.path, f"{row.edited_share:.0%}", noise)  # type: ignore[arg-type]

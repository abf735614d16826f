"""The command ``treering mark``."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from watermark.commands.options import (
    CARRIED,
    NOT_CARRIED,
    TROUBLE,
    Trouble,
    fpr_option,
    inversion_options,
    key_store,
    load_model,
    marking_key,
    model_options,
    output_options,
    progress_bar,
    store_option,
    understood,
    write_records,
)

if TYPE_CHECKING:
    from watermark.marking.mark import Marked
    from watermark.verdict import Verdict

FIELDS = ("image", "path", "status", "p_value", "rho", "psnr", "ssim", "reason")


@dataclass(frozen=True)
class Row:
    """What became of one picture; psnr is None if nothing was changed, path if nothing was written."""

    image: str
    path: str | None
    status: str
    p_value: float | None = None
    rho: float | None = None
    psnr: float | None = None
    ssim: float | None = None
    reason: str = ""


@click.command()
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--key", "key_name", required=True, help="Key to mark with.")
@click.option(
    "-o", "--output", type=click.Path(file_okay=False, path_type=Path), default=Path("marked"), show_default=True
)
@click.option(
    "--strength",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.5,
    show_default=True,
    help="The ρ that the mark is to have. More is more visible, and survives more.",
)
@click.option(
    "--min-psnr",
    type=click.FloatRange(0),
    default=30.0,
    show_default=True,
    help="Change no picture by more than this, in dB; the mark is then as strong as that allows.",
)
@click.option(
    "--method",
    type=click.Choice(["gradient", "sampling"]),
    default="gradient",
    show_default=True,
    help="Differentiate the diffusion network; or sample from changed noise, which changes pictures more.",
)
@fpr_option
@inversion_options
@click.option("--batch-size", type=click.IntRange(1), default=8, show_default=True)
@store_option
@model_options
@output_options
def mark(
    images: tuple[Path, ...],
    key_name: str,
    output: Path,
    strength: float,
    min_psnr: float,
    method: str,
    fpr: float,
    steps: int,
    decoder: str,
    batch_size: int,
    store: Path,
    form: str | None,
    **model: Any,  # noqa: ANN401 - exactly the options of model_options
) -> int:
    """Write a key into pictures that exist: photographs, or pictures of any model.

    Each is changed as little as gives its recovered noise the wanted correlation with the key, and written as PNG
    of its own size if treering verify then finds the key at the level; else it is refused and not written. Such a
    mark says who marked a picture, not that a model made it. Verify with the same --model.
    Exit codes: 0 every picture is marked, 1 some picture was refused, 2 trouble, 130 interrupted.

    \b
    treering mark photo.png --key alice
    treering mark *.jpg --key alice -o marked --strength 0.3 --min-psnr 40
    treering mark photo.png --key alice -o firm --fpr 1e-12 --json
    """
    from watermark.marking.mark import mark as mark_pictures
    from watermark.reading.images import ImageError, read_picture
    from watermark.verify import Verifier

    files = {image: output / f"{image.stem}.png" for image in images}
    with understood():
        check_files(list(files.values()))
        ring_key = marking_key(key_store(store), key_name, model["model"])
        output.mkdir(parents=True, exist_ok=True)
    loaded = load_model(**model)
    rows: list[Row] = []
    with understood(), progress_bar() as track:
        verifier = Verifier(loaded, {key_name: ring_key}, fpr, steps, decoder, batch_size)
        names = list(files)
        for start in range(0, len(names), batch_size):
            read, pixels = names[start : start + batch_size], []
            for name in list(read):
                try:
                    pixels.append(read_picture(name).pixels)
                except ImageError as error:
                    read.remove(name)
                    rows.append(Row(str(name), None, "unreadable", reason=f"{error.code}: {error}"))
            made = mark_pictures(
                verifier,
                pixels,
                strength=strength,
                min_psnr=min_psnr,
                method=method,
                progress=lambda done, _, before=start: track("marking", before + done, len(names)),  # type: ignore[misc]
            )
            rows += [written(one, name, files[name]) for one, name in zip(made, read, strict=True)]
    write_records(rows if form is not None else [shown(row) for row in rows], FIELDS, form)
    if any(row.status == "unreadable" for row in rows):
        return TROUBLE
    return CARRIED if all(row.path is not None for row in rows) else NOT_CARRIED


def check_files(files: list[Path]) -> None:
    """Refuse to write over a file, or one over another."""
    for i, file in enumerate(files):
        if file in files[:i]:
            raise Trouble(f"two pictures would be written to {file}; mark them into different folders")
        if file.exists():
            raise Trouble(f"{file} exists; choose another --output")


def written(one: Marked, name: Path, file: Path) -> Row:
    """Write a picture whose mark holds, and say what became of it."""
    from PIL import Image

    verdict = one.verdict
    if one.holds:
        Image.fromarray(one.pixels).save(file)
    return Row(
        image=str(name),
        path=str(file) if one.holds else None,
        status=verdict.status,
        p_value=verdict.p_value,
        rho=verdict.rho,
        psnr=None if math.isinf(one.psnr) else one.psnr,
        ssim=one.ssim,
        reason="" if one.holds else why_refused(verdict),
    )


def why_refused(verdict: Verdict) -> str:
    """Why a picture was not written."""
    if verdict.reason:
        return verdict.reason
    return "refused: the mark does not hold at this level; allow a lower --min-psnr, or raise --strength or --fpr"


def shown(row: Row) -> Row:
    """The row as people read it."""
    from watermark.reports.tables import p_text

    def text(value: float | None, form: str) -> Any:  # noqa: ANN401
        return "–" if value is None else format(value, form)

    return Row(
        row.image,
        row.path or "–",
        row.status,
        p_text(row.p_value),  # type: ignore[arg-type]
        text(row.rho, ".3f"),
        text(row.psnr, ".1f"),
        text(row.ssim, ".4f"),
        row.reason,
    )

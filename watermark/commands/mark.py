"""The command ``treering mark``."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from watermark.commands.chosen import calibrated
from watermark.commands.errors import CARRIED, NOT_CARRIED, TROUBLE, Trouble, understood
from watermark.commands.models import load_model
from watermark.commands.options import (
    calibration_option,
    fpr_option,
    inversion_options,
    model_options,
    output_options,
    store_option,
)
from watermark.commands.pictures import check_writable, write_png
from watermark.commands.progress import ended_by_signals, progress_bar
from watermark.commands.records import write_records
from watermark.commands.stores import key_store, marking_key

if TYPE_CHECKING:
    from watermark.marking.mark import Marked
    from watermark.reading.decoding import Decoded
    from watermark.verdict import Verdict
    from watermark.verify import Verifier

FIELDS = ("image", "path", "status", "p_value", "rho", "psnr", "ssim", "reason")
MOST_PIXELS = 2**25
"""Of the pictures that are marked together."""


@dataclass(frozen=True)
class Row:
    """What became of one picture; psnr is None if nothing was changed, path if nothing was written.

    The warnings say what was not plain about the file, and how it was fitted to the model.
    """

    image: str
    path: str | None
    status: str
    p_value: float | None = None
    rho: float | None = None
    psnr: float | None = None
    ssim: float | None = None
    reason: str = ""
    warnings: tuple[str, ...] = ()


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
@calibration_option
@click.option("--batch-size", type=click.IntRange(1), default=8, show_default=True)
@click.option("--resume", is_flag=True, help="Leave out pictures that were written before, if they carry the key.")
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
    calibration: Path | None,
    batch_size: int,
    resume: bool,
    store: Path,
    form: str | None,
    **model: Any,  # noqa: ANN401 - exactly the options of model_options
) -> int:
    """Write a key into pictures that exist: photographs, or pictures of any model.

    Each is changed by little more than gives its recovered noise the wanted correlation with the key, and written
    as PNG of its own size if treering verify then finds the key at the level; else it is refused and not written.
    Of a larger picture than the model's the middle is looked at, resized, as treering verify does; the change is
    enlarged and added to the whole. Transparency is composited on white, and metadata are left out. Verify with
    the same --model and --calibration. Such a mark says who marked a picture, not that a model made it. Do not
    publish the original, too: the difference is the mark, and whoever has both can put it into other pictures.
    Exit codes: 0 every picture is marked, 1 some picture was refused, 2 trouble, 130 interrupted, 143
    terminated.

    \b
    treering mark photo.png --key alice
    treering mark *.jpg --key alice -o marked --strength 0.3 --min-psnr 40
    treering mark photo.png --key alice -o firm --fpr 1e-12 --json
    """
    from watermark.marking.mark import mark as mark_pictures
    from watermark.reading.fitting import fit
    from watermark.reading.images import Picture
    from watermark.verdict import UNREADABLE
    from watermark.verify import Verifier

    with understood():
        ring_key = marking_key(key_store(store), key_name, model["model"])
        files = targets(images, output, resume)
    loaded = load_model(**model)
    rows: list[Row] = []
    parts = closing(batches(list(files), batch_size))
    with understood(), ended_by_signals(), reported(rows, form), progress_bar() as track, parts as read_batches:
        verifier = Verifier(loaded, {key_name: ring_key}, fpr, steps, decoder, batch_size)
        verifier = calibrated(verifier, calibration)
        for batch in read_batches:
            good = {name: read.pixels for name, read in batch if read.pixels is not None}
            made = mark_pictures(
                verifier,
                list(good.values()),
                strength=strength,
                min_psnr=min_psnr,
                method=method,
                progress=lambda done, _: track("marking", len(rows) + done, len(files)),
            )
            found = dict(zip(good, made, strict=True))
            for name, read in batch:
                if read.pixels is None:
                    rows.append(Row(str(name), None, UNREADABLE, reason=read.reason or ""))
                else:
                    notes = (*read.warnings, *fit(Picture(read.pixels), loaded.image_size)[1])
                    rows.append(written(found[name], name, files[name], notes))
            track("marking", len(rows), len(files))
        rows.extend(without_mark(verifier, [image for image in images if image not in files], output))
    if any(row.status == UNREADABLE for row in rows):
        return TROUBLE
    return CARRIED if all(row.path is not None for row in rows) else NOT_CARRIED


def targets(images: tuple[Path, ...], output: Path, resume: bool) -> dict[Path, Path]:
    """Where every picture is to be written; without those that were before, if that is wanted.

    Raises:
        Trouble: if two would be written to one file, or one over another.
        OSError: if the folder cannot be made, or not be written to.
    """
    files: dict[Path, Path] = {}
    taken: set[str] = set()
    for image in images:
        file = output / f"{image.stem}.png"
        if str(file).casefold() in taken:
            raise Trouble(f"two pictures would be written to {file}; mark them into different folders")
        taken.add(str(file).casefold())
        if not file.exists():
            files[image] = file
        elif not resume:
            raise Trouble(f"{file} exists; choose another --output, or --resume")
    output.mkdir(parents=True, exist_ok=True)
    check_writable(output)
    return files


def without_mark(verifier: Verifier, images: Sequence[Path], output: Path) -> Iterator[Row]:
    """Of pictures that were left out as files of their names are there, those whose file does not carry the key."""
    from watermark.verdict import WATERMARKED

    there = [output / f"{image.stem}.png" for image in images]
    with closing(verifier.verify(there)) as verdicts:
        for image, file, verdict in zip(images, there, verdicts, strict=True):
            if verdict.status != WATERMARKED:
                reason = f"{file} is there already, and is {verdict.status.replace('_', ' ')}"
                yield Row(str(image), None, verdict.status, verdict.p_value, verdict.rho, reason=reason)


def batches(names: list[Path], size: int) -> Generator[list[tuple[Path, Decoded]], None, None]:
    """Pictures as they are read, so many together, fewer if they are large."""
    from watermark.reading.decoding import whole

    batch: list[tuple[Path, Decoded]] = []
    pixels = 0
    with closing(whole(names)) as pictures:
        for name, read in zip(names, pictures, strict=True):
            batch.append((name, read))
            pixels += 0 if read.pixels is None else read.pixels.size // 3
            if len(batch) == size or pixels >= MOST_PIXELS:
                yield batch
                batch, pixels = [], 0
    if batch:
        yield batch


@contextmanager
def reported(rows: list[Row], form: str | None) -> Iterator[None]:
    """Write the rows at the end, also at an early one."""
    from watermark.reports.tables import printable

    try:
        yield
    finally:
        for row in rows if form is None else []:
            for note in row.warnings:
                click.echo(f"treering: note: {printable(row.image)}: {note}", err=True)
        if rows:
            write_records(rows if form is not None else [shown(row) for row in rows], FIELDS, form)


def written(one: Marked, name: Path, file: Path, notes: tuple[str, ...]) -> Row:
    """Write a picture whose mark holds, and say what became of it."""
    from PIL import Image

    from watermark.verdict import INCONCLUSIVE

    verdict, reason = one.verdict, "" if one.holds else why_refused(one.verdict)
    status = verdict.status
    if one.holds:
        try:
            write_png(Image.fromarray(one.pixels), file)
        except Trouble as trouble:  # that is this picture's alone
            status, reason = INCONCLUSIVE, f"refused: {trouble.message}"
    return Row(
        image=str(name),
        path=None if reason else str(file),
        status=status,
        p_value=verdict.p_value,
        rho=verdict.rho,
        psnr=None if math.isinf(one.psnr) else one.psnr,
        ssim=one.ssim,
        reason=reason,
        warnings=notes,
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

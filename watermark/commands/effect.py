"""The command ``treering key effect``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from watermark.commands.errors import understood
from watermark.commands.options import output_options, store_option
from watermark.commands.parameters import NumberList
from watermark.commands.records import write_records
from watermark.commands.stores import key_store

if TYPE_CHECKING:
    from watermark.effect import Effect

FIELDS = ("what", "value", "plain", "meaning")


@click.command()
@click.argument("name")
@click.option(
    "--shape",
    default="4,32,32",
    show_default=True,
    type=NumberList(),
    help="Of the model's latents: channels, frames of a video, height, width.",
)
@click.option(
    "--strength",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.7,
    show_default=True,
    help="Of the mark; embed uses 0.7.",
)
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Draw a figure, too.")
@store_option
@output_options
def effect(
    name: str, shape: tuple[int, ...], strength: float, output: Path | None, store: Path, form: str | None
) -> None:
    """Show what a key does to the noise that pictures start from.

    Beside every number is that of plain noise. The numbers may be shown to anyone. The figure shows the key's
    pattern: keep it as secret as the key.

    \b
    treering key effect alice
    treering key effect alice --shape 4,64,64 --strength 1 -o effect.png
    treering key effect alice --shape 16,13,60,90 --json
    """
    from watermark.effect import effect as effect_of

    with understood():
        key = key_store(store).get(name)
        found = effect_of(key, shape, strength=strength)
        if form is None:
            size = " × ".join(map(str, shape))
            click.echo(f"{name}: {key.pattern.kind}, strength {strength:g}, noise of {size}\n")
        write_records([found] if form == "json" else rows(found), FIELDS, form)
        if output is not None:
            from watermark import plots

            plots.save(plots.effect_figure(key, shape, strength), output)
            click.echo(f"figure: {output}. It shows the key's pattern: keep it as secret as the key.", err=True)


@dataclass(frozen=True)
class Row:
    """A number as a table shows it, beside that of plain noise."""

    what: str
    value: str
    plain: str
    meaning: str


def rows(found: Effect) -> list[Row]:
    """The numbers as a table shows them."""
    error = 100 / (2 * found.draws) ** 0.5
    where = f"in channels {', '.join(map(str, found.channels))}, radii {found.radii[0]} to {found.radii[1]}"
    numbers = (
        ("marked bins", found.marked_bins, 0, where),
        ("marked share", found.marked_share, 0, "of all bins"),
        ("shared energy", found.shared_energy, 0, "what all pictures of the key have in common"),
        ("correlation", found.correlation, 0, "of two pictures' noises: the diversity lost"),
        ("missing energy", found.missing_energy, 0, "taken away from the noise"),
        ("norm", found.norm, found.plain_norm, "‖z‖/√n: a model is used to that of plain noise"),
        ("norm, sd", found.norm_sd, found.plain_norm_sd, f"from picture to picture, known to ± {error:.0f} %"),
        ("distance", found.distance, found.plain_distance, "of a noise from N(0, 1), Kolmogorov–Smirnov"),
        ("kurtosis", found.kurtosis, 0, "excess; above 0 some values stick out"),
        ("peak", found.peak, found.plain_peak, "largest shared value, in sd; if far above plain, make another key"),
    )
    return [Row(what, f"{value:.4g}", f"{plain:.4g}", meaning) for what, value, plain, meaning in numbers]

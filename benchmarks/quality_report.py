"""The figure and the tables of :mod:`benchmarks.quality`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from watermark.features import Array

PANELS = {
    "Fréchet distance, excess over unmarked": (("frechet", "contents"), ("frechet", "textures")),
    "Diversity, of unmarked": (("diversity", "contents"), ("diversity", "textures"), ("diversity", "pixels")),
    "Agreement with the prompt, change of margin": (("agreement", "difference"),),
}
"""Title → where in a group's results the values and intervals are."""

COLOURS = ("#1a7f37", "#0969da", "#bf8700")


def draw(result: dict[str, Any], means: Mapping[str, Array], path: Path) -> None:
    """What marks change, with intervals, and the mean difference that one key makes to its pictures."""
    groups = result["groups"]
    marked = list(groups)[1:]
    figure = Figure(figsize=(16, 8), dpi=110, layout="constrained")
    places = figure.add_gridspec(2, 3 * len(marked), height_ratios=(2.2, 1))
    for i, (title, parts) in enumerate(PANELS.items()):
        axes = figure.add_subplot(places[0, i * len(marked) : (i + 1) * len(marked)])
        for j, part in enumerate(parts):
            dots(axes, [groups[g][part[0]][part[1]] for g in marked], 0.15 * (j - 1), part[1], COLOURS[j])
        axes.axvline(float(part[0] == "diversity"), color="0.5", lw=1)
        axes.set_yticks(range(len(marked)), marked if not i else [""] * len(marked), fontsize=8)
        axes.invert_yaxis()
        axes.set_title(title, fontsize=10)
        axes.grid(alpha=0.3, axis="x")
        if len(parts) > 1:
            axes.legend(fontsize=7)
    largest = max(float(np.abs(means[g]).mean(0).max()) for g in marked[1:])
    for i, group in enumerate(marked):
        axes = figure.add_subplot(places[1, 3 * i : 3 * i + 3])
        axes.imshow(means[group].mean(0), cmap="RdBu_r", vmin=-largest, vmax=largest)
        axes.set_title(group.replace(", ", ",\n"), fontsize=8)
        axes.set_axis_off()
    figure.supxlabel(
        "below: mean of the pictures of one key less that of the unmarked ones of the same seeds", fontsize=9
    )
    figure.savefig(path)


def dots(axes: Axes, cells: list[dict[str, Any]], off: float, name: str, colour: str) -> None:
    """Values with their intervals, one below the other."""
    for i, cell in enumerate(cells):
        axes.plot(cell["ci95"], [i + off] * 2, color=colour, lw=1.4)
        axes.plot(cell["value"], i + off, "o", ms=4, color=colour, label=None if i else name)


def bounds(cell: dict[str, Any]) -> str:
    """A value with its interval."""
    low, high = cell["ci95"]
    return f"{cell['value']:.2f} ({low:.2f} … {high:.2f})".replace("-", "−")


def excess(cell: dict[str, Any]) -> str:
    """An excess of the Fréchet distance with its interval, on the distance that unmarked pictures have."""
    return f"{bounds(cell)} on {cell['baseline']:.2f}"


def readme_table(result: dict[str, Any]) -> str:
    """What marks change, and how noise and latents are distributed, in Markdown."""
    lines = [
        "| mark | Fréchet, contents | Fréchet, textures | diversity, contents | diversity, pixels "
        "| prompt told | corners / elsewhere, mean of a key (chance) |",
        "|---|---|---|---|---|---|---|",
    ]
    for group, each in result["groups"].items():
        agreement, traces = each["agreement"], each["seen"]
        cells = [
            *(excess(each["frechet"][what]) for what in ("contents", "textures")),
            *(bounds(each["diversity"][what]) for what in ("contents", "pixels")),
            f"{agreement['right']} of {agreement['of']}",
            " (".join(f"{np.mean([t[who]['ratio'] for t in traces]):.2f}" for who in ("rms", "chance")) + ")"
            if traces
            else "",
        ]
        lines.append(f"| {group} | {' | '.join(cells)} |")
    lines += [
        "",
        "| mark | std of noise, by channel | kurtosis of noise | p | std of latents | kurtosis of latents | p |",
        "|---|---|---|---|---|---|---|",
    ]
    for group, each in result["groups"].items():
        cells = []
        for what in ("noise", "latents"):
            for moment in ("std", "kurtosis"):
                cells.append(", ".join(f"{v:.2f}" for v in each[what][moment]).replace("-", "−"))
            cells.append(f"{each[what]['p']:.1g}")
        lines.append(f"| {group} | {' | '.join(cells)} |")
    return "\n".join(lines)

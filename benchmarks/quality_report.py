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
    "Fréchet distance, bars: by chance": (("frechet", "contents"), ("frechet", "textures")),
    "Diversity, of unmarked": (("diversity", "contents"), ("diversity", "textures"), ("diversity", "pixels")),
    "Agreement with the prompt, change of margin": (("agreement", "difference"),),
}
"""Title → where in a group's results the values and intervals are."""

COLOURS = ("#1a7f37", "#0969da", "#bf8700")


def draw(result: dict[str, Any], means: Mapping[str, Array], path: Path) -> None:
    """What marks change, with intervals, and the mean difference that one key makes to its pictures."""
    groups = result["groups"]
    marked = list(groups)[1:]
    figure = Figure(figsize=(16, 7.2), dpi=110, layout="constrained")
    places = figure.add_gridspec(2, 3 * len(marked), height_ratios=(4, 1))
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
    """Values with their intervals, or with what chance makes, one below the other."""
    for i, cell in enumerate(cells):
        axes.plot(cell["ci95"] if "ci95" in cell else cell["chance"], [i + off] * 2, color=colour, lw=1.4)
        axes.plot(cell["value"], i + off, "o", ms=4, color=colour, label=None if i else name)


def bounds(cell: dict[str, Any]) -> str:
    """A value with its interval, or with what chance makes in brackets, and p by Holm."""
    low, high = cell["ci95"] if "ci95" in cell else cell["chance"]
    interval = f"({low:.2f} … {high:.2f})" if "ci95" in cell else f"[{low:.2f} … {high:.2f}]"
    return f"{cell['value']:.2f} {interval}".replace("-", "−") + p_text(cell)


def p_text(cell: dict[str, Any]) -> str:
    """P, by Holm where it is corrected."""
    p = cell.get("p, Holm", cell["p"])
    return f", p = {p:.1g}" if p >= 1e-3 else f", p = {p:.0e}"


def readme_table(result: dict[str, Any]) -> str:
    """What marks change, and how noise and latents are distributed, in Markdown."""
    lines = [
        "| mark | bins marked; energy changed | Fréchet, contents [by chance] | Fréchet, textures "
        "| diversity, contents | diversity, textures | diversity, pixels | prompt told; margin, change |"
        " corners / elsewhere, mean of a key; chance |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for group, each in result["groups"].items():
        agreement, traces, marked = each["agreement"], each["traces"], each["marked"]
        difference = agreement["difference"]
        change = f"{difference['value']:+.4f} ({difference['ci95'][0]:+.4f} … {difference['ci95'][1]:+.4f})"
        cells = [
            f"{100 * marked['bins']:.1f} %; {100 * marked['energy']:.1f} %",
            *(bounds(each["frechet"][what]) for what in ("contents", "textures")),
            *(bounds(each["diversity"][what]) for what in ("contents", "textures", "pixels")),
            f"{agreement['right']} of {agreement['of']}; {agreement['margin']:.4f}, {change}".replace("-", "−")
            + p_text(difference),
            f"{bounds(traces)}; {traces['chance']:.2f}" if traces else "",
        ]
        lines.append(f"| {group} | {' | '.join(cells)} |")
    lines += [
        "",
        "| mark | std of noise, by channel | kurtosis of noise | differs most in | std of latents "
        "| kurtosis of latents | differ most in |",
        "|---|---|---|---|---|---|---|",
    ]
    for group, each in result["groups"].items():
        cells = []
        for what in ("noise", "latents"):
            for moment in ("std", "kurtosis"):
                cells.append(", ".join(f"{v:.2f}" for v in each[what][moment]).replace("-", "−"))
            cells.append(each[what]["differs most in"] + p_text(each[what]))
        lines.append(f"| {group} | {' | '.join(cells)} |")
    return "\n".join(lines)

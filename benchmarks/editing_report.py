"""The figure and the table of :mod:`benchmarks.editing`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from scipy import stats

from benchmarks.rates import tidy
from benchmarks.record import rate
from watermark.search import holm

Json = dict[str, Any]

MOST = 0.08
"""The error, in shares of the range, at which the maps are brightest."""
ORACLES = ("true latent", "oracle")
COMPARED = {
    "preserved": "background, edited",
    "recovered": "before the edit",
    "latent": "latent, before the edit",
}
"""Errors, in words. Those before the edit are none where the latent is the true one."""


def summary(methods: Json, default: str) -> Json:
    """Means of every method, and the paired comparison of the default with it."""
    spent = {name: sum(found["seconds"]) for name, found in methods.items()}
    out: Json = {
        name: {
            what: {"mean": tidy(np.mean(found[what]))}
            | ({} if name == default else {"default against it": compared(found[what], methods[default][what])})
            for what in COMPARED
            if what in found
        }
        | {
            "relative time": tidy(spent[name] / spent[default]),
            "changed inside": tidy(np.mean(found["changed inside"])),
        }
        for name, found in methods.items()
    }
    cells = [cell[what] for cell in out.values() for what in COMPARED if what in cell]
    against = [cell["default against it"] for cell in cells if "default against it" in cell]
    for cell, p in zip(against, holm(np.array([a["wilcoxon p"] for a in against])).tolist(), strict=True):
        cell["Holm p"] = tidy(p)
    return out


def compared(theirs: list[float], ours: list[float]) -> Json:
    """By how much errors in dB are smaller: Student's interval of the mean, and Wilcoxon's signed-rank test."""
    gain = np.array(theirs) - np.array(ours)
    half = stats.t.ppf(0.975, len(gain) - 1) * stats.sem(gain) if len(gain) > 1 else 0.0
    return {
        "gain": tidy(gain.mean()),
        "ci95": tidy([gain.mean() - half, gain.mean() + half]),
        "better": rate(int((gain > 0).sum()), len(gain)),
        "wilcoxon p": tidy(stats.wilcoxon(gain).pvalue) if gain.any() else 1.0,
    }


def draw(
    result: Json,
    shown: Mapping[str, NDArray[np.floating]],
    edges: tuple[float, float],
    told: list[tuple[str, str]],
    path: Path,
) -> None:
    """Edits and the error of their backgrounds by method, and the errors of all edits.

    Args:
        result: of the benchmark.
        shown: method → pictures before and after, (2, n, 3, H, W) in [-1, 1].
        edges: of the mask.
        told: prompts before and after.
        path: of the figure.
    """
    names = list(shown)
    examples = next(iter(shown.values())).shape[1]
    figure = Figure(figsize=(3 + 2.0 * (len(names) + 1), 4.2 * examples / 2 + 3.6), dpi=100, layout="constrained")
    above, below = figure.subfigures(2, 1, squeeze=False, height_ratios=(1.05 * 2 * examples, 3.2))[:, 0]
    grid = above.subplots(2 * examples, len(names) + 1, squeeze=False)
    for i in range(examples):
        picture, maps = grid[2 * i], grid[2 * i + 1]
        show(picture[0], as_picture(shown[names[0]][0, i]))
        outline(picture[0], edges, shown[names[0]].shape[-1])
        picture[0].set_title(told[i][0] if i else f"the picture\n{told[i][0]}", fontsize=7)
        maps[0].set_axis_off()
        maps[0].text(0.5, 0.5, f"→ {told[i][1]}\n\nerror outside\nthe mask", ha="center", va="center", fontsize=7)
        for name, top, bottom in zip(names, picture[1:], maps[1:], strict=True):
            before, after = shown[name][:, i]
            show(top, as_picture(after))
            error = np.abs(after - before).max(0) / 2
            low, high = (round(edge * error.shape[0]) for edge in edges)
            error[low:high, low:high] = np.nan
            drawn = bottom.imshow(error, cmap="inferno", vmin=0, vmax=MOST)
            bottom.set_axis_off()
            if i == 0:
                top.set_title(name.replace(", ", ",\n"), fontsize=9)
    above.colorbar(drawn, ax=grid[:, -1].tolist(), shrink=0.4, label="error, share of the range")
    left, right = below.subplots(1, 2)
    draw_errors(left, result, "preserved", "error of the background, dB: left is better preserved")
    draw_errors(right, result, "recovered", "the same before the edit: what recovering the latents costs")
    figure.savefig(path)


def draw_errors(axes: Axes, result: Json, what: str, label: str) -> None:
    """Every edit as a dot, and the mean of every method that has errors."""
    names = [name for name, found in result["methods"].items() if what in found]
    rng = np.random.default_rng(0)
    for i, name in enumerate(names):
        values = np.array(result["methods"][name][what])
        axes.plot(values, i + 0.25 * (rng.random(len(values)) - 0.5), ".", ms=4, alpha=0.5, color=f"C{i}")
        axes.plot([values.mean()] * 2, [i - 0.35, i + 0.35], color=f"C{i}", lw=2.5)
        axes.text(values.mean(), i - 0.36, f"{values.mean():.1f} dB".replace("-", "−"), ha="center", fontsize=8)
    axes.set_yticks(range(len(names)), names, fontsize=9)
    axes.set(ylim=(len(names) - 0.4, -0.75), xlabel=label)
    axes.grid(alpha=0.3, axis="x")


def as_picture(x: NDArray[np.floating]) -> NDArray[np.floating]:
    """(3, H, W) in [-1, 1] → (H, W, 3) in [0, 1]."""
    return (x.transpose(1, 2, 0) + 1) / 2


def show(axes: Axes, picture: NDArray[np.floating]) -> None:
    """A picture without axes."""
    axes.imshow(picture)
    axes.set_axis_off()


def outline(axes: Axes, edges: tuple[float, float], side: int) -> None:
    """The edge of the mask on a picture of so many pixels a side."""
    length = (edges[1] - edges[0]) * side
    axes.add_patch(Rectangle((edges[0] * side,) * 2, length, length, fill=False, color="white", lw=1.5, ls="--"))


def readme_table(result: Json) -> str:
    """Errors of the background by method, in Markdown."""
    columns = " | ".join(f"{name} | default better by | on | p, Holm" for name in COMPARED.values())
    head = "| latents from | iterations | time, of the default's | changed inside the mask"
    lines = [f"{head} | {columns} |", "|---|" + "---|" * (3 + 4 * len(COMPARED))]
    for name, cell in result["summary"].items():
        row = [name, str(result["equal time"].get(name, {}).get("iterations", ""))]
        row.append("" if name in ORACLES else f"{cell['relative time']:.2f}")
        row.append(f"{cell['changed inside']:.1f} dB")
        for what in COMPARED:
            if what in cell:
                row += [f"{cell[what]['mean']:.1f} dB", *against_text(cell[what].get("default against it"))]
            else:
                row += ["exact", "", "", ""]
        lines.append(f"| {' | '.join(row)} |".replace("-", "−"))
    return "\n".join(lines)


def against_text(against: Json | None) -> list[str]:
    """A comparison in three cells."""
    if against is None:
        return ["", "", ""]
    low, high = against["ci95"]
    better = against["better"]
    return [
        f"{against['gain']:.1f} dB ({low:.1f} … {high:.1f})",
        f"{better['hits']} of {better['trials']}",
        f"{against['Holm p']:.0e}",
    ]

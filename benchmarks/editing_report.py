"""The figure and the table of :mod:`benchmarks.editing`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from benchmarks.pairs import compared, sign_flips
from benchmarks.rates import tidy
from watermark.search import holm

Json = dict[str, Any]

MOST = 0.08
"""The error, in shares of the range, at which the maps are brightest."""
EQUAL = 0.98
"""Of the default's time, what is as much: counts from measured run times come out a percent or two off."""
RIM = 2
"""Pixels around the mask that are not counted, as they are mixed."""
COMPARED = {
    "preserved": "background, edited",
    "same inside": "with the same inside",
    "recovered": "before the edit",
    "latent": "latent, before the edit",
}
"""Errors, in words. Those before the edit are none where the latent is the true one."""


def summary(methods: Json, default: str, primary: Sequence[str], exact: Sequence[str]) -> Json:
    """Means of every method, and the paired comparison of the default with it; p by Holm but for what matters."""
    spent = {name: sum(found["seconds"]) for name, found in methods.items()}
    out: Json = {
        name: {
            what: {"mean": tidy(np.mean(found[what]))}
            | ({} if name == default else {"default against it": compared(found[what], methods[default][what])})
            for what in COMPARED
            if what in found
        }
        | {"relative time": None if name in exact else tidy(spent[name] / spent[default])}
        | {what: tidy(np.mean(found[what])) for what in ("changed inside", "preference")}
        for name, found in methods.items()
    }
    others = [
        cell[what]["default against it"]
        for name, cell in out.items()
        for what in COMPARED
        if what in cell and name not in (default, *exact) and not (name in primary and what == "preserved")
    ]
    for cell, p in zip(others, holm(np.array([each["wilcoxon p"] for each in others])).tolist(), strict=True):
        cell["Holm p"] = tidy(p)
    return out


def bar(methods: Json, summed: Json, default: str, primary: Sequence[str], told: list[tuple[str, str]]) -> Json:
    """Whether the default preserves more than the primary ones, which had no less time, to 2 %.

    The largest p counts. Beside Wilcoxon's test over edits are sign tests of the mean over what edits share:
    backgrounds, and things.
    """
    out: Json = {}
    for name in primary:
        cell = summed[name]["preserved"]["default against it"]
        gain = np.array(methods[name]["preserved"]) - np.array(methods[default]["preserved"])
        shared = zip(*(before.split(" on ", 1) for before, _ in told), strict=True)
        by = {
            f"p over {what}": sign_flips(gain, each)
            for what, each in zip(("things", "backgrounds"), shared, strict=True)
        }
        out[name] = {
            "p": cell["wilcoxon p"],
            "gain": cell["gain"],
            "relative time": summed[name]["relative time"],
        } | by
    worst = max(each["p"] for each in out.values())
    passed = worst < 0.05 and all(each["gain"] > 0 and each["relative time"] >= EQUAL for each in out.values())
    return out | {"p, both": worst, "passed": passed}


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
    figure = Figure(figsize=(2.1 * (len(names) + 1), 4.2 * examples + 3.8), dpi=100, layout="constrained")
    above, below = figure.subfigures(2, 1, squeeze=False, height_ratios=(4.2 * examples, 3.8))[:, 0]
    grid = above.subplots(2 * examples, len(names) + 1, squeeze=False)
    for i in range(examples):
        picture, maps = grid[2 * i], grid[2 * i + 1]
        show(picture[0], as_picture(shown[names[0]][0, i]))
        outline(picture[0], edges, shown[names[0]].shape[-1])
        picture[0].set_title(told[i][0] if i else f"the picture\n{told[i][0]}", fontsize=8)
        maps[0].set_axis_off()
        maps[0].text(0.5, 0.5, f"→ {told[i][1]}\n\nerror outside\nthe mask", ha="center", va="center", fontsize=9)
        for name, top, bottom in zip(names, picture[1:], maps[1:], strict=True):
            before, after = shown[name][:, i]
            show(top, as_picture(after))
            error = np.abs(after - before).max(0) / 2
            low, high = (round(edge * error.shape[0]) for edge in edges)
            error[low - RIM : high + RIM, low - RIM : high + RIM] = np.nan
            drawn = bottom.imshow(error, cmap="inferno", vmin=0, vmax=MOST)
            bottom.set_axis_off()
            if i == 0:
                top.set_title(name.replace(", ", ",\n"), fontsize=9)
    above.colorbar(drawn, ax=grid[:, -1].tolist(), shrink=0.4, label="error, share of the range")
    left, right = below.subplots(1, 2, sharey=True)
    draw_gains(left, result, "preserved", "by how many dB the default preserves more of the background")
    draw_gains(right, result, "recovered", "the same before the edit: what recovering the latents costs")
    figure.savefig(path)


def draw_gains(axes: Axes, result: Json, what: str, label: str) -> None:
    """What the default gains over every method, a dot an edit, and the mean with its interval."""
    names = [name for name, cell in result["summary"].items() if "default against it" in cell["preserved"]]
    default = next(name for name in result["summary"] if name not in names)
    rng = np.random.default_rng(0)
    for i, name in enumerate(names):
        if what not in result["methods"][name]:
            continue
        gains = np.array(result["methods"][name][what]) - np.array(result["methods"][default][what])
        cell = result["summary"][name][what]["default against it"]
        colour = "#1a7f37" if name in result["bar"] else "0.45"
        axes.plot(gains, i + 0.3 * (rng.random(len(gains)) - 0.5), ".", ms=4, alpha=0.4, color=colour)
        axes.plot(cell["ci95"], [i, i], lw=5, color=colour, solid_capstyle="butt")
        axes.text(
            1.0,
            i - 0.3,
            f"{cell['gain']:+.1f} dB ".replace("-", "−"),
            ha="right",
            fontsize=9,
            color=colour,
            transform=axes.get_yaxis_transform(),
        )
    axes.axvline(0, color="0.2", lw=1)
    axes.set_yticks(range(len(names)), names, fontsize=9)
    axes.set(ylim=(len(names) - 0.5, -0.9), xlabel=label)
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
    """Errors of the background by method, in Markdown: what matters, then why."""
    lines = table(result, ("preserved", "same inside"), {"changed inside": ".1", "preference": ".3"})
    lines += ["", *table(result, ("recovered", "latent"), {})]
    for name, cell in result["bar"].items():
        if isinstance(cell, dict):
            over = ", ".join(f"over {what} {cell[f'p over {what}']:.1g}" for what in ("things", "backgrounds"))
            lines += [
                "",
                f"Default against {name}: {cell['gain']:+.2f} dB, p = {cell['p']:.1g} over edits, {over}.",
            ]
    return "\n".join(lines).replace("-0", "−0")


def table(result: Json, errors: Sequence[str], others: Mapping[str, str]) -> list[str]:
    """The rows of all methods, with some of the errors, and some other means with their digits."""
    head = ["latents from", "iterations", "time, of the default's"]
    for what in errors:
        head += [COMPARED[what], "default better by", "on", "p"]
    head += others
    lines = [f"| {' | '.join(head)} |", "|---|" + "---|" * (len(head) - 1)]
    for name, cell in result["summary"].items():
        if not any(what in cell for what in errors):
            continue
        time = cell["relative time"]
        row = [name, str(result["equal time"].get(name, {}).get("iterations", "")), f"{time:.2f}" if time else ""]
        for what in errors:
            row += [f"{cell[what]['mean']:.1f} dB", *against_text(cell[what].get("default against it"))]
        row += [f"{cell[what]:{digits}f} dB" for what, digits in others.items()]
        lines.append(f"| {' | '.join(row)} |".replace("-", "−"))
    return lines


def against_text(against: Json | None) -> list[str]:
    """A comparison in three cells; p by Holm in brackets."""
    if against is None:
        return ["", "", ""]
    low, high = against["ci95"]
    better = against["better"]
    p = f"({against['Holm p']:.0e})" if "Holm p" in against else f"{against['wilcoxon p']:.0e}"
    return [f"{against['gain']:.1f} dB ({low:.1f} … {high:.1f})", f"{better['hits']} of {better['trials']}", p]

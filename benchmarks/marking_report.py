"""The figure and the tables of :mod:`benchmarks.marking`."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from benchmarks.attacks import SIX
from benchmarks.rates import interval, tidy
from benchmarks.record import rate

Json = dict[str, Any]
Pixels = NDArray[np.uint8]

COLOURS = {"generated": "#1a7f37", "photographs": "#0969da", "large photographs": "#8250df"}
MAGNIFIED = 10
BAR = 30.0
"""PSNR, in dB, that marks are to keep."""


def summary(records: Json, fpr: float, decoys: int, fewer: dict[str, int]) -> Json:
    """Rates and medians of every kind of picture and way of marking; false positives of every condition.

    ``frontier`` is of the first pictures of every kind, ``fewer``, which all ways to mark have. ``bar`` counts
    pictures whose mark holds with a PSNR of 30 dB at least. False positives are of so many keys that no picture
    carries, with intervals over pictures.
    """
    cells = {name: cell_of(pictures, fpr) for name, pictures in records.items()}
    shares: dict[str, list[float]] = {}
    units: dict[str, list[int]] = {}
    for pictures in records.values():
        for picture in pictures:
            for condition, seen in picture["seen"].items():
                shares.setdefault(condition, []).append(seen["decoys found"] / decoys)
                units.setdefault(condition, []).append(zlib.crc32(picture["unit"].encode()))
    false = {}
    for condition, values in shares.items():
        mean, both, _ = interval(np.array(values)[:, None], np.array(units[condition]))
        false[condition] = {"rate": tidy(mean[0]), "ci95": tidy(both[:, 0]), "tests": len(values) * decoys}
    few = {name: pictures[: fewer[name.partition(" | ")[0]]] for name, pictures in records.items()}
    frontier = {name: cell_of(pictures, fpr) for name, pictures in few.items() if pictures}
    return {"cells": cells, "frontier": frontier, "false": false}


def cell_of(pictures: list[Json], fpr: float) -> Json:
    """Rates and medians of one kind of picture and way of marking."""
    found = {
        condition: {
            "found": rate(sum(p["seen"][condition]["p"] <= fpr for p in pictures), len(pictures)),
            "rho median": tidy(np.median([p["seen"][condition]["rho"] for p in pictures])),
            "p median": tidy(np.median([p["seen"][condition]["p"] for p in pictures])),
        }
        for condition in pictures[0]["seen"]
    }
    out: Json = {"conditions": found}
    if "ssim" in pictures[0]:
        psnr = [np.inf if p["psnr"] is None else p["psnr"] for p in pictures]
        met = [p["holds"] and db >= BAR - 1e-6 for p, db in zip(pictures, psnr, strict=True)]
        out |= {
            "psnr median": tidy(np.median(psnr)),
            "psnr least": tidy(min(psnr)),
            "ssim median": tidy(np.median([p["ssim"] for p in pictures])),
            "rounds mean": tidy(np.mean([p["rounds"] for p in pictures])),
            "bar": rate(sum(met), len(met)),
        }
    return out


def attacks_in(cell: Json) -> list[str]:
    """Which of the six attacks a cell has."""
    return [name for name in SIX if name in cell["conditions"]]


def over_attacks(cell: Json) -> float:
    """The mean over the six attacks of the share that is found; NaN if none was made."""
    rates = [cell["conditions"][name]["found"]["rate"] for name in attacks_in(cell)]
    return float(np.mean(rates)) if rates else float("nan")


def draw(result: Json, examples: Sequence[tuple[Pixels, Pixels]], path: Path) -> None:
    """Above: pictures before and after, and the change. Below: visibility against detection, and by attack."""
    figure = Figure(figsize=(16, 8.5), dpi=110, layout="constrained")
    above, below = figure.subfigures(2, 1, squeeze=False, height_ratios=(0.6, 1.1))[:, 0]
    axes = above.subplots(1, 3 * len(examples), squeeze=False)[0]
    for i, (before, after) in enumerate(examples):
        error = after.astype(np.float64) - before
        db = 10 * np.log10(255**2 / max(float(np.square(error).mean()), 1e-9))
        change = np.rint(127.5 + MAGNIFIED * error).clip(0, 255).astype(np.uint8)
        titles = ("before", f"marked, {db:.0f} dB", f"change × {MAGNIFIED}")
        for place, picture, title in zip(axes[3 * i : 3 * i + 3], (before, after, change), titles, strict=True):
            place.imshow(picture)
            place.set_title(title, fontsize=9)
            place.set_axis_off()
    left, right = below.subplots(1, 2, width_ratios=(1, 1.2))
    draw_frontier(left, result["summary"]["frontier"])
    draw_attacks(right, result["summary"]["cells"])
    figure.savefig(path)


def draw_frontier(axes: Axes, cells: Json) -> None:
    """PSNR against the share that is found: whole as they are, dashed after the six attacks."""
    for kind, colour in COLOURS.items():
        for method, marker in (("gradient", "o"), ("sampling", "X")):
            own = {n: c for n, c in cells.items() if n.startswith(f"{kind} | {method}")}
            ways = sorted(own, key=lambda name: float(name.rpartition("=")[2]))
            if not ways:
                continue
            x = [own[name]["psnr median"] for name in ways]
            clean = [own[name]["conditions"]["clean"]["found"]["rate"] for name in ways]
            axes.plot(x, clean, marker=marker, ls="-", color=colour, label=f"{kind}, {method}")
            axes.plot(x, [over_attacks(own[name]) for name in ways], marker=marker, ls="--", color=colour, mfc="w")
            if method == "gradient":
                for name, at, y in zip(ways, x, clean, strict=True):
                    axes.annotate(name.rpartition("= ")[2], (at, y), (0, 5), textcoords="offset points", fontsize=7)
    axes.axvline(BAR, color="0.5", lw=1)
    axes.set(xlabel="PSNR to the original, dB (median): right is less visible", ylim=(-0.03, 1.08))
    axes.set_ylabel("found at 0.1 % false positives")
    axes.set_title("Whole: as written. Dashed: mean over six attacks", fontsize=10)
    axes.legend(fontsize=8, loc="lower left")
    axes.grid(alpha=0.3)


def draw_attacks(axes: Axes, cells: Json) -> None:
    """What is found of generated pictures after every attack, by way of marking."""
    own = {name.partition(" | ")[2]: cell for name, cell in cells.items() if name.startswith("generated | ")}
    ways = sorted(name for name in own if name != "before")
    conditions = list(dict.fromkeys(c for way in ways for c in own[way]["conditions"]))
    colours = [f"C{i}" for i in range(len(ways))]
    for j, (way, colour) in enumerate(zip(ways, colours, strict=True)):
        there = [k for k, c in enumerate(conditions) if c in own[way]["conditions"]]
        found = [own[way]["conditions"][conditions[k]]["found"] for k in there]
        at = np.array(there) + 0.1 * (j - (len(ways) - 1) / 2)
        ends = np.array([f["ci95"] for f in found]).T
        rates = np.array([f["rate"] for f in found])
        axes.errorbar(rates, at, xerr=np.abs(ends - rates), fmt="o", ms=4, lw=1, color=colour, label=way)
    axes.set_yticks(range(len(conditions)), conditions, fontsize=9)
    axes.invert_yaxis()
    axes.set(xlim=(-0.03, 1.03), xlabel="found at 0.1 % false positives, 95 % intervals")
    axes.set_title("Generated pictures, by what happened to them", fontsize=10)
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)


def readme_table(result: Json) -> str:
    """Visibility and detection, in Markdown."""
    cells = result["summary"]["cells"]
    six = attacks_in(next(iter(cells.values())))
    others = [c for c in next(iter(cells.values()))["conditions"] if c not in ("clean", *six)]
    lines = [
        f"| pictures, marked by | PSNR, median (least) | SSIM | found (at ≥ {BAR:.0f} dB) | ρ | p, median | "
        + " | ".join([*others, *six])
        + " |",
        "|---|" + "---|" * (5 + len(others) + len(six)),
    ]
    for name, cell in cells.items():
        clean = cell["conditions"]["clean"]
        found = f"{clean['found']['hits']} of {clean['found']['trials']}"
        if "bar" in cell:
            low, high = cell["bar"]["ci95"]
            found += f" ({cell['bar']['hits']}: {low:.3f} … {high:.3f})"
        visible = (
            [f"{cell['psnr median']:.1f} ({cell['psnr least']:.1f})", f"{cell['ssim median']:.3f}"]
            if "bar" in cell
            else ["", ""]
        )
        shares = [
            f"{cell['conditions'][c]['found']['rate']:.2f}" if c in cell["conditions"] else ""
            for c in (*others, *six)
        ]
        row = [name.replace(" | ", ", "), *visible, found, f"{clean['rho median']:.2f}", f"{clean['p median']:.0e}"]
        lines.append(f"| {' | '.join([*row, *shares])} |")
    false = result["summary"]["false"]
    lines += ["", "| keys that no picture carries | tests | found at p ≤ 1e-3 |", "|---|---|---|"]
    for condition, counted in false.items():
        low, high = counted["ci95"]
        lines.append(f"| {condition} | {counted['tests']:,} | {counted['rate']:.1e} ({low:.1e} … {high:.1e}) |")
    return "\n".join(lines)

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
VERDICT = 1e-6
"""The level of a verdict by default."""
AT_BOUND = 0.1
"""How near to that, in dB, a picture has no room left."""
PLAIN, COPIED = "clean, not whitened", "change copied"


def wide(condition: str) -> str:
    """What a condition is called where it is looked at as with ``--wide``."""
    return f"{condition}, wide search"


def summary(records: Json, fpr: float, decoys: int, fewer: dict[str, int], rounds: int) -> Json:
    """Rates and medians of every kind of picture and way of marking; false positives of every condition.

    ``frontier`` is of the first pictures of every kind, ``fewer``, which all ways to mark have. ``bar`` counts
    pictures that are found with a PSNR of 30 dB at least, ``holds`` those with that verdict, ``at the bound`` those
    whose PSNR left no room for more, and ``out of rounds`` those that were still tried in the last one. False
    positives are of so many keys that no picture carries, with intervals over pictures.
    """
    cells = {name: cell_of(pictures, fpr, rounds) for name, pictures in records.items()}
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
    frontier = {name: cell_of(pictures, fpr, rounds) for name, pictures in few.items() if pictures}
    return {"cells": cells, "frontier": frontier, "false": false}


def cell_of(pictures: list[Json], fpr: float, rounds: int) -> Json:
    """Rates and medians of one kind of picture and way of marking."""
    found = {
        condition: {
            "found": rate(sum(p["seen"][condition]["p"] <= fpr for p in pictures), len(pictures)),
            f"found at {VERDICT:g}": rate(
                sum(p["seen"][condition]["p"] <= VERDICT for p in pictures), len(pictures)
            ),
            "rho median": tidy(np.median([p["seen"][condition]["rho"] for p in pictures])),
            "p median": tidy(np.median([p["seen"][condition]["p"] for p in pictures])),
        }
        for condition in pictures[0]["seen"]
    }
    out: Json = {"conditions": found}
    if six := attacks_in(out):
        shares = np.array([[np.mean([p["seen"][c]["p"] <= fpr for c in six])] for p in pictures])
        units = np.array([zlib.crc32(p["unit"].encode()) for p in pictures])
        mean, both, _ = interval(shares, units)
        out["six attacks"] = {"mean": tidy(mean[0]), "ci95": tidy(both[:, 0])}
    if "ssim" in pictures[0]:
        psnr = [np.inf if p["psnr"] is None else p["psnr"] for p in pictures]
        met = [p["seen"]["clean"]["p"] <= fpr and db >= BAR - 1e-6 for p, db in zip(pictures, psnr, strict=True)]
        out |= {
            "psnr median": tidy(np.median(psnr)),
            "psnr least": tidy(min(psnr)),
            "ssim median": tidy(np.median([p["ssim"] for p in pictures])),
            "rounds mean": tidy(np.mean([p["rounds"] for p in pictures])),
            "bar": rate(sum(met), len(met)),
            "holds": sum(p["holds"] for p in pictures),
            "at the bound": sum(db < BAR + AT_BOUND for db in psnr),
            "out of rounds": sum(p["rounds"] >= rounds for p in pictures),
        }
    return out


def attacks_in(cell: Json) -> list[str]:
    """Which of the six attacks a cell has, turned and cropped pictures by the wide search."""
    found = cell["conditions"]
    return [wide(name) if wide(name) in found else name for name in SIX if name in found]


def over_attacks(cell: Json) -> float:
    """The mean over the six attacks of the share that is found; NaN if none was made."""
    mean: float = cell["six attacks"]["mean"] if "six attacks" in cell else float("nan")
    return mean


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
    draw_attacks(right, result["summary"]["frontier"])
    figure.savefig(path)


def draw_frontier(axes: Axes, cells: Json) -> None:
    """PSNR against the share that is found: as written, after six attacks, and of those marked from the start."""
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
                    reached = f"{own[name]['conditions']['clean']['rho median']:.2f}"
                    axes.annotate(reached, (at, y), (0, 5), textcoords="offset points", fontsize=7)
    start = over_attacks(cells.get("generated | from the start", {}))
    axes.axhline(start, ls=":", color=COLOURS["generated"], label="generated with the key, after attacks")
    axes.axvline(BAR, color="0.5", lw=1)
    axes.set(xlabel="PSNR to the original, dB (median): right is less visible", ylim=(-0.03, 1.08))
    axes.set_ylabel("found at 0.1 % false positives")
    axes.set_title("Whole: as written, with ρ. Dashed: mean over six attacks, the same pictures", fontsize=10)
    axes.legend(fontsize=8, loc="lower left")
    axes.grid(alpha=0.3)


def draw_attacks(axes: Axes, cells: Json) -> None:
    """What is found of generated pictures after every attack, by way of marking."""
    own = {name.partition(" | ")[2]: cell for name, cell in cells.items() if name.startswith("generated | ")}
    ways = sorted(name for name in own if name != "before")
    conditions = list(dict.fromkeys(c for way in ways for c in own[way]["conditions"] if c != COPIED))
    trials = min(own[way]["conditions"]["clean"]["found"]["trials"] for way in ways)
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
    axes.set_title(f"The same {trials} generated pictures, by what happened to them", fontsize=10)
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)


def readme_table(result: Json) -> str:
    """Visibility and detection of marks, of copied changes, and of keys that none carries, in Markdown."""
    cells = result["summary"]["cells"]
    lines = [
        f"| pictures, marked by | PSNR, median (least) | SSIM | at the bound; out of rounds "
        f"| found at ≥ {BAR:.0f} dB; verdict | at p ≤ 1e-6 | ρ | p, median | six attacks |",
        "|---|" + "---|" * 8,
    ]
    for name, cell in cells.items():
        clean = cell["conditions"]["clean"]
        row = [name.replace(" | ", ", "), "", "", "", f"{clean['found']['hits']} of {clean['found']['trials']}"]
        if "bar" in cell:
            low, high = cell["bar"]["ci95"]
            row[1:] = [
                f"{cell['psnr median']:.1f} ({cell['psnr least']:.1f})",
                f"{cell['ssim median']:.3f}",
                f"{cell['at the bound']}; {cell['out of rounds']}",
                f"{cell['bar']['hits']} of {cell['bar']['trials']} ({low:.3f} … {high:.3f}); {cell['holds']}",
            ]
        row += [
            f"{clean[f'found at {VERDICT:g}']['rate']:.2f}",
            f"{clean['rho median']:.2f}",
            f"{clean['p median']:.0e}",
            mean_text(cell.get("six attacks")),
        ]
        lines.append(f"| {' | '.join(row)} |")
    frontier = result["summary"]["frontier"]
    first = next(iter(frontier.values()))["conditions"]
    others = [c for c in first if c not in ("clean", COPIED)]
    lines += [
        "",
        "| the same pictures, found | n | " + " | ".join(others) + " |",
        "|---|" + "---|" * (len(others) + 1),
    ]
    for name, cell in frontier.items():
        if "before" in name:
            continue
        found = [cell["conditions"][c]["found"]["rate"] if c in cell["conditions"] else None for c in others]
        shares = ["" if share is None else f"{share:.2f}" for share in found]
        trials = cell["conditions"]["clean"]["found"]["trials"]
        lines.append(f"| {name.replace(' | ', ', ')} | {trials} | {' | '.join(shares)} |")
    lines += ["", "| change copied to another picture | found | at p ≤ 1e-6 |", "|---|---|---|"]
    for name, cell in cells.items():
        if COPIED in cell["conditions"]:
            taken = [cell["conditions"][COPIED][what] for what in ("found", f"found at {VERDICT:g}")]
            hits = " | ".join(f"{t['hits']} of {t['trials']}" for t in taken)
            lines.append(f"| {name.replace(' | ', ', ')} | {hits} |")
    lines += ["", "| keys that no picture carries | tests | found at p ≤ 1e-3 |", "|---|---|---|"]
    for condition, counted in result["summary"]["false"].items():
        low, high = counted["ci95"]
        lines.append(f"| {condition} | {counted['tests']:,} | {counted['rate']:.1e} ({low:.1e} … {high:.1e}) |")
    return "\n".join(lines)


def mean_text(cell: Json | None) -> str:
    """A mean with its interval."""
    if cell is None:
        return ""
    low, high = cell["ci95"]
    return f"{cell['mean']:.3f} ({low:.3f} … {high:.3f})"

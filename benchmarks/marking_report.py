"""The figure and the tables of :mod:`benchmarks.marking`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from benchmarks.marking_noise import COPIED, START
from benchmarks.marking_summary import BAR, SEARCHES, VERDICT, WIDE

Json = dict[str, Any]
Pixels = NDArray[np.uint8]

COLOURS = {"generated": "#1a7f37", "photographs": "#0969da", "large photographs": "#8250df"}
MAGNIFIED = 10


def draw(result: Json, examples: Sequence[tuple[Pixels, Pixels]], path: Path) -> None:
    """Above: pictures before and after, and the change. Below: visibility against detection, and by attack."""
    figure = Figure(figsize=(16, 8.6), dpi=110, layout="constrained")
    above, below = figure.subfigures(2, 1, squeeze=False, height_ratios=(0.36, 1))[:, 0]
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
    cells = result["summary"]["frontier"]
    left, middle, right = below.subplots(1, 3, width_ratios=(1, 1, 1.5))
    draw_frontier(left, cells, "psnr median", "PSNR to the original, dB (median): right is less visible")
    draw_frontier(middle, cells, "ssim median", "SSIM to the original (median)")
    left.axvline(BAR, color="0.5", lw=1)
    below.legend(*left.get_legend_handles_labels(), fontsize=8, loc="outside lower center", ncols=5)
    draw_attacks(right, cells)
    figure.savefig(path)


def draw_frontier(axes: Axes, cells: Json, what: str, label: str) -> None:
    """Visibility against the share that is found after six attacks; a line for marks from the start."""
    for kind, colour in COLOURS.items():
        for method, marker in (("gradient", "o"), ("sampling", "X")):
            own = {n: c for n, c in cells.items() if n.startswith(f"{kind} | {method}")}
            ways = sorted(own, key=lambda name: float(name.rpartition("=")[2]))
            for search, line in zip(SEARCHES, ("--", "-"), strict=True):
                shown = [name for name in ways if f"six attacks, {search}" in own[name]]
                if not shown:
                    continue
                x = [own[name][what] for name in shown]
                y = [own[name][f"six attacks, {search}"]["mean"] for name in shown]
                title = f"{kind}, {method}, {search}"
                axes.plot(x, y, marker=marker, ls=line, color=colour, label=title, mfc=None if line == "-" else "w")
                if (method, search) == ("gradient", WIDE):
                    for name, at, height in zip(shown, x, y, strict=True):
                        reached = f"{own[name]['conditions']['clean']['rho median']:.2f}"
                        axes.annotate(reached, (at, height), (0, 6), textcoords="offset points", fontsize=7)
    start = cells.get(f"generated | {START}", {})
    for search, line in zip(SEARCHES, ("--", "-"), strict=True):
        if f"six attacks, {search}" in start:
            mean = start[f"six attacks, {search}"]["mean"]
            axes.axhline(mean, ls=line, lw=1, color="0.4", label=f"generated with the key, {search}")
    axes.set(xlabel=label, ylim=(-0.03, 1.03), ylabel="found at p ≤ 1e-3, mean over six attacks")
    axes.set_title("Numbers: ρ that was reached", fontsize=10)
    axes.grid(alpha=0.3)


def draw_attacks(axes: Axes, cells: Json) -> None:
    """What is found of generated pictures after every attack, by way of marking, in numbers."""
    own = {name.partition(" | ")[2]: cell for name, cell in cells.items() if name.startswith("generated | ")}
    ways = sorted(name for name in own if name != "before")
    conditions = list(dict.fromkeys(c for way in ways for c in own[way]["conditions"] if c != COPIED))
    trials = min(own[way]["conditions"]["clean"]["found"]["trials"] for way in ways)
    shares = np.array([[own[way]["conditions"][c]["found"]["rate"] for way in ways] for c in conditions])
    axes.imshow(shares, cmap="Greens", vmin=0, vmax=1.3, aspect="auto")
    for (row, column), share in np.ndenumerate(shares):
        axes.text(column, row, f"{share:.2f}", ha="center", va="center", fontsize=8)
    axes.set_xticks(range(len(ways)), [way.replace(", ", ",\n") for way in ways], fontsize=8)
    axes.set_yticks(range(len(conditions)), conditions, fontsize=8)
    axes.set_title(f"Found at p ≤ 1e-3, the same {trials} generated pictures", fontsize=10)


def readme_table(result: Json) -> str:
    """Visibility and detection of marks, of copied changes, and of keys that none carries, in Markdown."""
    parts = (visibility, pairs, attacks, copied, decoys)
    return "\n\n".join("\n".join(part(result["summary"])) for part in parts)


def visibility(summed: Json) -> list[str]:
    """What every way to mark costs, and how surely marks are found."""
    lines = [
        "| pictures, marked by | PSNR, median (least) | SSIM | at the bound; out of rounds | found at p ≤ 1e-3 "
        f"| at ≥ {BAR:.0f} dB, too | and that verdict | at p ≤ 1e-6 | ρ | p, median "
        "| six attacks, p ≤ 1e-3, default search | `--wide` |",
        "|---|" + "---|" * 11,
    ]
    for name, cell in summed["cells"].items():
        clean = cell["conditions"]["clean"]
        visible = ["", "", "", "", ""]
        if "bar" in cell:
            visible = [
                f"{cell['psnr median']:.1f} ({cell['psnr least']:.1f})",
                f"{cell['ssim median']:.3f}",
                f"{cell['at the bound']}; {cell['out of rounds']}",
                *(rate_text(cell[what]) for what in ("bar", "held bar")),
            ]
        row = [
            name.replace(" | ", ", "),
            *visible[:3],
            f"{clean['found']['hits']} of {clean['found']['trials']}",
            *visible[3:],
            f"{clean[f'found at {VERDICT:g}']['rate']:.2f}",
            f"{clean['rho median']:.2f}",
            f"{clean['p median']:.0e}",
            *(mean_text(cell.get(f"six attacks, {search}")) for search in SEARCHES),
        ]
        lines.append(f"| {' | '.join(row)} |")
    return lines


def pairs(summed: Json) -> list[str]:
    """Ways to mark, compared picture by picture."""
    lines = ["| generated pictures, one by one | difference | more on | p, Holm |", "|---|---|---|---|"]
    for name, pair in summed["paired"].items():
        if pair is not None:
            low, high = pair["ci95"]
            better = f"{pair['better']['hits']} of {pair['better']['trials']}"
            change = f"{pair['gain']:+.2f} ({low:+.2f} … {high:+.2f})".replace("-", "−")
            lines.append(f"| {name.replace('generated | ', '')} | {change} | {better} | {pair['Holm p']:.0e} |")
    return lines


def attacks(summed: Json) -> list[str]:
    """What is found of the pictures that all ways have, by what happened to them."""
    frontier = summed["frontier"]
    first = next(iter(frontier.values()))["conditions"]
    others = [c for c in first if c not in ("clean", COPIED)]
    lines = [
        "| the same pictures, found at p ≤ 1e-3 | n | " + " | ".join(others) + " |",
        "|---|" + "---|" * (len(others) + 1),
    ]
    for name, cell in frontier.items():
        if "before" in name:
            continue
        found = [cell["conditions"][c]["found"]["rate"] if c in cell["conditions"] else None for c in others]
        shares = ["" if share is None else f"{share:.2f}" for share in found]
        trials = cell["conditions"]["clean"]["found"]["trials"]
        lines.append(f"| {name.replace(' | ', ', ')} | {trials} | {' | '.join(shares)} |")
    return lines


def copied(summed: Json) -> list[str]:
    """How often a change that was copied carries the key along."""
    lines = ["| change copied to another picture | found at p ≤ 1e-3 | at p ≤ 1e-6 |", "|---|---|---|"]
    for name, cell in summed["cells"].items():
        if COPIED in cell["conditions"]:
            taken = [cell["conditions"][COPIED][what] for what in ("found", f"found at {VERDICT:g}")]
            hits = " | ".join(f"{t['hits']} of {t['trials']}" for t in taken)
            lines.append(f"| {name.replace(' | ', ', ')} | {hits} |")
    return lines


def decoys(summed: Json) -> list[str]:
    """How often keys are found that no picture carries."""
    lines = ["| keys that no picture carries | tests | found at p ≤ 1e-3 | worst key |", "|---|---|---|---|"]
    for condition, counted in summed["false"].items():
        low, high = counted["ci95"]
        lines.append(
            f"| {condition} | {counted['tests']:,} | {counted['rate']:.1e} ({low:.1e} … {high:.1e}) "
            f"| {rate_text(counted['worst key'])} |"
        )
    return lines


def rate_text(cell: Json) -> str:
    """A count with its interval."""
    low, high = cell["ci95"]
    return f"{cell['hits']} of {cell['trials']} ({low:.3f} … {high:.3f})"


def mean_text(cell: Json | None) -> str:
    """A mean with its interval."""
    if cell is None:
        return ""
    low, high = cell["ci95"]
    return f"{cell['mean']:.3f} ({low:.3f} … {high:.3f})"

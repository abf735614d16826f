"""The figure and the tables of :mod:`benchmarks.identification`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.identification_keys import TESTS

PUBLISHED = {
    ("RingID", 32): (1.00, 0.93),
    ("RingID", 2048): (1.00, 0.82),
    ("tree-ring", 32): (0.79, 0.40),
    ("tree-ring", 2048): (0.20, 0.07),
}
"""(method, keys) → identified, clean and on average, as published."""

COLOURS = dict(zip(TESTS, ("#1a7f37", "#0969da", "#8250df", "#cf222e", "#bf8700"), strict=True))


def draw(result: dict[str, Any], path: Path) -> None:
    """Identified against the number of keys, clean and on average, and by attack for one number of keys."""
    families = result["settings"]["keys"]
    figure = Figure(figsize=(14, 4.8), dpi=120, layout="constrained")
    left, middle, right = figure.subplots(1, 3, width_ratios=(1, 1, 1.5))
    for test in TESTS:
        search = "as it is" if test == "tree-ring, L1" else "searched"
        names = [f"{test} | {search} | {n}" for n in families]
        clean = [result["rates"][n]["identified"]["clean"] for n in names]
        mean = [result["averages"][n]["identified"]["as published"] for n in names]
        for axes, cells, of in ((left, clean, "rate"), (middle, mean, "mean")):
            line(axes, families, cells, of, test)
    for axes, place_of, title in ((left, 0, "Clean pictures"), (middle, 1, "Clean and six attacks as published")):
        for (method, n), figures in PUBLISHED.items():
            marker, colour = ("*", "0.2") if method == "RingID" else ("X", COLOURS["tree-ring, L1"])
            label = f"{method}, as published" if n == 32 else None
            axes.plot(n, figures[place_of], marker, ms=9, color=colour, label=label, ls="none")
        axes.set(xscale="log", xlabel="keys", ylabel="identified", ylim=(-0.03, 1.03), title=title)
        axes.grid(alpha=0.3)
    left.legend(fontsize=8, loc="lower left")
    heat(right, result, families[len(families) // 2])
    figure.savefig(path)


def line(axes: Axes, families: Sequence[int], cells: list[dict[str, Any]], of: str, test: str) -> None:
    """One test's rates and their intervals."""
    low, high = zip(*(cell["ci95"] for cell in cells), strict=True)
    axes.plot(families, [cell[of] for cell in cells], marker="o", ms=4, color=COLOURS[test], label=test)
    axes.fill_between(families, low, high, color=COLOURS[test], alpha=0.12, lw=0)


def heat(axes: Axes, result: dict[str, Any], size: int) -> None:
    """Identified for every test, as it is and searched, and condition."""
    names, conditions = [name for name in result["rates"] if name.endswith(f" | {size}")], conditions_of(result)
    values = [[result["rates"][n]["identified"][c]["rate"] for c in conditions] for n in names]
    axes.imshow(values, cmap="RdYlGn", vmin=0, vmax=1, aspect="auto")
    for i, row in enumerate(values):
        for j, value in enumerate(row):
            axes.text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=7)
    axes.set_xticks(range(len(conditions)), conditions, rotation=40, ha="right", fontsize=8)
    axes.set_yticks(range(len(names)), [n.rsplit(" | ", 1)[0] for n in names], fontsize=8)
    axes.set_title(f"Identified among {size:,} keys")


def conditions_of(result: dict[str, Any]) -> list[str]:
    """What was done to pictures, in order."""
    return list(next(iter(result["rates"].values()))["identified"])


def readme_table(result: dict[str, Any]) -> str:
    """Identification by number of keys, by attack, and of nothing, in Markdown."""
    families = result["settings"]["keys"]
    shown = [name.rsplit(" | ", 1)[0] for name in result["rates"] if name.endswith(f" | {families[0]}")]
    lines = [
        "| identified, clean → clean and six attacks as published "
        + "".join(f"| {n:,} keys " for n in families)
        + "|",
        "|---|" + "---|" * len(families),
    ]
    for row in shown:
        cells = [
            f"{result['rates'][f'{row} | {n}']['identified']['clean']['rate']:.2f} → "
            + interval(result["averages"][f"{row} | {n}"]["identified"]["as published"])
            for n in families
        ]
        lines.append(f"| {named(row)} | {' | '.join(cells)} |")
    for method in ("RingID", "tree-ring"):
        figures = [PUBLISHED.get((method, n)) for n in families]
        cells = ["" if f is None else f"{f[0]:.2f} → {f[1]:.2f}" for f in figures]
        lines.append(f"| {method}, published for Stable Diffusion 2.1 | {' | '.join(cells)} |")
    lines += [
        "",
        "| average of six attacks, identified / verified " + "".join(f"| {n:,} keys " for n in families) + "|",
    ]
    lines.append("|---|" + "---|" * len(families))
    for row in shown:
        both = [result["averages"][f"{row} | {n}"] for n in families]
        cells = [" / ".join(interval(what["six attacks"]) for what in each.values()) for each in both]
        lines.append(f"| {named(row)} | {' | '.join(cells)} |")
    size = families[len(families) // 2]
    searched = [row for row in shown if row.endswith("searched") or "L1" in row]
    lines += ["", f"| {size:,} keys, identified / verified | " + " | ".join(map(named, searched)) + " |"]
    lines.append("|---|" + "---|" * len(searched))
    for condition in conditions_of(result):
        rows = [result["rates"][f"{row} | {size}"] for row in searched]
        cells = [" / ".join(f"{what[condition]['rate']:.2f}" for what in row.values()) for row in rows]
        low, high = rows[0]["identified"][condition]["ci95"]
        cells[0] += f" ({low:.2f} … {high:.2f})"
        lines.append(f"| {condition} | {' | '.join(cells)} |")
    size = families[-1]
    lines += ["", f"| unmarked, any of {size:,} keys at p ≤ 1e-6 | clean | clean or attacked |", "|---|---|---|"]
    for row in shown:
        if "L1" not in row:
            both = [result["unmarked"][f"{row} | {size}"][c] for c in ("clean", "clean or attacked")]
            cells = [f"{r['hits']} of {r['trials']} (≤ {r['ci95'][1]:.2f})" for r in both]
            lines.append(f"| {named(row)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def interval(average: dict[str, Any]) -> str:
    """A mean with its interval."""
    low, high = average["ci95"]
    return f"{average['mean']:.2f} ({low:.2f} … {high:.2f})"


def named(row: str) -> str:
    """A row's test and search in words."""
    test, search = row.split(" | ")
    where = {"tree-ring": "tree-ring's rings, our statistic", "tree-ring, L1": "tree-ring's rings, L1 distance"}
    return f"{where.get(test, f'`{test}`')}, {search}"

"""The figure and the tables of :mod:`benchmarks.peers`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from benchmarks.robustness_report import SHORT, interval, p_text, small

Json = dict[str, Any]


def draw(result: Json, path: Path) -> None:
    """Power of every rule by condition, and false positives of every rule at its own threshold."""
    conditions, rules = list(result["cells"]), list(result["power"]["rules"])
    figure = Figure(figsize=(13, 2.4 + 0.24 * len(conditions)), dpi=120, layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.2, 1))
    cells = [[result["cells"][c][rule]["at rate"]["0.001"] for rule in rules] for c in conditions]
    values = np.array([[np.nan if cell is None else cell["rate"] for cell in row] for row in cells])
    left.imshow(values, cmap="RdYlGn", vmin=0, vmax=1, aspect="auto")
    for i, row in enumerate(values):
        for j, value in enumerate(row):
            left.text(j, i, "" if np.isnan(value) else f"{value:.2f}", ha="center", va="center", fontsize=6)
    left.set_xticks(range(len(rules)), [words(rule) for rule in rules], rotation=90, fontsize=7)
    left.set_yticks(range(len(conditions)), conditions, fontsize=7)
    left.set_title("Found at 0.1 % false positives")
    names = list(result["rules"])
    for i, name in enumerate(names):
        false = np.array([cell["false"]["rate"] for cell in result["rules"][name].values()])
        right.plot(np.maximum(false, 1e-6), np.full(len(false), i), "o", ms=4, alpha=0.5, color="#0969da")
    right.axvline(1e-3, color="0.6", lw=1)
    right.set_yticks(range(len(names)), [words(name) for name in names], fontsize=7)
    right.invert_yaxis()
    right.set(
        xscale="log", xlabel="false positives, a point a condition (1e-6: none)", title="At its own threshold"
    )
    right.grid(alpha=0.3)
    figure.savefig(path)


def words(rule: str) -> str:
    """``test | recovery | threshold`` as it stands in the figure."""
    test, recovery, *threshold = rule.split(" | ")
    return ", ".join((test, SHORT[recovery], *threshold))


def readme_table(result: Json) -> str:
    """Power on average over attacks, ours against the others, and false positives side by side, in Markdown."""
    over = f"average over {len(result['cells']) - 1} attacks"
    lines = [f"| rule, latent | found at 0.1 % false positives, {over} |", "|---|---|"]
    for name, cell in result["power"]["rules"].items():
        lines.append(f"| {name.replace(' | ', ', ')} | {interval(cell)} |")
    lines += ["", "| ours against | difference | p by Holm |", "|---|---|---|"]
    for name, gap in result["power"]["pairs"].items():
        low, high = gap["ci95"]
        change = f"{gap['difference']:+.3f} ({low:+.3f} … {high:+.3f})"
        lines.append(f"| {name.replace(' | ', ', ')} | {change} | {p_text(gap['Holm p'])} |")
    lines += [
        "",
        f"| at its own threshold | found, clean → {over} | false positives, clean "
        f"| worst of {len(result['cells'])} conditions | other keys of the same code, clean |",
        "|---|---|---|---|---|",
    ]
    for name, by_condition in result["rules"].items():
        clean = by_condition["clean"]
        attacks = [cell["found"]["rate"] for c, cell in by_condition.items() if c != "clean"]
        worst = max(by_condition, key=lambda c: by_condition[c]["false"]["rate"])
        lines.append(
            f"| {name.replace(' | ', ', ')} | {clean['found']['rate']:.2f} → {np.mean(attacks):.2f} "
            f"| {small(clean['false'])} | {small(by_condition[worst]['false'])}, {worst} "
            f"| {small(clean['other keys'])} |"
        )
    return "\n".join(lines)

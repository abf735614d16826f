"""The figure and the tables of :mod:`benchmarks.detection`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from benchmarks.robustness_report import interval

Json = dict[str, Any]

SHOWN = "tree-ring, L1"
"""The test whose ROC curve is drawn; for those with an exact p its distribution is one."""


def draw(result: Json, path: Path) -> None:
    """A ROC curve, what is found of weak marks, and p of marked pictures, by recovery."""
    recoveries = list(result["curves"])
    figure = Figure(figsize=(17, 3.8), dpi=120, layout="constrained")
    left, middle, *right = figure.subplots(1, 2 + len(result["log10 p"]))
    colours = dict(zip(recoveries, ("#57606a", "#bf8700", "#cf222e", "#8ec99b", "#1a7f37"), strict=True))
    lowest = min(min(result["curves"][recovery][SHOWN]["true"]) for recovery in recoveries)
    for recovery, colour in colours.items():
        points = result["curves"][recovery][SHOWN]
        left.plot(points["false"], points["true"], color=colour, label=recovery)
    left.axvspan(1e-6, 1 / result["cells"][recoveries[0]][SHOWN]["negatives"]["independent"], color="0.92")
    left.set(xscale="log", xlim=(1e-4, 1), xlabel="false positives", ylabel="found", title=SHOWN)
    left.set_ylim((0.9, 1.005) if lowest > 0.9 else (-0.03, 1.03))
    left.grid(alpha=0.3)
    left.legend(fontsize=7, loc="lower right")
    names = list(result["weak"])
    for k, (recovery, colour) in enumerate(colours.items()):
        cells = [result["weak"][kind][recovery]["1e-06"] for kind in names]
        rates, at = np.array([c["rate"] for c in cells]), np.arange(len(names)) + 0.1 * (k - 2)
        bars = np.abs(np.array([c["ci95"] for c in cells]).T - rates)
        middle.errorbar(at, rates, yerr=bars, fmt="o", ms=4, lw=1, color=colour)
    middle.set_xticks(range(len(names)), [name.rpartition(", ")[2] for name in names])
    middle.set(ylim=(-0.03, 1.03), title="weak marks, found at p ≤ 1e-6")
    middle.grid(alpha=0.3)
    for axes, (test, logs) in zip(right, result["log10 p"].items(), strict=True):
        for recovery, colour in colours.items():
            p = logs[recovery]
            axes.step(p, np.arange(1, len(p) + 1) / len(p), where="post", color=colour)
        axes.axvline(-6, color="0.6", lw=1)
        axes.set(xlabel="log10 p", ylim=(-0.03, 1.03), title=test)
        axes.grid(alpha=0.3)
    right[0].set_ylabel("share below")
    figure.savefig(path)


def readme_table(result: Json) -> str:
    """Rates and areas by test and recovery, and what ours gains, in Markdown."""
    lines = [
        "| clean pictures | AUC | found at 1 % false positives | at 0.1 % | at p ≤ 1e-6 | median p |",
        "|---|---|---|---|---|---|",
    ]
    recoveries = list(result["cells"])
    for test in result["cells"][recoveries[0]]:
        for recovery in recoveries:
            cell = result["cells"][recovery][test]
            low, high = cell["area"]["ci95"]
            at = [interval(cell["at rate"][level]) for level in ("0.01", "0.001")]
            sure = [interval(cell["at p"]["1e-06"]), f"{cell['median p']:.0e}"] if "at p" in cell else ["", ""]
            if low == 1:  # a bootstrap then says nothing; as if marked pictures that chance left out came last
                low = 0.025 ** (1 / cell["at rate"]["0.01"]["trials"])
            area = f"{cell['area']['value']:.4f} ({low:.4f} … {high:.4f})"
            lines.append(f"| {test}, {recovery} | {' | '.join((area, *at, *sure))} |")
    lines += ["", "| weak marks, found at p ≤ 1e-3 / 1e-6 | " + " | ".join(recoveries) + " |"]
    lines.append("|---|" + "---|" * len(recoveries))
    for kind, by in result["weak"].items():
        shares = [" / ".join(interval(by[r][level]) for level in ("0.001", "1e-06")) for r in recoveries]
        lines.append(f"| {kind} | {' | '.join(shares)} |")
    lines += [
        "",
        "| decoder inversion, shrunk, against | found by it only / by the other only (McNemar, Holm) "
        "| decades of p (Wilcoxon, Holm) |",
        "|---|---|---|",
    ]
    for name, change in result["gain"].items():
        decades = (
            f"{change['decades, median']:.1f} (p = {change['Wilcoxon p, Holm']:.1g})"
            if "Wilcoxon p" in change
            else ""
        )
        lines.append(
            f"| {name.replace(' | ', ', ')} | {change['first only']} / {change['second only']} "
            f"({p_of(change, 'McNemar p')}) | {decades} |"
        )
    return "\n".join(lines)


def p_of(change: Json, name: str) -> str:
    """P by Holm, or of the comparison that matters as it is."""
    corrected = f"{name}, Holm"
    return f"p = {change[corrected]:.2g}" if corrected in change else f"**p = {change[name]:.2g}**, not corrected"

"""The figure and the tables of :mod:`benchmarks.detection`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from benchmarks.robustness_report import interval

Json = dict[str, Any]

SHOWN = ("rings", "tree-ring, angle", "tree-ring, L1")


def draw(result: Json, path: Path) -> None:
    """ROC curves of every test, by recovery, and p of marked pictures by recovery."""
    recoveries = list(result["curves"])
    figure = Figure(figsize=(14, 3.6), dpi=120, layout="constrained")
    axes_of = figure.subplots(1, len(SHOWN) + len(result["log10 p"]))
    left, right = axes_of[: len(SHOWN)], axes_of[len(SHOWN) :]
    colours = dict(zip(recoveries, ("#57606a", "#0969da", "#bf8700", "#cf222e", "#1a7f37", "#8250df"), strict=True))
    for axes, test in zip(left, SHOWN, strict=True):
        for recovery, colour in colours.items():
            points = result["curves"][recovery][test]
            axes.plot(points["false"], points["true"], color=colour, label=recovery)
        axes.set(xscale="log", ylim=(-0.03, 1.03), xlabel="false positives", title=test)
        axes.grid(alpha=0.3)
    left[0].set_ylabel("found")
    left[0].legend(fontsize=7, loc="lower right")
    for axes, (test, logs) in zip(right, result["log10 p"].items(), strict=True):
        for recovery, colour in colours.items():
            p = logs[recovery]
            axes.step(p, np.arange(1, len(p) + 1) / len(p), where="post", color=colour)
        axes.axvline(-6, color="0.6", lw=1)
        axes.set(xlabel="log10 p", title=f"{test}, share below")
        axes.grid(alpha=0.3)
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
            area = f"{cell['area']['value']:.4f} ({low:.4f} … {high:.4f})"
            lines.append(f"| {test}, {recovery} | {' | '.join((area, *at, *sure))} |")
    lines += [
        "",
        "| decoder inversion, shrunk, against | found by it only / by the other only, at p ≤ 1e-6 (McNemar, Holm) "
        "| decades of p (Wilcoxon, Holm) |",
    ]
    lines.append("|---|---|---|")
    for name, change in result["gain"].items():
        lines.append(
            f"| {name.replace(' | ', ', ')} | {change['first only']} / {change['second only']} "
            f"(p = {change['McNemar p, Holm']:.2g}) "
            f"| {change['decades, median']:.1f} (p = {change['Wilcoxon p, Holm']:.1g}) |"
        )
    return "\n".join(lines)

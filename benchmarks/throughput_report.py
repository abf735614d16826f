"""The figure and the table of :mod:`benchmarks.throughput`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure


def growth(samples: Sequence[Sequence[float]]) -> dict[str, float]:
    """Resident memory with a tenth of the images done and at the end, medians over a twentieth of the samples.

    Args:
        samples: (images done, MiB), in order of time.

    Returns:
        MiB; and by how much of the first the second is larger.
    """
    images, sizes = np.array(samples, dtype=float).T
    count = max(3, len(images) // 20)
    early, late = (
        float(np.median(sizes[np.argsort(abs(images - share * images.max()), kind="stable")[:count]]))
        for share in (0.1, 1)
    )
    return {"MiB early": early, "MiB late": late, "growth": late / early - 1}


def draw(result: dict[str, Any], path: Path) -> None:
    """Rates in turns, memory, and the cost of stages."""
    figure = Figure(figsize=(13, 4), dpi=120, layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    for name, rates in result["in turns"]["images a second"].items():
        left.plot(range(1, len(rates) + 1), rates, "o-", label=name)
    left.set(xlabel="turn", ylabel="images a second", title="The command and its networks", ylim=(0, None))
    left.legend()
    images, sizes = zip(*result["memory"]["samples"], strict=True)
    middle.plot(images, sizes)
    middle.set(xlabel="images done", ylabel="MiB", title="Resident memory, workers included", ylim=(0, None))
    names, costs = zip(*result["milliseconds an image"].items(), strict=True)
    bars = right.barh(names, costs)
    right.bar_label(bars, [f"{cost:.3g}" for cost in costs], padding=2)
    right.invert_yaxis()
    right.set(xlabel="ms an image", title="Each stage on its own", xscale="log")
    right.set_xlim(right=10 * max(costs))
    figure.savefig(path)


def readme_table(result: dict[str, Any]) -> str:
    """The result as tables in Markdown."""
    ratio, memory, costs = result["in turns"]["ratio"], result["memory"], result["milliseconds an image"]
    grown, total = memory["growth"], costs["decoder inversion"] + costs["diffusion inversion"]
    each = f"{min(ratio['all']):.1%} … {max(ratio['all']):.1%} in {len(ratio['all'])} turns"
    lines = [
        "| measured | |",
        "|---|---|",
        f"| speed of the command, of that of its networks alone | {ratio['median']:.1%} ({each}) |",
        f"| resident memory after a tenth of {memory['images']:,} images | {grown['MiB early']:,.0f} MiB |",
        f"| the same, after all of them | {grown['MiB late']:,.0f} MiB ({grown['growth']:+.1%}) |",
        f"| the same, at most | {memory['MiB at most']:,.0f} MiB |",
        "",
        "| stage, on its own | share of what the networks take |",
        "|---|---|",
    ]
    lines += [f"| {name} | {cost / total:.2%} |" for name, cost in costs.items()]
    return "\n".join(lines)

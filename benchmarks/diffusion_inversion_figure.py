"""The figure of :mod:`benchmarks.diffusion_inversion`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.diffusion_inversion_report import COLOURS, LEVEL, METHODS, means, without_prompt
from benchmarks.latents import GUIDANCE


def draw(result: dict[str, Any], path: Path) -> None:
    """Error against cost where all is known, evidence against cost where nothing is, and against guidance."""
    figure = Figure(figsize=(17, 4.8), dpi=120, layout="constrained")
    left, right, last = figure.subplots(1, 3)
    steps = sorted({int(key.split(" | ")[1]) for key in result["cells"]})

    def line(axes: Any, method: str, prompt: str, source: str, name: str, style: str) -> None:  # noqa: ANN401
        keys = [k for n in steps if (k := f"{method} | {n} | {prompt} | {source}") in result["cells"]]
        if keys:
            found = [means(result["cells"][k]) for k in keys]
            label = method if style == "-" else None
            at = [m["evaluations"] for m in found]
            axes.plot(at, [m[name] for m in found], style, marker="o", ms=4, color=COLOURS[method], label=label)

    for method in METHODS:
        line(left, method, "known", "truth", "nmse", "-")
        for source, style in (("decoder inversion", "-"), ("encoder", "--")):
            line(right, method, "unknown", source, "log10 p, median", style)
    left.set(
        xscale="log",
        xlabel="evaluations of the network",
        ylabel="error of the noise, NMSE in dB",
        title="True latent, prompt and guidance known",
    )
    right.plot([], [], "--", color="0.4", label="latent from the encoder alone")
    right.axhline(np.log10(LEVEL), color="0.6", lw=1)
    right.set(
        xscale="log",
        xlabel="evaluations of the network",
        ylabel="log10 p, median over marked pictures",
        title="Latent from the picture, prompt unknown",
    )
    draw_weaker(last, result)
    for axes in (left, right, last):
        axes.legend(fontsize=8)
        axes.grid(alpha=0.3)
    figure.savefig(path)


def draw_weaker(axes: Axes, result: dict[str, Any]) -> None:
    """Evidence of pictures made under the strongest guidance against that of inversion; dotted, no prompt."""
    made = max(GUIDANCE)
    for source, colour in (("truth", "#57606a"), ("decoder inversion", "#1a7f37"), ("encoder", "#cf222e")):
        found = result["weaker guidance"][f"made under {made:g} | {source}"]
        at = [means(cell)["log10 p, median"] for cell in found.values()]
        axes.plot([float(w) for w in found], at, marker="o", ms=4, color=colour, label=f"{source}, prompt known")
        without = without_prompt(result, source)
        if without is not None:
            level = means(without, made)["log10 p, median"]
            axes.axhline(level, color=colour, ls=":", label=f"{source}, no prompt")
    axes.set(
        xlabel="guidance of the inversion, 10 steps of midpoint",
        ylabel="log10 p, median over marked pictures",
        title=f"Pictures made under guidance {made:g}",
    )

"""The tables and the quoted numbers of :mod:`benchmarks.diffusion_inversion`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from benchmarks.latents import GUIDANCE
from benchmarks.record import rate

COLOURS = {
    "midpoint": "#1a7f37",
    "naive": "#57606a",
    "warm_start": "#0969da",
    "implicit": "#cf222e",
    "naive_next": "#bf8700",
}
METHODS = tuple(COLOURS)
LEVEL = 1e-6
FEW = {True: 4, False: 20}  # steps of the parts after the cells; quick or not


def column(cell: dict[str, Any], name: str, guidance: float | None = None) -> NDArray[np.float64]:
    """One number of every picture, of one guidance scale or of all."""
    found = cell["pictures"]
    chosen = [True if guidance is None else g == guidance for g in found["guidance"]]
    return np.array(found[name])[chosen]


def means(cell: dict[str, Any], guidance: float | None = None) -> dict[str, Any]:
    """Averages over pictures, and how many are found."""
    p = column(cell, "log10 p", guidance)
    return {
        "nmse": float(column(cell, "nmse", guidance).mean()),
        "nmse, worst": float(column(cell, "nmse", guidance).max()),
        "correlation": float(column(cell, "correlation", guidance).mean()),
        "rho": float(column(cell, "rho", guidance).mean()),
        "log10 p, median": float(np.median(p)),
        "found": rate(int((p <= np.log10(LEVEL)).sum()), len(p)),
        "evaluations": float(column(cell, "evaluations", guidance).mean()),
    }


def bars(result: dict[str, Any]) -> dict[str, Any]:
    """The numbers that the README quotes."""
    found = result["cells"]
    out: dict[str, Any] = {}
    for method in ("naive", "implicit"):
        key = f"{method} | 50 | known | truth"
        if key in found:
            out[f"{method}, 50 steps, known prompt, true latent"] = {
                f"{g:g}": means(found[key], g) for g in GUIDANCE
            }
    many = "naive | 50 | unknown | decoder inversion"
    for steps in (5, 10):
        few = f"midpoint | {steps} | unknown | decoder inversion"
        if few in found and many in found:
            out[f"{steps} steps of midpoint against 50 naive ones"] = paired(found[few], found[many])
    return out


def paired(few: dict[str, Any], many: dict[str, Any]) -> dict[str, Any]:
    """What few steps find and lose against many on the same pictures; decades of p with a bootstrap interval."""
    a, b = (column(cell, "log10 p") for cell in (few, many))
    level = np.log10(LEVEL)
    only_few, only_many = (int(((u <= level) & (v > level)).sum()) for u, v in ((a, b), (b, a)))
    chance = stats.bootstrap((a - b,), np.median, method="percentile", random_state=np.random.default_rng(0))
    return {
        "found by few only": only_few,
        "found by many only": only_many,
        "McNemar p": float(stats.binomtest(only_few, max(only_few + only_many, 1)).pvalue),
        "decades of p lost, median": float(np.median(a - b)),
        "ci95": [float(end) for end in chance.confidence_interval],
        "Wilcoxon p": float(stats.wilcoxon(a, b).pvalue),
        "rho gained, mean": float((column(few, "rho") - column(many, "rho")).mean()),
    }


def readme_table(result: dict[str, Any]) -> str:
    """The two tables that the README shows, in Markdown."""
    lines = heading("true latent, prompt and guidance known", "steps", "evaluations a step")
    for method in METHODS:
        for steps in (10, 50):
            cell = result["cells"].get(f"{method} | {steps} | known | truth")
            if cell is not None:
                each = [means(cell, g) for g in GUIDANCE]
                lines.append(f"| `{method}` | {steps} | {errors(each, steps)} |")
    lines += [
        "",
        "| latent from the picture | steps | evaluations | found at p ≤ 1e-6 | median p | mean ρ "
        "| with the prompt: found | median p | mean ρ |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for source in ("encoder", "decoder inversion"):
        for method in METHODS:
            for steps in (5, 10, 50):
                found = [result["cells"].get(f"{method} | {steps} | {p} | {source}") for p in ("unknown", "known")]
                if found[0] is not None:
                    spent = means(found[0])["evaluations"]
                    row = " | ".join(evidence(cell) for cell in found)
                    lines.append(f"| {source}, `{method}` | {steps} | {spent:.0f} | {row} |")
    return "\n".join(lines)


def heading(*columns: str) -> list[str]:
    """The head of a table with a column for each guidance scale at its end."""
    every = [*columns, *(f"guidance {g:g}" for g in GUIDANCE)]
    return [f"| {' | '.join(every)} |", "|---" * len(every) + "|"]


def errors(each: list[dict[str, Any]], steps: int) -> str:
    """Evaluations a step, and the mean error and the worst at each guidance scale: cells of a table."""
    found = (f"{m['nmse']:.1f} dB (worst {m['nmse, worst']:.1f})".replace("-", "−") for m in each)
    return " | ".join([evaluations(each, steps), *found])


def evaluations(each: list[dict[str, Any]], steps: int) -> str:
    """Evaluations a step, over all guidance scales: a cell of a table."""
    return f"{sum(m['evaluations'] for m in each) / len(each) / steps:.1f}"


def evidence(cell: dict[str, Any] | None) -> str:
    """How many pictures are found, the median p and the mean correlation: three cells of a table."""
    if cell is None:
        return "– | – | –"
    m = means(cell)
    return f"{m['found']['hits']} of {m['found']['trials']} | {median_p(cell)} | {m['rho']:.2f}"


def exact_table(result: dict[str, Any]) -> str:
    """Exact inversion by ours and by the published methods, of DDIM and of DPM-Solver++(2M)."""
    lines = heading("sampler, true latent, prompt and guidance known", "evaluations a step")
    settings = result["settings"]
    made_with, few = settings["steps of generation"], FEW[settings["quick"]]
    for part, sampler, steps in (("exact", "DDIM", made_with), ("second order", "DPM-Solver++(2M)", few)):
        for method, found in result.get(part, {}).items():
            each = [found[f"{g:g}"] for g in GUIDANCE]
            both = " | ".join(f"{m['nmse']:.1f} / {m['nmse of the latent']:.1f} dB" for m in each).replace("-", "−")
            lines.append(f"| {sampler}, {steps} steps: `{method}` | {evaluations(each, steps)} | {both} |")
    return "\n".join(lines)


def weaker_table(result: dict[str, Any]) -> str:
    """The median p of pictures made under guidance, inverted with no prompt, and with it under less guidance."""
    parts = result["weaker guidance"]
    scales = list(dict.fromkeys(w for found in parts.values() for w in found))
    lines = [
        f"| made under guidance, latent | no prompt | {' | '.join(f'prompt, guidance {w}' for w in scales)} |",
        "|---" * (len(scales) + 2) + "|",
    ]
    for key, found in parts.items():
        made, source = key.removeprefix("made under ").split(" | ")
        without = without_prompt(result, source)
        each = [median_p(without, float(made)), *(median_p(found.get(w)) for w in scales)]
        lines.append(f"| {made}, {source} | {' | '.join(each)} |")
    return "\n".join(lines)


def without_prompt(result: dict[str, Any], source: str) -> dict[str, Any] | None:
    """What the inversions of "weaker guidance" are compared with; a quick run has other steps."""
    cell: dict[str, Any] | None = result["cells"].get(f"midpoint | 10 | unknown | {source}")
    return cell


def median_p(cell: dict[str, Any] | None, guidance: float | None = None) -> str:
    """The median p: a cell of a table."""
    return "–" if cell is None else f"{10 ** means(cell, guidance)['log10 p, median']:.0e}"

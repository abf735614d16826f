"""What :mod:`benchmarks.decoder_inversion` measured, as ratios, a figure, and the table of the README."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy import stats

from inversion.decoder import STEPS

DEFAULT = "**Anderson (default of `invert_decoder`)**"


def bars(result: dict[str, Any]) -> dict[str, Any]:
    """The ratios that the README quotes."""
    runs, cost = result["runs"], {k: v["cost"] for k, v in result["costs"].items()}
    curves = {d: runs[f"{d} | anderson | 50"]["nmse"] for d in ("fp32", "bf16")}
    end = {dtype: found["anderson"]["nmse"] for dtype, found in result["defaults"].items()}
    spent_by_default = result["defaults"]["fp32"]["anderson"]["evaluations, mean"] * cost["fp32 anderson"]

    def evaluations(dtype: str, level: float) -> int | None:
        return next((k + 1 for k, v in enumerate(curves[dtype]) if v <= level), None)

    def times_faster(dtype: str, level: float, spent: float) -> float | None:
        needed = evaluations(dtype, level)
        return None if needed is None else spent / (needed * cost[f"{dtype} anderson"])

    out: dict[str, Any] = {
        "default": end,
        "bf16 loses": end["bf16"] - end["fp32"],
        "bf16 speed": cost["fp32 anderson"] / cost["bf16 anderson"],
    }
    for name in ("gradient", "gradient, D clamped"):
        if f"fp32 | {name} | 100" not in runs:
            continue
        curve = runs[f"fp32 | {name} | 100"]["nmse"]
        level, meets = curve[-1], next((k for k, v in enumerate(curve) if v <= end["fp32"]), None)
        spent = 100 * cost["fp32 gradient"]
        out[f"{name}, 100 iterations"] = {
            "nmse": level,
            "evaluations of Anderson, not stopped, to reach it": evaluations("fp32", level),
            "times faster": times_faster("fp32", level, spent),
            "times faster, default in bf16": times_faster("bf16", level, spent),
            "default below it by": level - end["fp32"],
            "iterations until it meets the default": meets,
            "default cheaper at that error, times": None
            if meets is None
            else meets * cost["fp32 gradient"] / spent_by_default,
        }
    published = {k: v["nmse"] for k, v in runs.items() if k.startswith("fp32 | adam")}
    best, name = min((min(curve), key) for key, curve in published.items())
    out["adam, best of all its iterates"] = {
        "nmse": best,
        "run": name,
        "evaluations": published[name].index(best) + 1,
        "evaluations of Anderson, not stopped, to reach it": evaluations("fp32", best),
        "default below it by": best - end["fp32"],
        "Anderson, not stopped, after 50 iterations below it by": best - curves["fp32"][-1],
    }
    ours = np.array(result["defaults"]["fp32"]["shrinkage"]["pictures"])
    for name in ("adam", "gradient", "gradient, D clamped"):
        if f"fp32 | {name} | 100" in runs:
            theirs = np.array(runs[f"fp32 | {name} | 100"]["pictures"])
            out[f"default of verification against {name}, 100 iterations"] = against(ours, theirs)
    return out


def against(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> dict[str, Any]:
    """By how many dB one method is nearer than another on the same pictures (n,), and on how many of them."""
    gain = theirs - ours
    interval = stats.bootstrap((gain,), np.mean, random_state=np.random.default_rng(0)).confidence_interval
    return {
        "gain, dB": float(gain.mean()),
        "ci95": [float(interval.low), float(interval.high)],
        "nearer": int((gain > 0).sum()),
        "of": len(gain),
    }


def draw(result: dict[str, Any], path: Path) -> None:
    """NMSE against cost, and the gain over the encoder on every picture of the survey."""
    figure = Figure(figsize=(12, 4.8), dpi=120, layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    cost = {k: v["cost"] for k, v in result["costs"].items()}
    colours = {
        "anderson": "#1a7f37",
        "adam": "#bf8700",
        "gradient": "#cf222e",
        "gradient, D clamped": "#fa8c7d",
        "forward step, ρ = 0.5": "#0969da",
        "inertial KM, α = 0.3": "#8250df",
    }
    for key, run in result["runs"].items():
        dtype, name, steps = key.split(" | ")
        own = [other for other in result["runs"] if other.startswith(f"{dtype} | {name} |")]
        longest = max(int(other.rpartition(" | ")[2]) for other in own)
        scheduled = name.startswith(("adam", "gradient"))  # whose rates depend on the number of iterations
        if name not in colours or int(steps) != (100 if scheduled else longest):
            continue
        part = "gradient" if name.startswith("gradient") else ("anderson" if name == "anderson" else "evaluation")
        curve = run["nmse"]
        at = (np.arange(len(curve)) + 1) * cost[f"{dtype} {part}"]
        style = "-" if dtype == "fp32" else ":"
        label = {"anderson": "Anderson, not stopped", "adam": "Adam on T (Hong et al.)"}.get(name, name)
        left.plot(
            at, curve, style, color=colours[name], label=f"{label}, {dtype}", lw=2.2 if name == "anderson" else 1.3
        )
    for dtype, found in result["defaults"].items():
        at = found["anderson"]["evaluations, mean"] * cost[f"{dtype} anderson"]
        left.plot(at, found["anderson"]["nmse"], "*", color=colours["anderson"], ms=11, mec="black", mew=0.6)
    left.plot([], [], "*", color=colours["anderson"], mec="black", label="where the default stops, on average")
    left.set(
        xscale="log",
        xlabel="cost, in evaluations of E∘D in float32",
        ylabel="error of the latent, NMSE in dB",
        title="Lower and further left is better",
    )
    left.legend(fontsize=7)
    left.grid(alpha=0.3)
    if "survey" in result:
        gain = np.array(result["survey"]["gain"])
        right.hist(gain, bins=40, color="#1a7f37", alpha=0.8)
        right.axvline(0, color="#cf222e", lw=1)
        share = result["survey"]["better"]
        right.set(
            xlabel="gain of the default over the encoder, dB",
            ylabel="pictures",
            title=f"better on {share['hits']} of {share['trials']} generated pictures",
        )
    figure.savefig(path)


def readme_table(result: dict[str, Any]) -> str:
    """The table that the README shows, in Markdown."""
    cost = {k: v["cost"] for k, v in result["costs"].items()}
    memory = result["memory"]
    lines = [
        "| method | iterations | NMSE of z, fp32 | NMSE of z, bf16 | cost, fp32 | peak memory, fp32 |",
        "|---|---|---|---|---|---|",
    ]
    encoder = [decibels(result["runs"][f"{dtype} | anderson | 50"]["nmse"][0]) for dtype in ("fp32", "bf16")]
    lines.append(f"| encoder only | 0 | {encoder[0]} | {encoder[1]} | 0 |  |")
    for title, method in ((DEFAULT, "anderson"), ("the same, shrunk (default of verification)", "shrinkage")):
        cells = [decibels(result["defaults"][dtype][method]["nmse"]) for dtype in ("fp32", "bf16")]
        spent = result["defaults"]["fp32"][method]["evaluations, mean"] * cost["fp32 anderson"]
        used = multiple(memory["fp32"]["anderson, default steps"]) if method == "anderson" else ""
        lines.append(f"| {title} | {STEPS[method]} at most | {cells[0]} | {cells[1]} | {spent:.0f} | {used} |")
    rows: list[tuple[str, str, int, int, str, str]] = [
        *((f"Anderson, not stopped before {n}", "anderson", 50, n, "anderson", "") for n in (4, 12, 50)),
        ("forward step (Theorem 1), ρ = ½", "forward step, ρ = 0.5", 50, 50, "evaluation", ""),
        ("inertial KM (Theorem 2), α = .3", "inertial KM, α = 0.3", 50, 50, "evaluation", ""),
        ("Adam on T (published)", "adam", 100, 100, "evaluation", "adam"),
        ("gradient descent (published)", "gradient", 100, 100, "gradient", "gradient"),
        ("gradient descent, D clamped", "gradient, D clamped", 100, 100, "gradient", "gradient"),
    ]
    for title, name, steps, at, part, peak in rows:
        if f"fp32 | {name} | {steps}" not in result["runs"]:
            continue
        found = [result["runs"].get(f"{dtype} | {name} | {steps}") for dtype in ("fp32", "bf16")]
        cells = [decibels(run["nmse"][min(at, len(run["nmse"]) - 1)]) if run else "–" for run in found]
        spent = (at + (part == "anderson")) * cost[f"fp32 {part}"]
        used = multiple(memory["fp32"][peak]) if peak else ""
        lines.append(f"| {title} | {at} | {cells[0]} | {cells[1]} | {spent:.0f} | {used} |")
    return "\n".join(lines)


def decibels(value: float) -> str:
    """An error in words."""
    return f"{value:.1f} dB".replace("-", "−")


def multiple(peak: dict[str, float]) -> str:
    """A peak of memory in words."""
    return f"{peak['of one decode']:.2f} × a decode"


def runs_table(result: dict[str, Any]) -> str:
    """Every run's last iterate, and the best one that its path passes, in Markdown."""
    runs = result["runs"]
    names = list(dict.fromkeys(key.split(" | ")[1] for key in runs))
    counts = sorted({int(key.split(" | ")[2]) for key in runs})
    lines = [
        "| last iterate (best on the way) | " + " | ".join(f"{n} iterations" for n in counts) + " |",
        "|---|" + "---|" * len(counts),
    ]
    for name in names:
        for dtype in ("fp32", "bf16"):
            found = [runs.get(f"{dtype} | {name} | {n}") for n in counts]
            if any(found):
                curves = [run and run["nmse"] for run in found]
                cells = [f"{c[-1]:.1f} ({min(c):.1f}) dB".replace("-", "−") if c else "" for c in curves]
                lines.append(f"| {name}, {dtype} | {' | '.join(cells)} |")
    return "\n".join(lines)

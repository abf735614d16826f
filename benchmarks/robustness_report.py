"""The figure and the tables of :mod:`benchmarks.robustness`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

Json = dict[str, Any]

PUBLISHED = {
    "rotation 75°": 0.13,
    "crop 0.75": 0.09,
    "blur 2": 0.55,
    "noise 0.1": 0.73,
    "JPEG 25": 0.70,
    "regeneration 0.2": 0.26,
    "autoencoder": 0.70,
    "adversarial 4/255": 0.26,
}
"""TPR of tree-ring at 0.1 % FPR in WAVES (https://arxiv.org/abs/2401.08573), Stable Diffusion 2.1, averaged over
the strengths there, which are not those here."""
BLUR = "blur of half the radius"
PUBLISHED_AREA = 0.975
"""AUC of tree-ring's rings on average over the six attacks, Stable Diffusion 2, as published by Wen et al. 2023."""
SHORT = {"encoder": "encoder", "decoder inversion": "decoder inv.", "decoder inversion, shrunk": "shrunk"}
FIRST, _, LAST = SHORT
OURS, WIDE, L1 = "dense, searched", "dense, wide search", "tree-ring, L1"
COLUMNS = [(OURS, FIRST), (OURS, LAST), (WIDE, LAST), (L1, FIRST), (L1, LAST)]
NAMES = {OURS: "ours", WIDE: "ours, wide search", L1: L1}


def draw(result: Json, path: Path) -> None:
    """What is found at a rate of 1e-3, by attack, for both marks; and p of our keys by recovery."""
    conditions = list(result["cells"])
    figure = Figure(figsize=(13, 1.6 + 0.28 * len(conditions)), dpi=120, layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    styles = zip(COLUMNS, ("#8ec99b", "#1a7f37", "#0969da", "#f2a7ac", "#cf222e"), strict=True)
    for k, ((test, recovery), colour) in enumerate(styles):
        cells = [at_level(result["cells"][c][recovery][test], "0.001") for c in conditions]
        at = np.arange(len(conditions)) + 0.16 * (k - 2)
        rates = np.array([np.nan if cell is None else cell["rate"] for cell in cells])
        ends = np.array([[np.nan] * 2 if cell is None else cell["ci95"] for cell in cells]).T
        name = f"{NAMES[test]}, {SHORT[recovery]}"
        left.errorbar(rates, at, xerr=np.abs(ends - rates), fmt="o", ms=3.5, lw=1, color=colour, label=name)
    left.set_yticks(range(len(conditions)), conditions, fontsize=8)
    left.set_ylim(len(conditions) - 0.4, -0.6)
    left.set(
        xlim=(-0.03, 1.03),
        xlabel="found: ours at p ≤ 1e-3, L1 at the threshold of 0.1 % of negatives",
        title="95 % intervals",
    )
    left.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.4, -0.05), ncols=2)
    for recovery, colour, marker in zip(SHORT, ("#57606a", "#0969da", "#1a7f37"), "s^o", strict=True):
        logs = [np.log10(result["cells"][c][recovery]["dense"]["median p"]) for c in conditions]
        right.plot(logs, range(len(conditions)), marker, ms=5, alpha=0.8, color=colour, label=SHORT[recovery])
    right.axvline(-6, color="0.6", lw=1)
    right.invert_xaxis()
    right.set(xlabel="median log10 p of our keys, as it is", title="By how the latent is recovered")
    right.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.05), ncols=3)
    for axes in (left, right):
        axes.grid(alpha=0.3)
    figure.savefig(path)


def tests_of(result: Json) -> list[str]:
    """The tests, in order."""
    first: Json = next(iter(result["cells"].values()))
    return list(next(iter(first.values())))


def at_level(cell: Json, level: str) -> Json | None:
    """What is found at a level: by p where it is exact, else at the empirical threshold; None if it is unknown."""
    found: Json | None = cell["at p"][level] if "at p" in cell else cell["at rate"][level]
    return found


def readme_table(result: Json) -> str:
    """Detection by attack, averages, and forgeries, in Markdown."""
    names = [f"{NAMES[test]}, {SHORT[r]}" for test, r in COLUMNS]
    lines = [
        "| found; of ours at p ≤ 1e-3 / 1e-6, of L1 at 0.1 % false positives | "
        + " | ".join(names)
        + " | AUC of shrunk, ours / wide search / L1 | tree-ring in WAVES, other model and strengths |",
        "|---|" + "---|" * (len(COLUMNS) + 2),
    ]
    for condition, cell in result["cells"].items():
        found = [at_levels(cell[r][test]) for test, r in COLUMNS]
        areas = " / ".join(f"{cell[LAST][t]['area']['value']:.3f}" for t in NAMES)
        published = f"{PUBLISHED[condition]:.2f}" if condition in PUBLISHED else ""
        lines.append(f"| {condition} | {' | '.join(found)} | {areas} | {published} |")
    lines += ["", *recoveries(result)]
    over, worst_of = "found, clean → average over attacks", f"worst of {len(result['cells'])} conditions"
    head = f"| shrunk, at p ≤ | {over} | false positives, clean | {worst_of} | other keys |"
    lines += ["", head, "|---|---|---|---|---|"]
    for test in [t for t in tests_of(result) if "dense" in t]:
        for level in ("0.01", "0.001", "1e-06"):
            cells = {c: cell[LAST][test]["at p"][level] for c, cell in result["cells"].items()}
            mean = np.mean([cell["rate"] for c, cell in cells.items() if c != "clean"])
            worst = max(cells, key=lambda c: cells[c]["false"]["rate"])
            lines.append(
                f"| {test}, {level} | {cells['clean']['rate']:.2f} → {mean:.2f} "
                f"| {small(cells['clean']['false'])} | {small(cells[worst]['false'])}, {worst} "
                f"| {cells['clean']['other keys']:.1e} |"
            )
    lines += averages(result)
    if result["forgeries"]:
        lines += [
            "",
            "| forgeries taken for marked | ours, p ≤ 1e-2 | p ≤ 1e-3 | p ≤ 1e-6 | tree-ring, L1, 1 % | 0.1 % |",
        ]
        lines.append("|---|---|---|---|---|---|")
        for condition, both in result["forgeries"].items():
            for recovery, of in both.items():
                hits = [f"{r['hits']} of {r['trials']}" for each in of.values() for r in each.values()]
                lines.append(f"| {condition}, {recovery} | {' | '.join(hits)} |")
    return "\n".join(lines)


def recoveries(result: Json) -> list[str]:
    """The table of p by recovery, in the default search."""
    names = " | ".join(SHORT.values())
    lines = [
        f"| median p of ours, default search | {names} "
        "| shrunk against encoder: found more (less) at p ≤ 1e-3; decades of p (Wilcoxon, Holm) "
        "| the same against decoder inv. |",
        "|---|" + "---|" * (len(SHORT) + 2),
    ]
    for condition, gain in result["gain"].items():
        p = [f"{result['cells'][condition][r][OURS]['median p']:.0e}" for r in SHORT]
        change = [
            f"{of['first only']} ({of['second only']}); {of['decades, median']:+.1f} "
            f"(p = {of['Wilcoxon p, Holm']:.1g})"
            for of in gain.values()
        ]
        lines.append(f"| {condition} | {' | '.join([*p, *change])} |")
    return lines


def averages(result: Json) -> list[str]:
    """The table of averages over attacks."""
    lines = [
        "",
        f"| average over attacks | test | at the threshold of 1 %, {' → '.join(SHORT.values())} | at 0.1 % "
        "| shrunk against encoder, at 0.1 % | against decoder inv. | AUC |",
        "|---|---|---|---|---|---|---|",
    ]
    counts = {"all attacks": len(result["cells"]) - 1, "six attacks": 6}
    for label, tests in result["averages"].items():
        for test, of in tests.items():
            each = [of[recovery] for recovery in SHORT]
            columns = [
                " → ".join(interval(cell[name]) for cell in each)
                for name in ("at rate 0.01", "at rate 0.001", "area")
            ]
            columns[2:2] = [difference(gain) for gain in of["gain"].values()]
            lines.append(f"| {label} ({counts[label]}) | {test} | {' | '.join(columns)} |")
    lines.append(
        f"| six attacks | tree-ring, as published for Stable Diffusion 2, {BLUR} | | | | | {PUBLISHED_AREA} |"
    )
    return lines


def difference(gain: Json) -> str:
    """A difference of rates with its interval."""
    low, high = gain["ci95"]
    return f"{gain['difference']:+.3f} ({low:+.3f} … {high:+.3f})"


def at_levels(cell: Json) -> str:
    """What is found at 0.1 %; where p is exact, by p, and at the level of a verdict beside it."""
    found = interval(at_level(cell, "0.001"))
    return f"{found} / {cell['at p']['1e-06']['rate']:.2f}" if "at p" in cell else found


def p_text(p: float) -> str:
    """A p from resamplings, whose far tail they do not know."""
    return "< 1e-4" if p < 1e-4 else f"{p:.1g}"


def small(cell: Json) -> str:
    """A small rate with its interval."""
    low, high = cell["ci95"]
    return f"{cell['rate']:.1e} ({low:.1e} … {high:.1e})"


def interval(cell: Json | None) -> str:
    """A rate or mean with its interval."""
    if cell is None:
        return "–"
    low, high = cell["ci95"]
    return f"{cell['rate'] if 'rate' in cell else cell['mean']:.3f} ({low:.3f} … {high:.3f})"

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
SHORT = {"encoder": "encoder", "decoder inversion": "decoder inv."}
OURS, WIDE, L1 = "dense, searched", "dense, wide search", "tree-ring, L1"
COLUMNS = [
    *((OURS, "encoder"), (OURS, "decoder inversion"), (WIDE, "decoder inversion")),
    *((L1, "encoder"), (L1, "decoder inversion")),
]
NAMES = {OURS: "ours", WIDE: "ours, wide search", L1: L1}


def draw(result: Json, path: Path) -> None:
    """What is found at a rate of 1e-3, by attack, for both marks and both recoveries; and as a matrix."""
    conditions = list(result["cells"])
    figure = Figure(figsize=(13, 1.6 + 0.28 * len(conditions)), dpi=120, layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.3, 1))
    styles = zip(COLUMNS, ("#8ec99b", "#1a7f37", "#0969da", "#f2a7ac", "#cf222e"), strict=True)
    for k, ((test, recovery), colour) in enumerate(styles):
        cells = [at_level(result["cells"][c][recovery][test], "0.001") for c in conditions]
        at = np.arange(len(conditions)) + 0.16 * (k - 2)
        rates = np.array([np.nan if cell is None else cell["rate"] for cell in cells])
        ends = np.array([[np.nan] * 2 if cell is None else cell["ci95"] for cell in cells]).T
        left.errorbar(
            rates,
            at,
            xerr=np.abs(ends - rates),
            fmt="o",
            ms=3.5,
            lw=1,
            color=colour,
            label=f"{test}, {recovery}",
        )
    left.set_yticks(range(len(conditions)), conditions, fontsize=8)
    left.invert_yaxis()
    left.set(xlim=(-0.03, 1.03), xlabel="found at 0.1 % false positives", title="95 % intervals")
    left.grid(alpha=0.3)
    figure.legend(fontsize=8, loc="outside lower left", ncols=2)
    names = [(test, r) for test in tests_of(result) for r in SHORT]
    areas = [[result["cells"][c][r][test]["area"]["value"] for test, r in names] for c in conditions]
    right.imshow(areas, cmap="RdYlGn", vmin=0.5, vmax=1, aspect="auto")
    for i, row in enumerate(areas):
        for j, value in enumerate(row):
            right.text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=6)
    right.set_xticks(range(len(names)), [f"{t}\n{SHORT[r]}" for t, r in names], rotation=60, fontsize=7)
    right.set_yticks([])
    right.set_title("Area under the ROC curve")
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
        "| found at 0.1 % false positives; of ours by p / at the threshold | "
        + " | ".join(names)
        + " | gained of ours (lost), p by Holm | AUC, ours / wide search / L1 | WAVES |",
        "|---|" + "---|" * (len(COLUMNS) + 3),
    ]
    for condition, cell in result["cells"].items():
        found = [by_p_and_threshold(cell[r][test]) for test, r in COLUMNS]
        gain = result["gain"][condition]
        change = f"{gain['first only']} ({gain['second only']}), {gain['Holm p']:.1g}"
        areas = " / ".join(f"{cell['decoder inversion'][t]['area']['value']:.3f}" for t in NAMES)
        published = f"{PUBLISHED[condition]:.2f}" if condition in PUBLISHED else ""
        lines.append(f"| {condition} | {' | '.join(found)} | {change} | {areas} | {published} |")
    worst_of = f"worst of {len(result['cells'])} conditions"
    head = f"| at p ≤ | found, clean → average over attacks | false positives, clean | {worst_of} | other keys |"
    lines += ["", head, "|---|---|---|---|---|"]
    for test in [t for t in tests_of(result) if "dense" in t]:
        for level in ("0.01", "0.001", "1e-06"):
            cells = {c: cell["decoder inversion"][test]["at p"][level] for c, cell in result["cells"].items()}
            mean = np.mean([cell["rate"] for c, cell in cells.items() if c != "clean"])
            worst = max(cells, key=lambda c: cells[c]["false"]["rate"])
            lines.append(
                f"| {test}, {level} | {cells['clean']['rate']:.2f} → {mean:.2f} "
                f"| {small(cells['clean']['false'])} | {small(cells[worst]['false'])}, {worst} "
                f"| {cells['clean']['other keys']:.1e} |"
            )
    lines += averages(result)
    if result["forgeries"]:
        lines += ["", "| forgeries taken for marked | p ≤ 1e-2 | p ≤ 1e-3 | p ≤ 1e-6 | L1, 1 % | L1, 0.1 % |"]
        lines.append("|---|---|---|---|---|---|")
        for condition, both in result["forgeries"].items():
            for recovery, of in both.items():
                hits = [f"{r['hits']} of {r['trials']}" for each in of.values() for r in each.values()]
                lines.append(f"| {condition}, {recovery} | {' | '.join(hits)} |")
    return "\n".join(lines)


def averages(result: Json) -> list[str]:
    """The table of averages over attacks."""
    lines = [
        "",
        "| average over attacks | test | at 1 %, encoder → decoder inversion | at 0.1 % | gained at 0.1 % | AUC |",
        "|---|---|---|---|---|---|",
    ]
    for label, tests in result["averages"].items():
        for test, of in tests.items():
            both = [of[recovery] for recovery in SHORT]
            columns = [
                " → ".join(interval(each[name]) for each in both)
                for name in ("at rate 0.01", "at rate 0.001", "area")
            ]
            low, high = of["gain"]["ci95"]
            columns.insert(2, f"{of['gain']['difference']:+.3f} ({low:+.3f} … {high:+.3f})")
            lines.append(f"| {label} | {test} | {' | '.join(columns)} |")
    lines.append(
        f"| six attacks | tree-ring, as published for Stable Diffusion 2, {BLUR} | | | | {PUBLISHED_AREA} |"
    )
    return lines


def by_p_and_threshold(cell: Json) -> str:
    """What is found at 0.1 %; where p is exact, by p and at the empirical threshold."""
    found = interval(at_level(cell, "0.001"))
    if "at p" in cell:
        beside = cell["at rate"]["0.001"]
        found += " / –" if beside is None else f" / {beside['rate']:.2f}"
    return found


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

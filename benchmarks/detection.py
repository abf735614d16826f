"""Is there a mark? ROC curves on clean pictures, by how the latent is recovered and by what is tested.

    python -m benchmarks.detection            100 pictures of each kind, an hour on a core; resumes
    python -m benchmarks.detection --quick    2 of each, few iterations; under a minute

The pictures, marks and negatives are those of :mod:`benchmarks.robustness`, and pictures with keys of ``rings``,
whose p has less room; noise that is kept there is taken from there. The latent comes from the encoder alone, from
methods of Hong et al. 2024 (https://arxiv.org/abs/2409.18442: the forward step of Theorem 1 with step ½, Adam, and
gradient descent through the decoder, 100 iterations each), or from our decoder inversion, all the way or shrunk.
The rest of the way to the noise is the same, without prompt or key.

Rates of false positives are averaged over the secret choice of the key: every negative is tried with many keys.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray
from scipy import stats

from benchmarks.detection_report import draw, readme_table
from benchmarks.rates import tidy
from benchmarks.record import RESULTS, write
from benchmarks.robustness import FULL, QUICK, scores_of
from benchmarks.robustness_noise import ENCODER, OURS, PUBLISHED, WHOLE, Cell, recovered
from benchmarks.robustness_pictures import KINDS, RINGS, load
from benchmarks.scores import TREE_RING, VERDICT, Scores, curve, measure, outcome, paired
from watermark.search import holm

Json = dict[str, Any]

RECOVERIES = (ENCODER, *PUBLISHED, WHOLE, OURS)
OUR_TESTS = ("dense", "dense, searched", "rings")
TESTS = (*OUR_TESTS, *TREE_RING)
CELLS: list[Cell] = [(kind, "clean", recovery) for kind in (*KINDS, RINGS) for recovery in RECOVERIES]


def analyse(noise: dict[Cell, NDArray[np.float16]], keys: int) -> Json:
    """Rates, areas and curves of every recovery and test, and what ours gains."""
    found = {(r, t): scores_of(noise, t, "clean", r, keys) for r in RECOVERIES for t in TESTS}
    cells: Json = {r: {} for r in RECOVERIES}
    curves: Json = {r: {} for r in RECOVERIES}
    for (recovery, test), s in found.items():
        cells[recovery][test] = measure(outcome(s), test in OUR_TESTS)
        curves[recovery][test] = curve(s)
    change = {
        f"{test} | {recovery}": gain(found[OURS, test], found[recovery, test])
        for test in OUR_TESTS
        for recovery in RECOVERIES[:-1]
    }
    for name in ("McNemar p", "Wilcoxon p"):
        adjusted = holm(np.array([cell[name] for cell in change.values()])).tolist()
        for cell, p in zip(change.values(), adjusted, strict=True):
            cell[f"{name}, Holm"] = tidy(p)
    logs = {test: {r: tidy(np.sort(np.log10(found[r, test].own))) for r in RECOVERIES} for test in ("dense", RINGS)}
    return {"cells": cells, "curves": curves, "gain": change, "log10 p": logs}


def gain(ours: Scores, other: Scores) -> Json:
    """At the level of a verdict, and in decades of p; Wilcoxon's test over pictures."""
    decades = np.log10(other.own) - np.log10(ours.own)
    p = stats.wilcoxon(decades).pvalue if np.any(decades) else 1.0
    return paired(ours.own <= VERDICT, other.own <= VERDICT) | {
        "decades, median": tidy(np.median(decades)),
        "Wilcoxon p": tidy(p),
    }


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--quick", is_flag=True, help="2 pictures of each kind, few iterations.")
@click.option("--model", "name", default="sapling", show_default=True, help="A diffusers folder or a hub id.")
@click.option("--dtype", default="bf16", show_default=True, help="Of the diffusion network.")
@click.option("-o", "--output", type=click.Path(file_okay=False, path_type=Path), default=RESULTS)
def main(quick: bool, name: str, dtype: str, output: Path) -> None:
    """Measure detection in clean pictures."""
    run = QUICK if quick else FULL
    model = load(name, dtype)
    noise = recovered(model, run, CELLS, output, "detection")
    result = {"settings": run.settings(model) | {"keys": run.keys}} | analyse(noise, run.keys)
    path = write("detection", result, output)
    draw(result, path.with_suffix(".png"))
    click.echo(readme_table(result))
    click.echo(f"wrote {path} and {path.with_suffix('.png')}")


if __name__ == "__main__":
    main()

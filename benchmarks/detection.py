"""Is there a mark in a clean picture? By how the latent is recovered, and by what is tested.

    python -m benchmarks.detection            100 pictures of each kind, three hours on a core; resumes
    python -m benchmarks.detection --quick    2 of each, few iterations; under a minute

The pictures, marks and negatives are those of :mod:`benchmarks.robustness`, whose noise is used where it is kept.
Nearly all of them are found by every method, so that harder cases are added: keys of ``rings``, whose p has less
room, and weak marks, of which the latent decides how many are found. The latent comes from the encoder alone, from
methods of Hong et al. 2024 (https://arxiv.org/abs/2409.18442: Adam on T, and gradient descent through the decoder,
100 iterations each), or from our decoder inversion, all the way or shrunk. The rest of the way to the noise is the
same, without prompt or key.

Rates of false positives are averaged over the secret choice of the key: every negative is tried with many keys.
Noise is not whitened. Ways to recover the latent are compared on the same pictures: by what is found at the level
of a verdict, or, for tests without a p that holds, at the threshold of one in a thousand; and where there is a p,
by its decades. The comparison that matters is that of our default with the encoder in what is found of weak marks
of ρ = 0.2; all other p are corrected by Holm's procedure.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from benchmarks.detection_report import draw, readme_table
from benchmarks.rates import tidy
from benchmarks.record import RESULTS, rate, write
from benchmarks.robustness import FULL, QUICK, gained, scores_of
from benchmarks.robustness_noise import ENCODER, OURS, PUBLISHED, WHOLE, Cell, recovered
from benchmarks.robustness_pictures import KINDS, RINGS, WEAK, load, own_number
from benchmarks.scores import LEVELS, TREE_RING, VERDICT, Outcome, curve, measure, misfits, outcome, paired
from watermark.search import holm

Json = dict[str, Any]

RECOVERIES = (ENCODER, *PUBLISHED, WHOLE, OURS)
OUR_TESTS = ("dense", "dense, searched", "rings")
TESTS = (*OUR_TESTS, *TREE_RING)
PRIMARY = f"dense, ρ = 0.2 | {ENCODER}"
"""Which comparison matters; by what is found at the level of a verdict."""
CELLS: list[Cell] = [(kind, "clean", recovery) for kind in (*KINDS, RINGS, *WEAK) for recovery in RECOVERIES]


def analyse(noise: dict[Cell, NDArray[np.float16]], keys: int) -> Json:
    """Rates, areas and curves of every recovery and test, and what ours gains."""
    found = {(r, t): outcome(scores_of(noise, t, "clean", r, keys)) for r in RECOVERIES for t in TESTS}
    cells: Json = {r: {} for r in RECOVERIES}
    curves: Json = {r: {} for r in RECOVERIES}
    for (recovery, test), one in found.items():
        cells[recovery][test] = measure(one, test in OUR_TESTS)
        curves[recovery][test] = curve(one.scores)
    weak = {(r, kind): own_p(noise[kind, "clean", r]) for r in RECOVERIES for kind in WEAK}
    others = RECOVERIES[:-1]
    change = {f"{t} | {r}": gain(found[OURS, t], found[r, t], t in OUR_TESTS) for t in TESTS for r in others}
    change |= {f"{kind} | {r}": gained(weak[OURS, kind], weak[r, kind], VERDICT) for kind in WEAK for r in others}
    for name in ("McNemar p", "Wilcoxon p"):
        main = PRIMARY if name == "McNemar p" else None
        tests = [cell for which, cell in change.items() if name in cell and which != main]
        adjusted = holm(np.array([cell[name] for cell in tests])).tolist()
        for cell, p in zip(tests, adjusted, strict=True):
            cell[f"{name}, Holm"] = tidy(p)
    own = {t: {r: found[r, t].scores.own for r in RECOVERIES} for t in ("dense", RINGS)}
    own |= {kind: {r: weak[r, kind] for r in RECOVERIES} for kind in WEAK}
    logs = {t: {r: tidy(np.sort(np.log10(p))) for r, p in of_test.items()} for t, of_test in own.items()}
    shares = {
        kind: {
            r: {
                f"{level:g}": rate(int((weak[r, kind] <= level).sum()), len(weak[r, kind]))
                for level in (*LEVELS, VERDICT)
            }
            for r in RECOVERIES
        }
        for kind in WEAK
    }
    return {"cells": cells, "curves": curves, "weak": shares, "gain": change, "log10 p": logs}


def own_p(noise: NDArray[np.float16]) -> NDArray[np.float64]:
    """P of the noise (n, C, h, w) of pictures with weak marks for their own keys."""
    every = misfits("dense", noise, [own_number("dense", i) for i in range(len(noise))])
    return np.diagonal(every).copy()


def gain(ours: Outcome, other: Outcome, exact: bool) -> Json:
    """What one recovery gains over another by one test: at its threshold, or where p is exact by p."""
    if exact:
        return gained(ours.scores.own, other.scores.own, VERDICT)
    return paired(ours.hits[-1], other.hits[-1])


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

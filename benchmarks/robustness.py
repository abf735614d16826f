"""What attacks leave of a mark: detection after dozens of them, by the encoder alone and by decoder inversion.

    python -m benchmarks.robustness            100 pictures of each kind, five hours on a core; resumes
    python -m benchmarks.robustness --quick    2 of each, few attacks and iterations; under a minute

Pictures of the same prompts and seeds carry a key of ours (``dense``), or a key of tree-ring code (rings of complex
values in one channel, Wen et al. 2023, https://arxiv.org/abs/2305.20030); others, of the same prompts and other
seeds, carry none. Every attack does the same to each of them, with the same chance. *Negatives* for a test are the
pictures without a mark and those with the other mark, attacked as well. How many pairs of a picture with a key of
the same code and another key pass is beside it: where it is more, the test takes keys for each other.

Noise is recovered without prompt or key, from three latents: the encoder's; that of decoder inversion, which
reproduces the pixels, as far as it goes, and with them what an attack did to them; and that latent *shrunk* towards
the encoder's (:func:`inversion.shrinkage.shrink`). It is not whitened, as there are null images for the last of
them alone. Noise and pictures are kept: the analysis can be done anew.

Rates of false positives are averaged over the secret choice of the key, in two ways. Our p is exact: at the level
1e-3 it is wrong for one key in a thousand, whatever the picture. Beside it stands the threshold that one in a
thousand of all pairs of an attacked negative and one of many keys passes, which is all there is for the L1
distance; a verifier who does not know the attack could not set it.

Attacks by averaging need many pictures of one key, so they have their own, all of one key. The attacker has half of
them and as many unmarked ones, and attacks the other half; with *pairs* the unmarked ones are what the same prompts
and seeds give without the key, which nobody has who does not hold the noise. (Of pictures that were marked after
they existed, originals may be public.) Negatives are unmarked pictures from which the mark is taken as well.
Forgeries are unmarked pictures to which what was found is added: that they are found is no success.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from scipy import stats

from benchmarks.attacks import SIX
from benchmarks.model_attacks import MODEL_ATTACKS
from benchmarks.rates import tidy
from benchmarks.record import RESULTS, rate, write
from benchmarks.robustness_noise import (
    ENCODER,
    FORGERY,
    OURS,
    REMOVAL,
    UNMARKED_AS,
    WHOLE,
    Cell,
    kinds_of,
    recovered,
)
from benchmarks.robustness_pictures import MARKS, NOBODY, ONE_KEY, Run, load, own_number
from benchmarks.robustness_report import draw, readme_table
from benchmarks.scores import (
    EXACT,
    L1,
    LEVELS,
    TREE_RING,
    VERDICT,
    Outcome,
    Scores,
    difference,
    measure,
    outcome,
    paired,
    resampled,
    scores,
    thresholds,
)
from watermark.search import holm

Json = dict[str, Any]
Noise = dict[Cell, NDArray[np.float16]]

RECOVERIES = (ENCODER, WHOLE, OURS)
TESTS = (
    *("dense", DEFAULT := "dense, searched", "dense, wide search"),
    *TREE_RING,
)
CONDITIONS = (
    *("clean", *SIX, "rotation 10°", "mirrored", "moved 4", "resized to 0.5", "WebP 50"),
    *("median 5", "contrast 2", "saturation 2", "hue 0.1", "sharpened", "3 bits", "screenshot", "reposted"),
    *(name for name in MODEL_ATTACKS if name not in ("autoencoder, 4 times", "rinsing, 2 × 0.1")),
    *REMOVAL,
)
FULL = Run(
    quick=False,
    pictures=100,
    steps=25,
    decoder_steps=None,
    published_steps=100,
    inversion_steps=10,
    keys=500,
    conditions=(*CONDITIONS, *FORGERY),
)
QUICK = Run(
    quick=True,
    pictures=2,
    steps=3,
    decoder_steps=2,
    published_steps=2,
    inversion_steps=2,
    keys=300,
    conditions=("clean", "JPEG 25", "averaging pairs, latents", "forgery from pairs, latents"),
)


def cells_of(run: Run) -> list[Cell]:
    """All noise that is needed."""
    return [(kind, c, recovery) for c in run.conditions for kind in kinds_of(c) for recovery in RECOVERIES]


def scores_of(noise: Noise, test: str, condition: str, recovery: str, keys: int) -> Scores:
    """Scores of a test under a condition; pictures with the other mark are negatives, where keys differ."""
    mark = test.split(",", maxsplit=1)[0]
    if condition in REMOVAL:
        mark = ONE_KEY[MARKS.index(mark)]
        others = [unmarked for unmarked, kind in UNMARKED_AS.items() if kind == mark]
    else:
        others = ["unmarked", *(other for other in MARKS if other != mark)]
    marked = noise[mark, condition, recovery]
    negatives = [noise[kind, condition, recovery] for kind in others]
    own = [own_number(mark, i) for i in range(len(marked))]
    return scores(test, marked, own, negatives, range(NOBODY, NOBODY + keys))


def average(found: list[Outcome], nominal: bool) -> Json:
    """Means over conditions, with bootstrap intervals; see :class:`benchmarks.scores.Outcome`."""
    each = {
        f"at rate {level:g}": ([f.hits[i] for f in found], [f.shares[i] for f in found])
        for i, level in enumerate(LEVELS)
    }
    if nominal:
        for level in LEVELS:
            hits = [f.scores.own <= level for f in found]
            each[f"at p {level:g}"] = hits, [h @ resampled(len(h)).T / len(h) for h in hits]
    each["area"] = [np.array(f.area) for f in found], [f.areas for f in found]
    return {
        name: {"mean": tidy(np.mean(values)), "ci95": tidy(np.quantile(np.mean(again, axis=0), (0.025, 0.975)))}
        for name, (values, again) in each.items()
    }


def gain(before: list[Outcome], after: list[Outcome]) -> Json:
    """How much more is found at a rate of 1e-3 on average over conditions, in the same resamplings."""
    rates = [float(np.mean([f.hits[-1] for f in found])) for found in (before, after)]
    again = [np.mean([f.shares[-1] for f in found], axis=0) for found in (before, after)]
    return difference(again[1], again[0], rates[1] - rates[0])


def gained(ours: NDArray[np.float64], other: NDArray[np.float64], level: float) -> Json:
    """What smaller p (n,) find that larger do not at a level, and by how many decades they are smaller, paired."""
    decades = np.log10(other) - np.log10(ours)
    p = stats.wilcoxon(decades).pvalue if np.any(decades) else 1.0
    both = paired(ours <= level, other <= level)
    return both | {"decades, median": tidy(np.median(decades)), "Wilcoxon p": tidy(p)}


def forged(noise: Noise, condition: str, recovery: str, keys: int) -> Json:
    """How many forgeries carry the key for our tests, and for the L1 threshold set on clean unmarked pictures."""
    out: Json = {}
    for kind, test in zip(ONE_KEY, ("dense", L1), strict=True):
        forgeries, clean = noise[kind, condition, recovery], noise["unmarked", "clean", recovery]
        own = [own_number(kind, i) for i in range(len(forgeries))]
        s = scores(test, forgeries, own, [clean], range(NOBODY, NOBODY + keys))
        levels = (*LEVELS, VERDICT) if test in EXACT else LEVELS
        limits = levels if test in EXACT else thresholds(s.null, levels, np.ones((1, len(s.null))))[:, 0]
        out[test] = {
            f"{level:g}": rate(int((s.own <= limit).sum()), len(s.own))
            for level, limit in zip(levels, limits, strict=True)
        }
    return out


def analyse(noise: Noise, run: Run) -> Json:
    """Every condition, test and recovery, the averages, and forgeries."""
    cells: Json = {}
    change: Json = {}
    averages: Json = {}
    attacks = [c for c in run.conditions if c not in FORGERY]
    found: dict[Cell, Outcome] = {}
    for condition in track(attacks, "testing", console=Console(stderr=True)):
        for recovery in RECOVERIES:
            for test in TESTS:
                one = outcome(scores_of(noise, test, condition, recovery, run.keys))
                found[condition, recovery, test] = one
                cells.setdefault(condition, {}).setdefault(recovery, {})[test] = measure(one, test in EXACT)
        own = {r: found[condition, r, DEFAULT].scores.own for r in RECOVERIES}
        change[condition] = {r: gained(own[OURS], own[r], LEVELS[1]) for r in RECOVERIES[:-1]}
    for other in RECOVERIES[:-1]:
        for name in ("McNemar p", "Wilcoxon p"):
            adjusted = holm(np.array([each[other][name] for each in change.values()]))
            for cell, p in zip(change.values(), adjusted.tolist(), strict=True):
                cell[other][f"{name}, Holm"] = tidy(p)
    groups = {"all attacks": [c for c in attacks if c != "clean"], "six attacks": [c for c in SIX if c in attacks]}
    for label, group in groups.items():
        for test in TESTS:
            rows = {r: [found[c, r, test] for c in group] for r in RECOVERIES}
            averages.setdefault(label, {})[test] = {r: average(each, test in EXACT) for r, each in rows.items()}
            averages[label][test]["gain"] = {r: gain(rows[r], rows[OURS]) for r in RECOVERIES[:-1]}
    forgeries = {c: {r: forged(noise, c, r, run.keys) for r in RECOVERIES} for c in run.conditions if c in FORGERY}
    return {"cells": cells, "gain": change, "averages": averages, "forgeries": forgeries}


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--quick", is_flag=True, help="2 pictures of each kind, few attacks and iterations.")
@click.option("--model", "name", default="sapling", show_default=True, help="A diffusers folder or a hub id.")
@click.option("--dtype", default="bf16", show_default=True, help="Of the diffusion network.")
@click.option("-o", "--output", type=click.Path(file_okay=False, path_type=Path), default=RESULTS)
def main(quick: bool, name: str, dtype: str, output: Path) -> None:
    """Measure detection after attacks."""
    run = QUICK if quick else FULL
    model = load(name, dtype)
    settings = run.settings(model) | {"keys": run.keys, "conditions": list(run.conditions)}
    noise = recovered(model, run, cells_of(run), output, "robustness")
    result = {"settings": settings} | analyse(noise, run)
    path = write("robustness", result, output)
    draw(result, path.with_suffix(".png"))
    click.echo(readme_table(result))
    click.echo(f"wrote {path} and {path.with_suffix('.png')}")


if __name__ == "__main__":
    main()

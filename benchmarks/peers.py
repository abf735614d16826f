"""The rules of others on the same recovered noise: the L1 distance and the chi-square of tree-ring code.

    python -m benchmarks.peers            from the noise of ``benchmarks.robustness``; seconds a condition
    python -m benchmarks.peers --quick    2 pictures of each kind, few conditions; under a minute

Pictures carry keys of tree-ring code, as it makes and embeds them: rings of complex values in a disc of radius 10
in channel 3, of which the real part of the noise is kept (Wen et al. 2023, https://arxiv.org/abs/2305.20030). They
are tested by its own rules, in its own mask: a threshold of the mean distance between bins, and p of the noncentral
chi-square with twice as many degrees of freedom as there are bins and a variance taken from these bins. Ours beside
them is the angle between the noise and the part of the key that real noise can hold, in these bins and their
conjugates. Pictures of the same prompts and seeds that carry keys of ours, tested as they are and through the
verifier's default transformations, unwhitened, show the two systems side by side.

Power is compared at the threshold that one in a thousand of all pairs of an attacked negative and a key passes,
which nobody knows who does not know the attack; intervals are by a bootstrap over pictures and keys, the same ones
for all rules. L1 distances are standardised for every key on the same negatives. What the rules do by themselves is
beside it: at their own p, at the thresholds 50 and 77 that are in use (for latents of 64 × 64; in proportion here)
for raw distances, and at a threshold set on every second of the clean negatives; its false positives are those of
the rest. Where it is known how keys were drawn, as here, verdicts take the angle between draws, whose p is exact,
see :mod:`watermark.draws`. Of others they count how many null images fit as well by the angle between bins; this is
here, too, for the model's null images, none of which carries another key of that code. (Sapling's null images of
the same initial noise as a negative are left out.)
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from benchmarks.peers_report import draw, readme_table
from benchmarks.rates import over_both, tidy
from benchmarks.record import RESULTS, rate, write
from benchmarks.robustness import FULL, QUICK, RECOVERIES, scores_of
from benchmarks.robustness_noise import ENCODER, FORGERY, OURS, REMOVAL, Cell, recovered
from benchmarks.robustness_pictures import KINDS, NOBODY, SEED, load, own_number
from benchmarks.scores import (
    DRAWS,
    EXACT,
    L1,
    LEVELS,
    RAW,
    Outcome,
    Scores,
    difference,
    measure,
    misfits,
    outcome,
    paired,
    standardised,
    thresholds,
)
from inversion import LatentDiffusionModel
from watermark.calibration import Calibration
from watermark.features import Array
from watermark.search import holm
from watermark.verify import calibration_file

Json = dict[str, Any]
Found = dict[tuple[str, str, str], Outcome]

Nulls = tuple[Array, Array]

ANGLE = "tree-ring, angle"
TESTS = (L1, "tree-ring, chi-square", ANGLE, DRAWS, "dense", "dense, searched")
LEVEL, COUNTED = LEVELS[1], LEVELS[0]
FIXED = (50.0, 77.0)
PAIRS = (
    *(((ANGLE, r), (test, r)) for r in RECOVERIES for test in TESTS[:2]),
    *((("dense, searched", OURS), (test, ENCODER)) for test in TESTS[:2]),
    *(((test, r), (L1, r)) for test in EXACT[:2] for r in RECOVERIES),
)
"""(test, recovery) of ours, and what it is compared with."""


def conditions_of(run_conditions: tuple[str, ...]) -> tuple[str, ...]:
    """Those in which every picture has a key of its own."""
    return tuple(c for c in run_conditions if c not in (*REMOVAL, *FORGERY))


def own_rules(found: Found, conditions: tuple[str, ...], side: int, nulls: Nulls | None) -> Json:
    """What every rule finds at its own threshold, and takes for marked that is not, by condition.

    The L1 distance has fixed thresholds, and one that is set on every second of the clean negatives, on which it is
    standardised; what it takes for marked is then counted among the rest.
    """
    out: Json = {}
    for recovery in RECOVERIES:
        for test in TESTS:
            if test != L1:
                each = {c: found[c, recovery, test].scores for c in conditions}
                out[f"{test} | {recovery} | p ≤ {LEVEL:g}"] = {c: taken(s, LEVEL) for c, s in each.items()}
        raw = {c: found[c, recovery, RAW].scores for c in conditions}
        clean = raw["clean"]
        some = np.flatnonzero(clean.units % 2 == 0)
        null = standardised(clean, clean, some).null[some]
        limit = float(thresholds(null, [LEVEL], np.ones((1, len(null))))[0, 0])
        out[f"{L1} | {recovery} | set on clean negatives"] = {
            c: taken(standardised(s, clean, some), limit, s.units % 2 == 1) for c, s in raw.items()
        }
        for fixed in FIXED:
            name = f"{RAW} | {recovery} | L1 ≤ {fixed:g} · {side}/64"
            out[name] = {c: taken(s, fixed * side / 64) for c, s in raw.items()}
    if nulls is not None:
        out[f"{ANGLE} | {OURS} | counted on null images, p ≤ {COUNTED:g}"] = {
            c: taken(counted(found[c, OURS, ANGLE].scores, nulls), COUNTED) for c in conditions
        }
    return out


def null_fits(model: LatentDiffusionModel, own: Sequence[int], nobody: Sequence[int]) -> Nulls | None:
    """How the model's null images fit keys that nobody has, (N, K), and those of pictures, (N, n)."""
    file = calibration_file(model)
    if not file.is_file():
        return None
    nulls = Calibration.load(file)
    noise = nulls.noise[~twins(nulls.families, len(own))]
    return misfits(ANGLE, noise, nobody), misfits(ANGLE, noise, own)


def twins(families: Sequence[str], pictures: int) -> NDArray[np.bool_]:
    """Which null images of :mod:`benchmarks.calibration` start from the noise of so many unmarked pictures."""
    unmarked = np.array([family == "unmarked" for family in families])
    number = unmarked.cumsum() - 1
    return unmarked & (number >= SEED) & (number < SEED + pictures)


def counted(s: Scores, nulls: Nulls) -> Scores:
    """The share of null images that fit as well, in place of every p."""

    def p(fit: Array, null: Array) -> Array:
        least = np.sort(null, axis=0)
        each = [np.searchsorted(least[:, k], fit[:, k], "right") for k in range(fit.shape[1])]
        return (1 + np.stack(each, axis=1)) / (len(null) + 1)

    others, own = nulls
    return Scores(
        own=p(s.own[None], own)[0],
        null=p(s.null, others),
        units=s.units,
        other_keys=p(s.other_keys, others),
        null_of_own=p(s.null_of_own, own),
    )


def taken(s: Scores, limit: float, rest: NDArray[np.bool_] | slice = slice(None)) -> Json:
    """What passes a threshold: marked pictures, of the negatives all or the rest, and those with other keys."""
    return {
        "found": rate(int((s.own <= limit).sum()), len(s.own)),
        "false": over_both(s.null[rest] <= limit, s.units[rest]),
        "other keys": over_both(s.other_keys <= limit, np.arange(len(s.other_keys))),
    }


def power(found: Found, conditions: tuple[str, ...]) -> Json:
    """At 0.1 % false positives, on average over attacks: of every rule, and ours against each of the others."""
    attacks = [c for c in conditions if c != "clean"]
    hits: dict[tuple[str, str], float] = {}
    again: dict[tuple[str, str], NDArray[np.float64]] = {}
    for rule in ((test, recovery) for test in TESTS for recovery in RECOVERIES):
        each = [found[c, rule[1], rule[0]] for c in attacks]
        hits[rule] = float(np.mean([f.hits[1] for f in each]))
        again[rule] = np.mean([f.shares[1] for f in each], axis=0)
    pairs = {}
    for ours, other in PAIRS:
        by_condition = {c: paired(*(found[c, r, t].hits[1] for t, r in (ours, other))) for c in conditions}
        gap = difference(again[ours], again[other], hits[ours] - hits[other])
        pairs[f"{' | '.join(ours)} against {' | '.join(other)}"] = gap | {"by condition": by_condition}
    for pair, p in zip(
        pairs.values(), holm(np.array([pair["p"] for pair in pairs.values()])).tolist(), strict=True
    ):
        pair["Holm p"] = tidy(p)
    rules = {
        " | ".join(rule): {"mean": tidy(hits[rule]), "ci95": tidy(np.quantile(again[rule], (0.025, 0.975)))}
        for rule in hits
    }
    return {"rules": rules, "pairs": pairs}


def analyse(
    noise: dict[Cell, NDArray[np.float16]], conditions: tuple[str, ...], keys: int, nulls: Nulls | None
) -> Json:
    """Every rule under every condition."""
    found: Found = {}
    for c in track(conditions, "testing", console=Console(stderr=True)):
        for r in RECOVERIES:
            for t in (*TESTS, RAW):
                found[c, r, t] = outcome(scores_of(noise, t, c, r, keys))
    side = next(iter(noise.values())).shape[-1]
    cells: Json = {}
    for (c, r, t), one in found.items():
        if t != RAW:  # of which only the fixed thresholds are of interest
            each = measure(one, t != L1)
            negatives = each.pop("negatives")  # the same ones for all
            cells.setdefault(c, {}).setdefault(f"{t} | {r}", each)
    of_rules = {"power": power(found, conditions), "rules": own_rules(found, conditions, side, nulls)}
    return {"negatives": negatives, "cells": cells} | of_rules


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--quick", is_flag=True, help="2 pictures of each kind, few conditions.")
@click.option("--model", "name", default="sapling", show_default=True, help="A diffusers folder or a hub id.")
@click.option("--dtype", default="bf16", show_default=True, help="Of the diffusion network.")
@click.option("-o", "--output", type=click.Path(file_okay=False, path_type=Path), default=RESULTS)
def main(quick: bool, name: str, dtype: str, output: Path) -> None:
    """Compare detection rules on the same noise."""
    run = QUICK if quick else FULL
    model = load(name, dtype)
    conditions = conditions_of(run.conditions)
    wanted = [(kind, c, recovery) for c in conditions for kind in KINDS for recovery in RECOVERIES]
    noise = recovered(model, run, wanted, output, "peers")
    settings = run.settings(model) | {"keys": run.keys, "conditions": list(conditions)}
    own = [own_number("tree-ring", i) for i in range(run.pictures)]
    nulls = null_fits(model, own, range(NOBODY, NOBODY + run.keys))
    result = {"settings": settings} | analyse(noise, conditions, run.keys, nulls)
    path = write("peers", result, output)
    draw(result, path.with_suffix(".png"))
    click.echo(readme_table(result))
    click.echo(f"wrote {path} and {path.with_suffix('.png')}")


if __name__ == "__main__":
    main()

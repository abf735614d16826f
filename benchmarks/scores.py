"""How marked and other pictures score in a test, and what follows: ROC, rates at a false positive rate, intervals.

A score says how badly a key fits: p, where there is one, else a distance. Marked pictures have one, with the key
they carry. Pictures that do not carry the keys have one for each of many keys, as secret keys are drawn: what is
averaged over keys is then known from few pictures. Pairs of picture and key are not independent, so intervals
are over pictures, and those of thresholds and of false positives over the keys that nobody has, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from sklearn.metrics import roc_auc_score, roc_curve

from benchmarks.null_tests import Rows, our_p, their_p
from benchmarks.rates import over_both, tidy
from benchmarks.record import rate
from benchmarks.robustness_pictures import our_key, their_key
from benchmarks.usual_recipes import chi_square
from watermark.detection import TINY, angle_test
from watermark.draws import cosine, drawn_values
from watermark.features import Array
from watermark.foreign import ArrayKey, coordinates
from watermark.keys import Pattern
from watermark.search import key_matrix
from watermark.transforms import IDENTITY, plain_transforms, wide_transforms

EXACT = ("dense", "dense, searched", "dense, wide search", "rings")
L1 = "tree-ring, L1"
TREE_RING = ("tree-ring, angle", "tree-ring, chi-square", L1)
RAW = "tree-ring, raw L1"
DRAWS = "tree-ring, draws"
"""Our keys by our test: as it is, through mirrorings and right angles, and through all angles and crops. Keys of
tree-ring code by our statistic, whose p takes the noise to be white for them, by the chi-square p of Wen et al.
2023, and by the L1 distance. That differs more between keys than between pictures, as some keys have more energy.
So it is *standardised*: less the key's mean in the negatives, over its standard deviation there, as a verifier may
who has them. *Raw* it is as it comes. By *draws*, the p of the same keys is exact, see :mod:`watermark.draws`."""
LEVELS = (1e-2, 1e-3)
VERDICT = 1e-6
RESAMPLINGS = 1000
AT_ONCE = 200


@dataclass(frozen=True)
class Scores:
    """How pictures score.

    Attributes:
        own: (n,) marked pictures with their own keys.
        null: (m, K) others with keys that nobody has.
        units: (m,) numbers 0 … of what is independent among the others: prompts, which marked pictures share.
        other_keys: (n, K) the marked pictures with keys of the same code that nobody has.
        null_of_own: (m, n) the others with the keys of the marked pictures, one after the other.
    """

    own: Array
    null: Array
    units: Rows
    other_keys: Array
    null_of_own: Array

    def resampled(self) -> Array:
        """(R, m) how often each of the others is drawn."""
        return resampled(int(self.units.max()) + 1)[:, self.units]

    def keys_resampled(self) -> Array:
        """(R, K) how often each of the keys that nobody has is drawn."""
        return resampled(self.null.shape[1], of="keys")


def misfits(test: str, noise: NDArray[np.floating], numbers: Sequence[int]) -> Array:
    """(B, K) scores of noise (B, C, h, w) with the keys of some numbers."""
    z, numbers = noise.astype(np.float64), tuple(numbers)
    shape = z.shape[1:]
    if test in EXACT:
        places = {"dense, searched": plain_transforms(shape), "dense, wide search": wide_transforms(shape)}
        transforms = places.get(test, IDENTITY)
        kind = test.split(",", maxsplit=1)[0]
        rows = [(np.arange(len(z)), None)]
        return our_p(z, directions(numbers, shape, kind), Pattern(kind), transforms, rows)
    keys = their_keys(numbers, shape)
    if test == DRAWS:
        return draws_p(z, keys)
    if test == "tree-ring, angle":
        return their_p(z, keys, IDENTITY)
    mask = keys[0].mask
    bins = np.fft.fft2(z)[:, mask]
    values = [key.values[mask] for key in keys]
    if test == "tree-ring, chi-square":
        return chi_square(bins, np.stack(values))
    return np.stack([np.abs(bins - value).mean(1) for value in values], axis=1)


def draws_p(z: Array, keys: Sequence[ArrayKey]) -> Array:
    """P (B, K) of :func:`watermark.foreign.detect_array` for keys that were drawn in the same way."""
    same = keys[0].regression
    spectrum = np.fft.fft2(z)
    estimate = same.estimate(coordinates(spectrum, same.pairs, same.own))
    drawn = [same.parts(drawn_values(key.draws, key.values)) for key in keys if key.draws is not None]
    fits = np.stack([cosine(estimate, each) for each in drawn], axis=1)
    return np.maximum(angle_test(fits, len(drawn[0]))[1], TINY)


def scores(
    test: str,
    marked: NDArray[np.floating],
    own: Sequence[int],
    others: Sequence[NDArray[np.floating]],
    nobody: Sequence[int],
) -> Scores:
    """Scores of marked noise (n, C, h, w) with keys of n numbers, and of other noise with keys that nobody has.

    Of the others there are several kinds, (m, C, h, w) each, whose pictures of the same number share a prompt.
    """
    numbers = sorted(set(own))
    place = np.searchsorted(numbers, own)
    fits, null = (misfits(test, z, (*numbers, *nobody)) for z in (marked, np.concatenate(others)))
    found = Scores(
        own=fits[np.arange(len(marked)), place],
        null=null[:, len(numbers) :],
        units=np.concatenate([np.arange(len(kind)) for kind in others]),
        other_keys=fits[:, len(numbers) :],
        null_of_own=null[:, place],
    )
    return standardised(found, found) if test == L1 else found


def standardised(s: Scores, by: Scores, rows: Rows | slice = slice(None)) -> Scores:
    """Every key's scores less its mean, over its standard deviation, of some negatives of the same keys."""

    def of(scores: Array, null: Array) -> Array:
        spread: Array = null[rows].std(0)
        return (scores - null[rows].mean(0)) / np.maximum(spread, TINY)

    return Scores(
        own=of(s.own, by.null_of_own),
        null=of(s.null, by.null),
        units=s.units,
        other_keys=of(s.other_keys, by.null),
        null_of_own=of(s.null_of_own, by.null_of_own),
    )


@lru_cache(maxsize=4)
def directions(numbers: tuple[int, ...], shape: tuple[int, ...], kind: str) -> Array:
    """Our keys as unit vectors (K, d)."""
    return key_matrix([our_key(number, kind) for number in numbers], (1, *shape))


@lru_cache(maxsize=4)
def their_keys(numbers: tuple[int, ...], shape: tuple[int, ...]) -> list[ArrayKey]:
    """Keys of tree-ring code."""
    return [their_key(number, shape) for number in numbers]


@lru_cache(maxsize=8)
def resampled(units: int, of: str = "pictures") -> Array:
    """(resamplings, units) how often each picture is drawn, or each key, independently."""
    rng = np.random.default_rng([units, len(of)])
    return rng.multinomial(units, np.full(units, 1 / units), RESAMPLINGS).astype(np.float64)


def thresholds(null: Array, levels: Sequence[float], weights: Array, of_keys: Array | None = None) -> Array:
    """(L, R) the largest score that at most a share ``level`` of all pairs (m, K) reaches, −∞ if there is none.

    ``weights`` (R, m) say how often each picture counts, and ``of_keys`` (R, K) how often each key, if not once.
    """
    of_keys = np.ones((1, null.shape[1])) if of_keys is None else of_keys
    drawn_keys = np.broadcast_to(of_keys, (len(weights), null.shape[1]))
    order = np.argsort(null, axis=None)[: int(np.ceil(5 * max(levels) * null.size))]
    low, (picture, key) = null.ravel()[order], np.divmod(order, null.shape[1])
    ends = np.flatnonzero(np.append(low[1:] > low[:-1], True))  # scores that tie are reached together
    limits = np.append(-np.inf, low[ends])
    out = np.empty((len(levels), len(weights)))
    for start in range(0, len(weights), AT_ONCE):
        drawn, with_key = weights[start : start + AT_ONCE], drawn_keys[start : start + AT_ONCE]
        reached = (drawn[:, picture] * with_key[:, key]).cumsum(1)[:, ends]
        for i, level in enumerate(levels):
            most = level * drawn.sum(1, keepdims=True) * with_key.sum(1, keepdims=True)
            out[i, start : start + AT_ONCE] = limits[(reached <= most * (1 + 1e-9)).sum(1)]
    return out


@dataclass(frozen=True)
class Outcome:
    """What follows from scores.

    Attributes:
        scores: the scores.
        limits: (L,) empirical thresholds.
        hits: (L, n) which marked pictures are found there.
        shares: (L, R) how many of them in every resampling of pictures of both kinds and of keys that nobody has,
            so that thresholds vary, too.
        area: under the ROC curve.
        areas: (R,) that of every resampling of pictures.
    """

    scores: Scores
    limits: Array
    hits: NDArray[np.bool_]
    shares: Array
    area: float
    areas: Array


def outcome(s: Scores) -> Outcome:
    """Rates at empirical thresholds, and the ROC curve's area."""
    n, m = len(s.own), len(s.null)
    limits = thresholds(s.null, LEVELS, np.ones((1, m)))
    again = thresholds(s.null, LEVELS, s.resampled(), s.keys_resampled())
    shares = np.stack([((s.own <= limit[:, None]) * resampled(n)).sum(1) / n for limit in again])
    return Outcome(s, limits[:, 0], s.own <= limits, shares, *area(s))


def area(s: Scores) -> tuple[float, Array]:
    """Area under the ROC curve, and that of every resampling, (R,)."""
    truth = np.repeat([1, 0], [len(s.own), s.null.size])
    value = float(roc_auc_score(truth, -np.concatenate([s.own, s.null.ravel()])))
    ordered = np.sort(s.null, axis=1)
    below, up_to = (
        np.stack([np.searchsorted(row, s.own, side=side) for row in ordered]) for side in ("left", "right")
    )
    beaten = 1 - (below + up_to) / 2 / s.null.shape[1]  # (m, n)
    drawn_null, drawn_own = s.resampled(), resampled(len(s.own))
    won = np.einsum("rm,mn,rn->r", drawn_null, beaten, drawn_own, optimize=True)
    return value, won / (drawn_null.sum(1) * len(s.own))


def curve(s: Scores, points: int = 60) -> dict[str, list[float]]:
    """The ROC curve at rates of false positives, evenly over decades, from ten pairs of a negative and a key.

    Below one in as many as there are units, ``independent`` of :func:`measure`, the rate is known over keys alone.
    """
    truth = np.repeat([1, 0], [len(s.own), s.null.size])
    false, true, _ = roc_curve(truth, -np.concatenate([s.own, s.null.ravel()]))
    at = np.geomspace(min(10 / s.null.size, 1), 1, points)
    return {"false": tidy(at), "true": tidy(true[np.searchsorted(false, at, side="right") - 1])}


def measure(found: Outcome, nominal: bool) -> dict[str, Any]:
    """Everything that a table shows.

    - ``at p``: where the score is a p, the share found at a level that p states, with Clopper–Pearson intervals,
      and the share of false positives there, averaged over keys, with an interval over pictures and keys.
    - ``at rate``: the share found at the threshold that so many of the other pictures pass, over all keys. The
      interval is the wider, at either end, of Clopper–Pearson's and of a bootstrap of both kinds of pictures and of
      keys. None where there are too few pairs.
    - ``other keys``: at either, the share of pairs of a picture with a key of the same code and another key.
    - ``area``: under the ROC curve, bootstrap; says nothing of its error where it is 1.
    """
    s = found.scores
    negatives = {"pictures": len(s.null), "independent": int(s.units.max()) + 1, "keys": s.null.shape[1]}
    out: dict[str, Any] = {"negatives": negatives, "at rate": {}}
    for i, level in enumerate(LEVELS):
        exact = rate(int(found.hits[i].sum()), len(s.own))
        low, high = np.quantile(found.shares[i], (0.025, 0.975))
        wide = [min(low, exact["ci95"][0]), max(high, exact["ci95"][1])]
        enough = s.null.size * level >= 1
        others = {"other keys": tidy((s.other_keys <= found.limits[i]).mean())}
        out["at rate"][f"{level:g}"] = exact | {"ci95": tidy(wide)} | others if enough else None
    out["area"] = {"value": tidy(found.area), "ci95": tidy(np.quantile(found.areas, (0.025, 0.975)))}
    if nominal:
        out["at p"] = {}
        for level in (*LEVELS, VERDICT):
            false = {"false": over_both(s.null <= level, s.units)}
            others = {"other keys": tidy((s.other_keys <= level).mean())}
            out["at p"][f"{level:g}"] = rate(int((s.own <= level).sum()), len(s.own)) | false | others
        out["median p"] = tidy(np.median(s.own))
    return out


def paired(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> dict[str, Any]:
    """How many pictures (n,) only one of two finds, and McNemar's exact p."""
    one, other = int((first & ~second).sum()), int((second & ~first).sum())
    p = stats.binomtest(one, one + other).pvalue if one + other else 1.0
    return {"first only": one, "second only": other, "McNemar p": tidy(p)}


def difference(first: Array, second: Array, value: float) -> dict[str, Any]:
    """A difference of two rates with its interval and two-sided p, from resamplings (R,) of the same pictures.

    The interval is of quantiles. p takes the difference to be normal with the resamplings' standard deviation.
    """
    gap = first - second
    p = 2 * stats.norm.sf(abs(value) / max(gap.std(), TINY)) if value else 1.0
    return {"difference": tidy(value), "ci95": tidy(np.quantile(gap, (0.025, 0.975))), "p": tidy(p)}

"""False positive rates of :mod:`benchmarks.calibration`, per key and averaged over keys, with their intervals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

from benchmarks.null_images import FAMILIES, SEED
from benchmarks.null_tests import Rows
from benchmarks.record import rate
from watermark.detection import TINY
from watermark.features import Array

Json = dict[str, Any]

LEVELS = (1e-1, 1e-2, 1e-3, 1e-4)
BAR = 1e-3
SURE = 5e-4
"""Of error in one cell, so that it is 0.05 in the hundred or so of all tests and families."""
PROBABILITIES = np.logspace(-5, 0, 21)
"""At which quantiles of p are kept."""
RESAMPLINGS = 10_000


@lru_cache(maxsize=8)
def resampled(units: int) -> Array:
    """(resamplings, units) how often each is drawn."""
    return np.random.default_rng(SEED).multinomial(units, np.full(units, 1 / units), RESAMPLINGS).astype(np.float64)


def interval(shares: Array, units: Rows) -> tuple[Array, Array, Array]:
    """Mean of shares (n, L), its 95 % interval (2, L), and ends of one-sided ones (3, L).

    The latter are the lower and the upper end at 95 %, and the lower one with all tests and families taken into
    account. Percentile bootstrap over units. Where there is nothing but zeros it says nothing; there the upper end
    is the largest rate of units with any hit that leaves so many without with enough probability. Where there is
    nothing but ones it is the other way round.
    """
    names, number = np.unique(units, return_inverse=True)
    sums = np.zeros((len(names), shares.shape[1]))
    np.add.at(sums, number, shares)
    drawn_units = resampled(len(names))
    means = drawn_units @ sums / (drawn_units @ np.bincount(number))[:, None]
    q = np.quantile(means, (0.025, 0.975, 0.05, 0.95, SURE), axis=0)
    none, every = sums.sum(0) == 0, (shares == 1).all(0)
    q[1, none], q[3, none] = (1 - tail ** (1 / len(names)) for tail in (0.025, 0.05))
    q[0, every], q[2, every] = (tail ** (1 / len(names)) for tail in (0.025, 0.05))
    return shares.mean(0), q[:2], q[2:]


def over_both(found: NDArray[np.bool_], units: Rows) -> Json:
    """The share of pairs (n, K) of an image and a key, with a 95 % interval over units of images and over keys.

    What all images have in common, as after an attack that cuts the same corners, meets every key with its own
    luck, of which more images tell nothing. So the variances of either clustering are added, less that of the
    pairs, which is in both (Cameron, Gelbach & Miller 2011, doi:10.1198/jbes.2010.07136). Of sparse hits a few
    units or keys may have most: t has as many degrees of freedom as clusters that matter, by Satterthwaite's rule.
    The interval is symmetric on the logistic scale. For one key, nothing but zeros, or nothing but ones it is that
    of :func:`interval`.
    """
    _, keys = found.shape
    share = found.mean()
    if not 0 < share < 1 or keys == 1:
        mean, both, _ = interval(found.mean(1)[:, None], units)
        return {"rate": tidy(mean[0]), "ci95": tidy(both[:, 0])}
    names, number = np.unique(units, return_inverse=True)
    pairs = np.zeros((len(names), keys))
    np.add.at(pairs, number, found - share)
    squares = [np.square(pairs.sum(axis)) for axis in (1, 0)]
    of_units, of_keys = (s.sum() * len(s) / max(len(s) - 1, 1) for s in squares)
    variance = max(of_units + of_keys - np.square(pairs).sum(), of_units, of_keys)
    freedom = min(s.sum() ** 2 / max(np.square(s).sum(), TINY) for s in squares)
    half = stats.t.isf(0.025, max(freedom, 1)) * np.sqrt(variance) / found.size / (share * (1 - share))
    return {"rate": tidy(share), "ci95": tidy(special.expit(special.logit(share) + np.array([-half, half])))}


def clopper_pearson(hits: Rows, images: int, tail: float) -> tuple[Array, Array]:
    """Ends (K,) of intervals for rates, with so much probability beyond either."""
    low = np.where(hits == 0, 0.0, stats.beta.ppf(tail, np.maximum(hits, 1), images - hits + 1))
    high = np.where(hits == images, 1.0, stats.beta.ppf(1 - tail, hits + 1, np.maximum(images - hits, 1)))
    return low, high


def rates(p: Array, units: Rows, smallest: float) -> Json:
    """False positive rates from p (n, K): averaged over keys, and per key, at every level that p can reach."""
    levels = [a for a in LEVELS if a >= smallest]
    if not levels:
        return {"averaged over keys": {}, "per key": {}}
    mean, both, one = interval(np.stack([(p <= a).mean(1) for a in levels], axis=1), units)
    out: Json = {"averaged over keys": {}, "per key": {}}
    for i, a in enumerate(levels):
        out["averaged over keys"][f"{a:g}"] = {
            "rate": tidy(mean[i]),
            "ci95": tidy(both[:, i]),
            "one-sided": tidy(one[:2, i]),
            "surely at least": tidy(one[2, i]),
            "images with any": int((p <= a).any(1).sum()),
        }
        out["per key"][f"{a:g}"] = per_key(p <= a, units, a)
    return out


def per_key(found: NDArray[np.bool_], units: Rows, level: float) -> Json:
    """How many images each key takes for marked, (n, K), and at how many keys that is more than the level allows.

    ``above``: keys whose rate is above the level at one-sided 95 %; ``expected above``: how many if all were
    nominal; ``established``: whether one is with all keys, tests and families taken into account. Where images are
    not independent, the interval is by bootstrap, and the last two are not known.
    """
    images, keys = found.shape
    hits = found.sum(0)
    independent = len(np.unique(units)) == images
    if independent:
        low, _ = clopper_pearson(hits, images, 0.05)
        corrected, _ = clopper_pearson(hits, images, SURE / keys)
        needed = int(np.argmax(clopper_pearson(np.arange(images + 1), images, 0.05)[0] > level))
        expected, established = (
            tidy(keys * stats.binom.sf(needed - 1, images, level)),
            bool((corrected > level).any()),
        )
    else:
        _, both, one = interval(found.astype(np.float64), units)
        low, expected, established = one[0], None, None
    worst = int(hits.argmax())
    row = rate(int(hits[worst]), images)
    return {
        "keys by images": " ".join(f"{h}:{n}" for h, n in sorted(Counter(hits.tolist()).items())),
        "worst": row | {"ci95": tidy(row["ci95"] if independent else both[:, worst])},
        "above": int((low > level).sum()),
        "expected above": expected,
        "established": established,
    }


def tidy(value: Any) -> Any:  # noqa: ANN401 - numbers of any kind
    """Numbers with four digits, as JSON has them."""
    flat = [float(f"{v:.4g}") for v in np.ravel(value).tolist()]
    return flat if np.ndim(value) else flat[0]


def quantiles(p: Array) -> list[float]:
    """Of p (n, K), at those probabilities that ten pairs or more support; the last ones of them all."""
    kept: list[float] = tidy(np.quantile(p, PROBABILITIES[PROBABILITIES * p.size >= 10]))
    return kept


def bar(false_positives: Mapping[str, Json]) -> Json:
    """Both readings of "at most 1e-3 at nominal 1e-3, at 95 % confidence", for every test over all families.

    ``above``: families where a higher rate is established, averaged over keys; ``surely above``: with all tests and
    families taken into account; ``bound``: what the images support at most, averaged, by family; ``keys above``:
    over the families of independent images, how many were expected, and whether one stands with all of them taken
    into account; ``worst key``: the upper end of its 95 % interval.
    """
    out: Json = {}
    for name, by_family in false_positives.items():
        cells = {f: c for f, c in by_family.items() if f in FAMILIES and f"{BAR:g}" in c["per key"]}
        if not cells:
            continue
        averaged = {f: c["averaged over keys"][f"{BAR:g}"] for f, c in cells.items()}
        keys = {f: c["per key"][f"{BAR:g}"] for f, c in cells.items()}
        counted_keys = [k for k in keys.values() if k["expected above"] is not None]
        out[name] = {
            "above": [f for f, c in averaged.items() if c["one-sided"][0] > BAR],
            "surely above": [f for f, c in averaged.items() if c["surely at least"] > BAR],
            "bound": {f: c["one-sided"][1] for f, c in averaged.items()},
            "keys above": sum(k["above"] for k in counted_keys),
            "keys above, if nominal": tidy(sum(k["expected above"] for k in counted_keys)),
            "a key above, all taken into account": any(k["established"] for k in counted_keys),
            "worst key": {f: tidy(k["worst"]["ci95"][1]) for f, k in keys.items()},
        }
    return out

"""How far pictures with a mark are from pictures without, for :mod:`benchmarks.quality`.

Pictures of one key are next to each other, ``keys`` keys in all. They share what the key does, so that intervals
and tests are over keys, and say what keys of a kind do, not what these did.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from sklearn.decomposition import PCA

from watermark.features import Array

SEED, SWAPS = 0, 4000
CORNER = 3 / 16
"""The corners reach so far, as a share of the side."""

Json = dict[str, Any]


def by_key(values: Array, keys: int) -> Array:
    """Means over the pictures (n, …) of every key, (keys, …)."""
    return np.asarray(values.reshape(keys, -1, *values.shape[1:]).mean(1))


def over_keys(values: Array) -> Json:
    """The mean of one value a key, (keys,), with a 95 % percentile interval of 10,000 resamplings of them."""
    rows = np.random.default_rng(SEED).integers(0, len(values), (10_000, len(values)))
    low, high = np.quantile(values[rows].mean(1), (0.025, 0.975))
    return {"value": float(values.mean()), "ci95": [float(low), float(high)]}


def wilcoxon(values: Array) -> float:
    """P of Wilcoxon's signed-rank test that values are symmetric about 0; 1 if all are 0."""
    return float(stats.wilcoxon(values).pvalue) if np.any(values) else 1.0


def moments(values: Array) -> Array:
    """Mean, standard deviation and excess kurtosis of every picture and channel of (n, C, h, w), (n, C, 3)."""
    flat = values.reshape(*values.shape[:2], -1)
    return np.stack([flat.mean(2), flat.std(2), stats.kurtosis(flat, axis=2)], axis=2)


def distribution(own: Array, p: float, most: NDArray[np.floating]) -> Json:
    """Moments (n, C, 3) on average, p that none is different, and which one differs ``most`` (C, 3)."""
    channel, moment = np.unravel_index(int(most.argmax()), most.shape)
    return {
        "mean": own[..., 0].mean(0).tolist(),
        "std": own[..., 1].mean(0).tolist(),
        "kurtosis": own[..., 2].mean(0).tolist(),
        "p": p,
        "differs most in": f"{('mean', 'std', 'kurtosis')[moment]} of channel {channel}",
    }


def noise_distribution(noise: Array, fresh: Array) -> Json:
    """Moments of noise (n, C, h, w), by Kolmogorov–Smirnov tests against those of fresh white noise (N, C, 3).

    The smallest p is multiplied by the number of moments.
    """
    own = moments(noise)
    each = [[stats.ks_2samp(own[:, c, m], fresh[:, c, m]).pvalue for m in range(3)] for c in range(own.shape[1])]
    tests = np.array(each)
    return distribution(own, float(min(1.0, tests.size * tests.min())), -tests)


def latent_distribution(latents: Array, unmarked: Array, keys: int) -> Json:
    """Moments of latents (n, C, h, w), by :func:`flipped` of what a key changes of those of the same seeds."""
    own = moments(latents)
    change = by_key(own - moments(unmarked), keys)
    p, t = flipped(change.reshape(keys, -1))
    return distribution(own, p, t.reshape(change.shape[1:]))


def flipped(values: Array) -> tuple[float, Array]:
    """P that all columns of values (n, d) are symmetric about 0, and |t| of each, (d,).

    The largest |t| of all columns is compared with that of every way to change the signs of rows (Westfall & Young
    1993), 2ⁿ in all: p is at least 2¹⁻ⁿ, however many columns there are.
    """
    n = len(values)
    energy = np.square(values).sum(0)

    def t(signs: Array) -> Array:
        mean = signs @ values / n
        spread = np.sqrt(np.maximum(energy - n * mean**2, 1e-12 * energy) / max(n - 1, 1) / n)
        return np.abs(mean) / np.where(energy > 0, spread, 1.0)

    every = np.array(1 - 2 * (np.arange(2**n)[:, None] >> np.arange(n) & 1), dtype=np.float64)
    largest, own = t(every).max(1), t(every[:1])[0]
    return float((largest >= own.max() * (1 - 1e-9)).mean()), own


def principal(reference: Array, dimensions: int) -> Callable[[Array], Array]:
    """Features (n, d) → their main directions among those of unmarked pictures, of unit variance there."""
    centre, scale = reference.mean(0), reference.std(0) + 1e-9
    fitted = PCA(dimensions, whiten=True, svd_solver="full").fit((reference - centre) / scale)
    return lambda features: np.asarray(fitted.transform((features - centre) / scale), dtype=np.float64)


def frechet(a: Array, b: Array) -> float:
    """Fréchet distance of Gaussians with the means and covariances of a and b, (n, d) (Dowson & Landau 1982)."""
    ca, cb = np.atleast_2d(np.cov(a.T)), np.atleast_2d(np.cov(b.T))
    cross = np.sqrt(np.maximum(np.linalg.eigvals(ca @ cb).real, 0)).sum()
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(ca) + np.trace(cb) - 2 * cross)


def frechet_excess(own: Array, same_seeds: Array) -> Json:
    """The Fréchet distance between features of marked pictures and of the unmarked ones of the same seeds.

    If the mark changes nothing, either may be the marked one: ``value`` is the distance less its mean over random
    swaps within the seeds, ``chance`` its central 95 % among them, and p the share of them that reaches it.
    """
    rng = np.random.default_rng(SEED)
    distance = frechet(own, same_seeds)
    swapped = []
    for swap in rng.integers(0, 2, (SWAPS, len(own), 1), dtype=np.int8):
        swapped.append(frechet(np.where(swap, own, same_seeds), np.where(swap, same_seeds, own)))
    mean = float(np.mean(swapped))
    low, high = np.quantile(swapped, (0.025, 0.975)) - mean
    return {
        "value": distance - mean,
        "chance": [float(low), float(high)],
        "p": float((1 + np.sum(np.array(swapped) >= distance - 1e-9)) / (1 + SWAPS)),
    }


def pairwise(features: Array, group: int) -> Array:
    """Mean distance between features (n, d) of one key and prompt, for every so many in turn."""
    parts = features.reshape(-1, group, features.shape[1])
    gaps = np.linalg.norm(parts[:, :, None] - parts[:, None], axis=3)
    return np.asarray(gaps.sum((1, 2)) / (group * (group - 1)), dtype=np.float64)


def ratio(own: Array, plain: Array, keys: int) -> Json:
    """Mean of own over mean of plain, with a bootstrap over keys, and Wilcoxon's p."""
    one, other = (by_key(values, keys) for values in (own, plain))
    rows = np.random.default_rng(SEED).integers(0, keys, (10_000, keys))
    low, high = np.quantile(one[rows].mean(1) / other[rows].mean(1), (0.025, 0.975))
    return {
        "value": float(one.mean() / other.mean()),
        "ci95": [float(low), float(high)],
        "p": wilcoxon(one - other),
    }


def agreement(losses: Array, plain: Array, truth: NDArray[np.int64], keys: int) -> Json:
    """Whether the network's own loss (n, prompts) tells the true prompt, with a mark and without.

    ``margin`` is the mean loss under other prompts over that under the true one, minus 1; ``difference`` that of
    the marked picture minus that of the unmarked one of the same seed.
    """
    rows = np.arange(len(truth))

    def look(each: Array) -> tuple[NDArray[np.bool_], Array]:
        own = each[rows, truth]
        others = (each.sum(1) - own) / (each.shape[1] - 1)
        return each.argmin(1) == truth, others / own - 1

    (right, margin), (plain_right, plain_margin) = look(losses), look(plain)
    difference = by_key(margin - plain_margin, keys)
    return {
        "right": int(right.sum()),
        "gained": int((right & ~plain_right).sum()),
        "lost": int((~right & plain_right).sum()),
        "of": len(right),
        "margin": float(margin.mean()),
        "difference": over_keys(difference) | {"p": wilcoxon(difference)},
    }


def corners(height: int, width: int) -> NDArray[np.bool_]:
    """(H, W) what is nearer to a corner than a share of the side, quarters of discs."""
    y, x = (np.minimum(np.arange(n), n - 1 - np.arange(n)) for n in (height, width))
    return np.asarray(np.hypot(y[:, None], x[None, :]) < CORNER * min(height, width))


def seen(x: Array, plain: Array, others: Array) -> Json:
    """Whether the mean of one key's pictures (n, 3, H, W) shows the key, beside that of unmarked ones.

    ``rms`` is the root mean square, in levels of 8 bits, of the mean of x − plain, of the same seeds and prompts,
    in the corners and elsewhere; ``chance`` that of others − plain, which differ in their noise alone.
    """
    inside = corners(*x.shape[-2:])
    out: Json = {}
    for name, pictures in (("rms", x), ("chance", others)):
        mean = (pictures - plain).mean(0) * 127.5
        out[name] = {
            "corners": float(np.sqrt((mean[:, inside] ** 2).mean())),
            "elsewhere": float(np.sqrt((mean[:, ~inside] ** 2).mean())),
        }
        out[name]["ratio"] = out[name]["corners"] / out[name]["elsewhere"]
    return out

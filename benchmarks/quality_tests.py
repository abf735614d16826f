"""How far pictures with a mark are from pictures without, for :mod:`benchmarks.quality`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from sklearn.decomposition import PCA

from watermark.features import Array

SEED, RESAMPLINGS = 0, 400
CORNER = 3 / 16
"""The corners reach so far, as a share of the side."""

Interval = dict[str, Any]


def interval(value: float, resampled: Array) -> Interval:
    """A value with its 95 % percentile interval."""
    low, high = np.quantile(resampled, (0.025, 0.975))
    return {"value": float(value), "ci95": [float(low), float(high)]}


def moments(values: Array) -> Array:
    """Mean, standard deviation and excess kurtosis of every picture and channel of (n, C, h, w), (n, C, 3)."""
    flat = values.reshape(*values.shape[:2], -1)
    return np.stack([flat.mean(2), flat.std(2), stats.kurtosis(flat, axis=2)], axis=2)


def distribution(values: Array, unmarked: Array) -> dict[str, Any]:
    """Moments of noise or latents (n, C, h, w) by channel, and tests against those without a mark, other seeds.

    ``p`` is the smallest of Kolmogorov–Smirnov tests on the pictures' moments, one for each channel and moment,
    times their number. ``distance`` is the Kolmogorov–Smirnov distance of all values.
    """
    own, plain = moments(values), moments(unmarked)
    p = [stats.ks_2samp(own[:, c, m], plain[:, c, m]).pvalue for c in range(own.shape[1]) for m in range(3)]
    names = [(c, m) for c in range(own.shape[1]) for m in ("mean", "std", "kurtosis")]
    channel, moment = names[int(np.argmin(p))]
    return {
        "mean": own[..., 0].mean(0).tolist(),
        "std": own[..., 1].mean(0).tolist(),
        "kurtosis": own[..., 2].mean(0).tolist(),
        "p": float(min(1.0, len(p) * min(p))),
        "differs most in": f"{moment} of channel {channel}",
        "distance": float(stats.ks_2samp(values.ravel(), unmarked.ravel()).statistic),
    }


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


def frechet_excess(own: Array, same_seeds: Array, others: Array) -> Interval:
    """By how much farther features are from those of unmarked pictures of other seeds than unmarked ones are.

    Bootstrap over pictures; a marked picture stays with the unmarked one of its seed.
    """
    rng = np.random.default_rng(SEED)
    n = len(own)
    drawn = []
    for _ in range(RESAMPLINGS):
        i, j = rng.integers(0, n, (2, n))
        drawn.append(frechet(own[i], others[j]) - frechet(same_seeds[i], others[j]))
    distance, baseline = frechet(own, others), frechet(same_seeds, others)
    return interval(distance - baseline, np.array(drawn)) | {"distance": distance, "baseline": baseline}


def pairwise(features: Array, group: int) -> Array:
    """Mean distance between features (n, d) of one key and prompt, for every so many in turn."""
    parts = features.reshape(-1, group, features.shape[1])
    gaps = np.linalg.norm(parts[:, :, None] - parts[:, None], axis=3)
    return np.asarray(gaps.sum((1, 2)) / (group * (group - 1)), dtype=np.float64)


def ratio(own: Array, plain: Array) -> Interval:
    """Mean of own over mean of plain, bootstrap over pairs."""
    rows = np.random.default_rng(SEED).integers(0, len(own), (10_000, len(own)))
    return interval(own.mean() / plain.mean(), own[rows].mean(1) / plain[rows].mean(1))


def agreement(losses: Array, plain: Array, truth: NDArray[np.int64]) -> dict[str, Any]:
    """Whether the network's own loss (n, prompts) tells the true prompt, with a mark and without.

    ``margin`` is the mean loss under other prompts over that under the true one, minus 1; ``difference`` that of
    the marked picture minus that of the unmarked one of the same seed, its p by Wilcoxon's test.
    """
    rows = np.arange(len(truth))

    def look(each: Array) -> tuple[NDArray[np.bool_], Array]:
        own = each[rows, truth]
        others = (each.sum(1) - own) / (each.shape[1] - 1)
        return each.argmin(1) == truth, others / own - 1

    (right, margin), (plain_right, plain_margin) = look(losses), look(plain)
    gained, lost = int((right & ~plain_right).sum()), int((~right & plain_right).sum())
    difference = margin - plain_margin
    draws = np.random.default_rng(SEED).integers(0, len(rows), (10_000, len(rows)))
    return {
        "right": int(right.sum()),
        "of": len(right),
        "mcnemar p": float(stats.binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0,
        "margin": float(margin.mean()),
        "difference": interval(difference.mean(), difference[draws].mean(1)),
        "wilcoxon p": float(stats.wilcoxon(difference).pvalue) if np.any(difference) else 1.0,
    }


def corners(height: int, width: int) -> NDArray[np.bool_]:
    """(H, W) what is nearer to a corner than a share of the side, quarters of discs."""
    y, x = (np.minimum(np.arange(n), n - 1 - np.arange(n)) for n in (height, width))
    return np.asarray(np.hypot(y[:, None], x[None, :]) < CORNER * min(height, width))


def seen(x: Array, plain: Array, others: Array) -> dict[str, Any]:
    """Whether the mean of one key's pictures (n, 3, H, W) shows the key, beside that of unmarked ones.

    ``rms`` is the root mean square, in levels of 8 bits, of the mean of x − plain, of the same seeds and prompts,
    in the corners and elsewhere; ``chance`` that of others − plain, which differ in their noise alone.
    """
    inside = corners(*x.shape[-2:])
    out: dict[str, Any] = {}
    for name, pictures in (("rms", x), ("chance", others)):
        mean = (pictures - plain).mean(0) * 127.5
        out[name] = {
            "corners": float(np.sqrt((mean[:, inside] ** 2).mean())),
            "elsewhere": float(np.sqrt((mean[:, ~inside] ** 2).mean())),
        }
        out[name]["ratio"] = out[name]["corners"] / out[name]["elsewhere"]
    return out

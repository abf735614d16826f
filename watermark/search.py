"""Which of many keys, seen through which transformation, is in recovered noise, and how sure that is.

Looking in many places finds something in one of them, so a p-value is that of the whole family of keys and
transformations: N A p by Bonferroni, or, with decoys, N times the share of random keys that fit as well anywhere.
Both hold for any image, because the keys are secret, see :mod:`watermark.detection`. For one key over white noise
Bonferroni's holds where nothing is undone by interpolation: turned or enlarged noise is not white.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from watermark.detection import TINY, angle_test, scale_of, sign_test
from watermark.features import Array, as_noise, coordinates, key_vector
from watermark.keys import Pattern, RingKey
from watermark.rings import Rings, rings_for
from watermark.transforms import IDENTITY, Transform
from watermark.views import coordinates_through, views

MOST_NUMBERS = 2**26
"""At most so many numbers, half a GiB, are in each array of views of samples, or of their fits."""


@dataclass(frozen=True)
class Match:
    """The best fit in recovered noise.

    Attributes:
        key: position of the key.
        transform: position of the transformation.
        rho: ρ, correlation of all marked bins with the key's, as :class:`watermark.detection.Detection` has it.
        p_value: probability that any key of the family fits as well through any transformation, if none is there.
        single_p_value: that of this key through this transformation alone.
        per_key: (N,) for every key the probability that it fits as well as it does through any transformation; for
            :func:`holm`, where several keys may be there.
        family: how many tests p_value is corrected for, keys times transformations.
    """

    key: int
    transform: int
    rho: float
    p_value: float
    single_p_value: float
    per_key: Array
    family: int


def search(
    noise: Tensor | NDArray[np.floating],
    keys: Sequence[RingKey],
    transforms: Sequence[Transform] = IDENTITY,
    *,
    whitening: NDArray[np.floating] | None = None,
    decoys: int = 0,
) -> list[Match]:
    """The best of many keys and transformations for every sample.

    Args:
        noise: (B, C, H, W) recovered initial noise.
        keys: of one pattern, ``rings``, ``levels`` or ``dense``.
        transforms: undone one by one on the noise, by interpolation.
        whitening: see :func:`watermark.detection.detect`.
        decoys: random keys that take the place of Bonferroni's correction for the transformations; choose their
            number before the result is seen, at least 10 N over the level that is asked for. 0 is none.

    Raises:
        ValueError: if there are no keys or transformations, the keys have several patterns or one without values,
            decoys is negative, or noise is not as :func:`watermark.detection.detect` wants it.
    """
    if not keys or not transforms:
        raise ValueError("search needs at least one key and one transformation")
    patterns = {key.pattern for key in keys}
    if len(patterns) > 1 or keys[0].pattern.kind == "zeros":
        raise ValueError("the keys of a search must be of one pattern, and that must not be 'zeros'")
    if decoys < 0:
        raise ValueError(f"decoys must be at least 0, got {decoys}")
    z = as_noise(noise)
    return search_vectors(z, key_matrix(keys, z.shape), keys[0].pattern, transforms, whitening, decoys)


def key_matrix(keys: Sequence[RingKey], shape: tuple[int, ...]) -> Array:
    """The keys' directions, (N, d) of unit length; a large part of the work, so keep it for many pictures."""
    k = np.stack([key_vector(key, shape) for key in keys])
    return k / np.maximum(np.linalg.norm(k, axis=1, keepdims=True), TINY)


def search_vectors(
    z: Array,
    directions: Array,
    pattern: Pattern,
    transforms: Sequence[Transform],
    whitening: NDArray[np.floating] | None = None,
    decoys: int = 0,
) -> list[Match]:
    """:func:`search` with the matrix of the keys made before, in parts if there is much to look at."""
    most = max(1, MOST_NUMBERS // max(len(directions) + decoys, directions.shape[1]))
    at_once = max(1, most // len(transforms))
    if len(z) > at_once:
        parts = [z[i : i + at_once] for i in range(0, len(z), at_once)]
        return [
            m for part in parts for m in search_vectors(part, directions, pattern, transforms, whitening, decoys)
        ]
    rings, scale = rings_for(z.shape, pattern), scale_of(whitening, z.shape, pattern)
    marked = z[:, list(rings.channels)]
    every = directions
    if decoys:
        every = np.concatenate([directions, random_directions(decoys, directions, pattern.kind)])
    best, where = best_fits(marked, every, rings, pattern.kind, transforms, scale, most)
    best, peak = best[:, : len(directions)], np.sort(best[:, len(directions) :])
    where = where[:, : len(directions)]
    out = []
    for i in range(len(z)):
        likely = where[i] if pattern.kind == "levels" else where[i, [best[i].argmax()]]
        places, rows = np.unique(likely, return_inverse=True)
        again = views(marked[i : i + 1], [transforms[place] for place in places])
        plain, energy = map(np.concatenate, zip(*(coordinates(v, rings, pattern.kind) for v in again), strict=True))
        single = p_of(best[i], (plain / scale)[rows], directions, pattern.kind)
        winner = int(np.lexsort((-best[i], single))[0])
        row = rows[winner if len(rows) > 1 else 0]
        if decoys:
            fewer = np.searchsorted(peak[i], best[i] - 1e-12)  # ties count
            per_key = (1 + decoys - fewer) / (decoys + 1)
        else:
            per_key = np.minimum(1.0, len(transforms) * single)
        out.append(
            Match(
                key=winner,
                transform=int(where[i, winner]),
                rho=float(plain[row] @ directions[winner] / np.sqrt(energy[row])),
                p_value=float(min(1.0, len(directions) * per_key[winner])),
                single_p_value=float(single[winner]),
                per_key=per_key,
                family=len(directions) * len(transforms),
            )
        )
    return out


def best_fits(
    marked: Array,
    directions: Array,
    rings: Rings,
    kind: str,
    transforms: Sequence[Transform],
    scale: Array | float,
    most: int,
) -> tuple[Array, NDArray[np.int64]]:
    """The best cosine of every sample's marked channels with every direction, (B, N), and through which transform.

    Raises:
        ValueError: if there is nothing to test.
    """
    best = np.full((len(marked), len(directions)), -np.inf)
    where = np.zeros(best.shape, dtype=np.int64)
    for first in range(0, len(transforms), most):
        for i, plain in enumerate(coordinates_through(marked, transforms[first : first + most], rings, kind)):
            y = plain / scale
            norm = np.linalg.norm(y, axis=1)
            if not (norm > 0).all():
                raise ValueError("noise is zero on all rings: nothing to test")
            fits = directions @ (y / norm[:, None]).T
            top = fits.max(1)
            where[i] = np.where(top > best[i], first + fits.argmax(1), where[i])
            best[i] = np.maximum(best[i], top)
    return best, where


def p_of(best: Array, y: Array, directions: Array, kind: str) -> Array:
    """P of every key through its best transformation alone, (N,); for ``levels`` y (N, d) is what is seen there."""
    p = np.maximum(angle_test(best, directions.shape[1])[1], TINY)
    if kind == "levels":  # counting is slow, so only where it can matter; elsewhere Hoeffding's larger bound
        weighted = y * directions
        fit = np.maximum(weighted.sum(1), 0)
        bound = np.exp(-(fit**2) / np.maximum(2 * (weighted**2).sum(1), TINY))
        counted = p < 0.01
        p[~counted] = np.maximum(p, bound)[~counted]
        for i in np.flatnonzero(counted):
            size = np.abs(directions[i])
            p[i] = max(p[i], sign_test(y[i] * size, np.sign(directions[i])))
    return p


def random_directions(count: int, directions: Array, kind: str) -> Array:
    """Directions of keys that nobody has, (count, d).

    Always the same for the same keys, so that a picture has one verdict, and as secret as they are: an image could
    be made that fits no decoy, if they were known.
    """
    rng = np.random.default_rng(list(hashlib.sha256(np.ascontiguousarray(directions).tobytes()).digest()))
    if kind == "levels":
        return rng.choice([-1.0, 1.0], (count, directions.shape[1])) * np.abs(directions[0])
    drawn = rng.standard_normal((count, directions.shape[1]))
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def holm(p: Array) -> Array:
    """Holm's adjusted p-values (N,): those at most α may all be claimed, with any error at all at most α."""
    order = np.argsort(p)
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted

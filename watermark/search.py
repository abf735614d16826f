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
from watermark.rings import rings_for
from watermark.transforms import IDENTITY, Transform, views

MOST_NUMBERS = 2**26
"""At most so many numbers, half a GiB, are held at a time for the views of samples."""


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
    """:func:`search` with the matrix of the keys made before; few samples at a time if there is much to look at."""
    at_once = max(1, MOST_NUMBERS // (len(transforms) * directions.shape[1]))
    if len(z) > at_once:
        parts = [z[i : i + at_once] for i in range(0, len(z), at_once)]
        return [
            m for part in parts for m in search_vectors(part, directions, pattern, transforms, whitening, decoys)
        ]
    scale = scale_of(whitening, z.shape, pattern)
    drawn = random_directions(decoys, directions, pattern.kind)
    out = []
    rings = rings_for(z.shape, pattern)
    seen = [coordinates(view, rings, pattern.kind) for view in views(z[:, list(rings.channels)], transforms)]
    for i in range(len(z)):
        plain, energy = (np.stack([pair[part][i] for pair in seen]) for part in (0, 1))
        y = plain / scale
        norm = np.linalg.norm(y, axis=1)
        if not (norm > 0).all():
            raise ValueError("noise is zero on all rings: nothing to test")
        fits = directions @ (y / norm[:, None]).T
        best, where = fits.max(1), fits.argmax(1)
        single = p_of(best, where, y, directions, pattern.kind)
        if decoys:
            peak = np.sort((drawn @ (y / norm[:, None]).T).max(1))
            per_key = (1 + decoys - np.searchsorted(peak, best - 1e-12)) / (decoys + 1)  # ties count
        else:
            per_key = np.minimum(1.0, len(transforms) * single)
        winner = int(np.lexsort((-best, single))[0])
        out.append(
            Match(
                key=winner,
                transform=int(where[winner]),
                rho=float(plain[where[winner]] @ directions[winner] / np.sqrt(energy[where[winner]])),
                p_value=float(min(1.0, len(directions) * per_key[winner])),
                single_p_value=float(single[winner]),
                per_key=per_key,
                family=len(directions) * len(transforms),
            )
        )
    return out


def p_of(best: Array, where: NDArray[np.int64], y: Array, directions: Array, kind: str) -> Array:
    """P of every key through its best transformation alone, (N,)."""
    p = np.maximum(angle_test(best, directions.shape[1])[1], TINY)
    if kind == "levels":  # counting is slow, so only where it can matter; elsewhere Hoeffding's larger bound
        weighted = y[where] * directions
        fit = np.maximum(weighted.sum(1), 0)
        bound = np.exp(-(fit**2) / np.maximum(2 * (weighted**2).sum(1), TINY))
        counted = p < 0.01
        p[~counted] = np.maximum(p, bound)[~counted]
        for i in np.flatnonzero(counted):
            size = np.abs(directions[i])
            p[i] = max(p[i], sign_test(y[where[i]] * size, np.sign(directions[i])))
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

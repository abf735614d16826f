"""How well keys of any kind fit recovered noise, through transformations, and how well they fit null images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from watermark.calibration import Calibration
from watermark.detection import Detection, detect, least_p
from watermark.features import Array
from watermark.foreign import ArrayKey, detect_array
from watermark.keys import Pattern, RingKey
from watermark.search import key_matrix, search_vectors
from watermark.transforms import IDENTITY, Transform
from watermark.views import views

CHUNK = 64
"""Null images whose views are held at a time."""


@dataclass(frozen=True)
class Fit:
    """Keys of one group in one sample: p of each, corrected for transformations, and the best one's details."""

    p_values: Array
    best: int
    rho: float
    transform: Transform


@dataclass(frozen=True)
class Group:
    """Keys that are tested in one go.

    Attributes:
        names: all keys of a pattern of ours, or one key of ``zeros`` or of other code.
        pattern: of the former, whose noise is whitened; None for the latter.
        exact: whether p is exact over the choice of the key: of keys of ours but ``zeros``, and of those of other
            code that are known to be drawn at random. The p of others takes the noise to be white.
        transforms: where these keys are looked for.
        least: the least p that such a key can have, corrected for transformations; 0 where that is not known.
        test: noise (B, C, h, w) float64 and a whitening or None → the fits of every sample.
    """

    names: tuple[str, ...]
    pattern: Pattern | None
    exact: bool
    transforms: tuple[Transform, ...]
    least: float
    test: Callable[[Array, Array | None], list[Fit]]


def groups_of(
    keys: Mapping[str, RingKey | ArrayKey], transforms: tuple[Transform, ...], shape: tuple[int, ...]
) -> Iterator[Group]:
    """The groups of keys, for noise of a shape (C, h, w)."""
    secret: dict[Pattern, dict[str, RingKey]] = {}
    others: dict[str, tuple[Callable[[Array], Detection], bool, tuple[Transform, ...]]] = {}
    for name, key in keys.items():
        if isinstance(key, ArrayKey):
            others[name] = partial(detect_array, key=key), key.draws is not None, transforms
        elif key.pattern.kind == "zeros":  # what is missing is missing from every side
            others[name] = partial(detect, key=key), False, IDENTITY
        else:
            secret.setdefault(key.pattern, {})[name] = key
    for pattern, own in secret.items():
        directions = key_matrix(list(own.values()), (1, *shape))
        least = least_p(pattern.kind, directions.shape[1]) * len(transforms)
        test = partial(secret_fits, directions=directions, pattern=pattern, transforms=transforms)
        yield Group(tuple(own), pattern, True, transforms, least, test)
    for name, (detection, exact, places) in others.items():
        yield Group((name,), None, exact, places, 0.0, partial(other_fits, detection=detection, transforms=places))


def secret_fits(
    z: Array, whitening: Array | None, *, directions: Array, pattern: Pattern, transforms: tuple[Transform, ...]
) -> list[Fit]:
    """Fits of keys of one pattern, by :func:`watermark.search.search_vectors`."""
    matches = search_vectors(z, directions, pattern, transforms, whitening)
    return [Fit(m.per_key, m.key, m.rho, transforms[m.transform]) for m in matches]


def other_fits(
    z: Array,
    whitening: Array | None,
    *,
    detection: Callable[[Array], Detection],
    transforms: tuple[Transform, ...],
) -> list[Fit]:
    """Fits of one key that is not ours, or of ``zeros``, in noise as it is, without whitening."""
    seen = [detection(view) for view in views(z, transforms)]
    p, rho = np.stack([d.p_value for d in seen]), np.stack([d.rho for d in seen])
    return [
        Fit(np.minimum(1.0, len(transforms) * p[t, i : i + 1]), 0, float(rho[t, i]), transforms[t])
        for i, t in enumerate(p.argmin(0))
    ]


def null_p_values(
    groups: tuple[Group, ...], calibration: Calibration, progress: Callable[[int, int], None] | None = None
) -> list[Array]:
    """For every group (n,) p of every null image: the smallest of any key of ours, or that of the other key itself.

    Each half of the images is whitened by the other.

    Args:
        groups: of keys.
        calibration: the null images.
        progress: called with the number of images done and that of all.
    """
    noise: NDArray[np.float16] = calibration.noise
    found = [np.ones(len(noise)) for _ in groups]
    done = 0
    for own, rest in calibration.halves():
        scales = [None if g.pattern is None else calibration.whitening(g.pattern, rest) for g in groups]
        for rows in np.array_split(own, -(-len(own) // CHUNK)):
            z = noise[rows].astype(np.float64)
            for p, group, scale in zip(found, groups, scales, strict=True):
                p[rows] = [fit.p_values.min() for fit in group.test(z, scale)]
            done += len(rows)
            if progress is not None:
                progress(done, len(noise))
    ours = np.minimum.reduce([p for p, g in zip(found, groups, strict=True) if g.pattern] or [np.ones(len(noise))])
    return [ours if group.pattern else p for p, group in zip(found, groups, strict=True)]

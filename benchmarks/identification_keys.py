"""Thousands of keys of four kinds, ours and tree-ring's own, that recovered noise is tested for at once."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from watermark.detection import TINY, angle_test
from watermark.features import Array
from watermark.foreign import ArrayKey, Complex, conjugate_bins
from watermark.keys import Pattern, RingKey
from watermark.published_keys import tree_ring_key
from watermark.search import key_matrix, search_vectors
from watermark.transforms import Transform
from watermark.views import views

OURS = ("dense", "rings", "levels")
KINDS = (*OURS, "tree-ring", "unmarked")
TESTS = (*OURS, "tree-ring", "tree-ring, L1")


class Keys(Protocol):
    """N keys of one kind."""

    def test(
        self, z: Array, transforms: Sequence[Transform], rows: NDArray[np.int64] | None = None
    ) -> tuple[Array, int]:
        """How badly every key fits noise (1, C, h, w), (N,), and which fits best.

        Where keys have p-values, a misfit is p, corrected for the transformations. ``rows`` are the keys to test.
        """


@dataclass(frozen=True)
class OurKeys:
    """Keys of a pattern as unit vectors (N, d)."""

    pattern: Pattern
    directions: Array

    def test(
        self, z: Array, transforms: Sequence[Transform], rows: NDArray[np.int64] | None = None
    ) -> tuple[Array, int]:
        """By the search of the library."""
        chosen = self.directions if rows is None else self.directions[rows]
        (match,) = search_vectors(z, chosen, self.pattern, transforms)
        return match.per_key, match.key


@dataclass(frozen=True)
class TheirKeys:
    """Keys of tree-ring code, by the statistic of :func:`watermark.foreign.detect_array` on bins.

    Args:
        where: (C, h, w) the mask and its conjugate.
        marks: (N, 2n) what real noise holds of the keys there, of unit length, real and imaginary parts in turn.
    """

    where: NDArray[np.bool_]
    marks: Array

    def test(
        self, z: Array, transforms: Sequence[Transform], rows: NDArray[np.int64] | None = None
    ) -> tuple[Array, int]:
        """P of every key through its best transformation, times their number."""
        seen = np.concatenate([np.fft.fft2(view)[:, self.where] for view in views(z, transforms)]).view(np.float64)
        marks = self.marks if rows is None else self.marks[rows]
        cosine = (marks @ (seen / np.linalg.norm(seen, axis=1, keepdims=True)).T).max(1)
        p = np.maximum(angle_test(cosine, int(self.where.sum()))[1], TINY)
        return np.minimum(1.0, len(transforms) * p), int(cosine.argmax())


@dataclass(frozen=True)
class TheirRule:
    """Keys of tree-ring code, by its own rule.

    Args:
        mask: (C, h, w) where they are written.
        values: (N, n) what is.
    """

    mask: NDArray[np.bool_]
    values: Complex

    def test(
        self, z: Array, transforms: Sequence[Transform], rows: NDArray[np.int64] | None = None
    ) -> tuple[Array, int]:
        """The mean distance between the bins of noise and key, of the view that is closest."""
        values = self.values if rows is None else self.values[rows]
        distance = np.min(
            [np.abs(np.fft.fft2(v)[0, self.mask] - values).mean(1) for v in views(z, transforms)], axis=0
        )
        return distance, int(distance.argmin())


def our_key(number: int, kind: str) -> RingKey:
    """Our key of a number, the same every time."""
    return RingKey(hashlib.sha256(f"identification {number}".encode()).digest(), Pattern(kind))


def their_key(number: int, shape: tuple[int, int, int]) -> ArrayKey:
    """Key of tree-ring code with a number for its seed, for latents (C, h, h); the defaults there."""
    return tree_ring_key(number, shape, pattern="ring", channel=3, radius=10)


def all_keys(count: int, shape: tuple[int, int, int]) -> dict[str, Keys]:
    """So many keys for every test."""
    keys: dict[str, Keys] = {
        kind: OurKeys(Pattern(kind), key_matrix([our_key(i, kind) for i in range(count)], (1, *shape)))
        for kind in OURS
    }
    mask = their_key(0, shape).mask
    where = mask | conjugate_bins(mask.astype(np.complex128)).real.astype(bool)
    values, marks = [], []
    for i in range(count):
        key = their_key(i, shape)
        values.append(key.values[mask])
        marks.append(key.mark[where].view(np.float64))
    keys["tree-ring"] = TheirKeys(where, np.stack(marks) / np.linalg.norm(marks, axis=1, keepdims=True))
    keys["tree-ring, L1"] = TheirRule(mask, np.stack(values))
    return keys

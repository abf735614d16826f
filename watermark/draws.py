"""Keys of other code that were drawn at random: a p that is exact over the draws, for any image.

A key of rings of tree-ring code has one complex Gaussian number a ring, one of random values has one for every pair
of conjugate bins. What real noise can hold of a key is linear in these numbers, A a. Ridge regression of recovered
noise on A estimates them. Whatever an image is, if it does not depend on the key, the direction of a is uniform on
the sphere, so that its angle to the estimate has the distribution of :func:`watermark.detection.angle_test`: for
images that carry a key of another seed, too.

An image depends on the key if its noise was drawn from the key's own seed, as it is by the recipes of others, or if
seed, radius or channel were chosen after it was seen. There are 2³² seeds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.linalg import SuperLU, splu

from watermark.detection import TINY

Array = NDArray[np.float64]
Complex = NDArray[np.complex128]

EXPECTED = 0.6
"""The ρ that the regression is best for; p is exact whatever it is."""
RIDGE = (1 - EXPECTED**2) / EXPECTED**2 / 0.5
"""Variance of what is lost over that of either part of a draw, which is ½ where the noise has 1."""


def check_draws(draws: NDArray[np.int64], values: Complex, mask: NDArray[np.bool_]) -> None:
    """Raise ValueError unless draws (C, H, W) number bins of the mask, and bins of one draw have one value."""
    if draws.shape != mask.shape or (draws[~mask] != 0).any() or not draws.any():
        raise ValueError("draws must number bins of the mask, and no others")
    mask = draws != 0
    numbers = np.abs(draws[mask])
    if not (0 < numbers.min() <= numbers.max() <= len(numbers) and np.bincount(numbers)[1:].all()):
        raise ValueError("draws must be numbered from 1 on, without gaps")
    there, drawn = np.where(draws < 0, values.conj(), values)[mask], drawn_values(draws, values)
    if not np.allclose(drawn[numbers - 1], there, rtol=1e-5, atol=1e-5 * np.abs(there).max()):
        raise ValueError("bins of one draw must have one value, or its conjugate where its number is negative")


def drawn_values(draws: NDArray[np.int64], values: Complex) -> Complex:
    """(m,) the numbers that were drawn."""
    mask = draws != 0
    out = np.zeros(int(np.abs(draws).max()), dtype=np.complex128)
    out[np.abs(draws[mask]) - 1] = np.where(draws < 0, values.conj(), values)[mask]
    return out


@dataclass(frozen=True)
class Regression:
    """What estimates draws from noise.

    Attributes:
        pairs: (C, H, W) one bin of every conjugate pair that holds something of a draw.
        own: the same for bins that are their own conjugates.
        a: (d, n) A, from parts of draws to coordinates of :func:`watermark.foreign.coordinates`.
        kept: (n,) which of the m real and then m imaginary parts real noise holds anything of.
        factors: of A'A + λ.
    """

    pairs: NDArray[np.bool_]
    own: NDArray[np.bool_]
    a: sparse.csr_matrix
    kept: NDArray[np.int64]
    factors: SuperLU

    def parts(self, drawn: Complex) -> Array:
        """(n,) the parts of draws (m,) that are estimated."""
        parts: Array = np.concatenate([drawn.real, drawn.imag])[self.kept]
        return parts

    def estimate(self, y: Array) -> Array:
        """(B, n) the parts of draws, estimated from coordinates (B, d)."""
        found: Array = self.factors.solve(np.ascontiguousarray(self.a.T @ y.T)).T
        return found


def regression(draws: NDArray[np.int64]) -> Regression:
    """The ridge regression for draws (C, H, W): (A'A + λ)⁻¹A', where A a is the Hermitian part of a key."""
    flat = np.arange(draws[0].size).reshape(draws.shape[1:])
    twin = np.roll(flat[::-1, ::-1], 1, axis=(0, 1))
    mirrored = draws.reshape(len(draws), -1)[:, twin]
    held = (draws != 0) | (mirrored != 0)
    pairs, own = held & (flat < twin), held & (flat == twin)
    count, many = int(pairs.sum()), int(np.abs(draws).max())
    rows, columns, entries = [], [], []
    for numbers, turned in ((draws[pairs], 1), (mirrored[pairs], -1)):  # half of a bin, and of its conjugate's
        (there,) = np.nonzero(numbers)
        number = np.abs(numbers[there]) - 1
        rows += [there, count + there]
        columns += [number, many + number]
        entries += [np.full(len(there), np.sqrt(0.5)), np.sqrt(0.5) * turned * np.sign(numbers[there])]
    alone = draws[own]
    rows.append(2 * count + np.arange(len(alone)))
    columns.append(np.abs(alone) - 1)
    entries.append(np.ones(len(alone)))
    place = np.concatenate(rows), np.concatenate(columns)
    a = sparse.coo_matrix((np.concatenate(entries), place), shape=(2 * count + len(alone), 2 * many)).tocsc()
    kept = np.flatnonzero(np.asarray(a.multiply(a).sum(0)).ravel() > TINY)
    a = a[:, kept]
    return Regression(pairs, own, a.tocsr(), kept, splu((a.T @ a + RIDGE * sparse.eye(len(kept))).tocsc()))


def cosine(estimate: Array, parts: Array) -> Array:
    """(B,) of the angle between estimates (B, n) and what was drawn (n,); 0 where nothing was estimated."""
    return estimate @ parts / (np.linalg.norm(parts) * np.maximum(np.linalg.norm(estimate, axis=1), TINY))

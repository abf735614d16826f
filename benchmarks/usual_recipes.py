"""The tests in use beside ours: the chi-square of Wen et al. 2023, distances, and t on bins."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from benchmarks.null_images import secret_key
from benchmarks.null_tests import Nulls, Test, counted, their_keys
from watermark.detection import angle_test
from watermark.features import Array, key_spectrum, noise_vector
from watermark.keys import Pattern, RingKey
from watermark.rings import rings_for
from watermark.search import key_matrix


def usual_tests(nulls: Nulls, count: int) -> Iterator[Test]:
    """The recipes in use, with so many keys of every kind, on the same noise; names as those of our tests."""
    shape = nulls.noise.shape[1:]
    unmarked = nulls.of("unmarked")
    elsewhere = np.setdiff1d(np.arange(len(nulls.noise)), unmarked)
    for kind in ("tree-ring", "constant rings", "dense"):
        if kind == "dense":
            values, mask = dense_values([secret_key("tested", i) for i in range(count)], shape)
        else:
            keys = their_keys(kind, count, shape)
            mask = keys[0].mask
            values = np.stack([key.values[mask] for key in keys])
        bins = np.fft.fft2(nulls.noise)[:, mask]
        yield Test(f"{kind} | chi-square | alone", chi_square(bins, values))
        distance = np.stack([np.abs(bins - value).mean(1) for value in values], axis=1)
        p = counted(distance, [(elsewhere, unmarked)])  # NaN for the pictures that set it, of which a share passes
        yield Test(f"{kind} | L1, set on unmarked | alone", p, 1 / (1 + len(unmarked)))
    pattern = Pattern("rings")
    y, energy = noise_vector(nulls.noise, pattern)
    directions = key_matrix([secret_key("tested", i, "rings") for i in range(count)], (1, *shape))
    cosine = y @ directions.T / np.sqrt(energy)[:, None]
    yield Test("rings | t on bins | alone", angle_test(cosine, bins_of(shape, pattern))[1])


def bins_of(shape: tuple[int, ...], pattern: Pattern) -> int:
    """M, the number of marked bins of latents (C, h, w)."""
    rings = rings_for(shape, pattern)
    return len(rings.channels) * int(rings.bins.sum())


def dense_values(
    keys: Sequence[RingKey], shape: tuple[int, ...]
) -> tuple[NDArray[np.complex128], NDArray[np.bool_]]:
    """What dense keys write into ``fft2``, (K, M), and where, (C, h, w)."""
    rings = rings_for(shape, keys[0].pattern)
    mask = np.zeros(shape, dtype=bool)
    mask[list(rings.channels)] = rings.index >= 0
    inside = mask[list(rings.channels)]
    scale = np.sqrt(shape[-2] * shape[-1])
    return np.stack([key_spectrum(key, (1, *shape))[inside] * scale for key in keys]), mask


def chi_square(bins: NDArray[np.complex128], values: NDArray[np.complex128]) -> Array:
    """P (n, K) of Wen et al. 2023 for masked bins (n, M) and keys (K, M), as its code has it."""
    y, k = (np.concatenate([a.real, a.imag], axis=1) for a in (bins, values))
    variance = y.var(1, ddof=1)[:, None]
    size = (k**2).sum(1) / variance
    x = ((y**2).sum(1)[:, None] - 2 * y @ k.T) / variance + size
    p: Array = stats.ncx2.cdf(x, y.shape[1], size)
    return p


def misfits(y: Array, k: Array) -> dict[str, Array]:
    """What the usual recipes take for closeness, (n,), for dense coordinates (n, d) of noise and (d,) of a key.

    The chi-square is that of :func:`chi_square` on all d marked bins, of which y holds one of every pair.
    """
    off, numbers = y - k, 2 * len(k)
    total = np.sqrt(2) * y[:, ::2].sum(1)  # of real and imaginary parts; the latter cancel
    variance = ((y**2).sum(1) - total**2 / numbers) / (numbers - 1)
    far = (off**2).sum(1)
    return {
        "chi-square": stats.ncx2.cdf(far / variance, numbers, k @ k / variance),
        "L2": far,
        "L1": np.hypot(off[:, ::2], off[:, 1::2]).mean(1),
    }

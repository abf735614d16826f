"""The sets of keys that :mod:`benchmarks.classification` tells apart, and the two rules that do it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from watermark.detection import TINY, angle_test
from watermark.features import Array, noise_vector
from watermark.foreign import ArrayKey, constant_ring_key, detect_array
from watermark.keys import Pattern, RingKey
from watermark.noise import watermarked_noise
from watermark.search import key_matrix

Rows = NDArray[np.int64]
NONE = "none"
OURS = ("rings", "dense")


@dataclass(frozen=True)
class KeySet:
    """Keys that are told apart, and the pictures that carry them.

    Attributes:
        name: of the set.
        keys: of one kind; empty for pictures without a mark.
        pictures: how many there are.
        published: so many of them, the first, are inverted by the published methods, too, which are slow.
        per_prompt: so many in turn have one prompt, and each another key.
        strength: of our keys.
    """

    name: str
    keys: tuple[ArrayKey, ...] | tuple[RingKey, ...]
    pictures: int
    published: int
    per_prompt: int = 1
    strength: float = 0.7

    def key_of(self, picture: int) -> int | None:
        """Which key a picture carries."""
        return picture % len(self.keys) if self.keys else None

    def prompts(self, lines: Sequence[str]) -> list[str]:
        """The prompt of every picture."""
        return [lines[i // self.per_prompt % len(lines)] for i in range(self.pictures)]


WORST_CHANNEL = 1
"""Of Sapling: the encoder alone recovers half as much of its noise as of that of the others."""

MANY = 1000
WEAK = 0.5
"""Strength of keys that are told apart with difficulty; by default it is 0.7."""


def key_sets(shape: tuple[int, int, int]) -> tuple[KeySet, ...]:
    """The keys of Hong et al. 2024 as published and in another channel, ours of two kinds, many weak ones, none.

    Args:
        shape: (C, h, h) of the latent.
    """
    radius, level = min(6, max(1, round(6 * shape[-1] / 64))), 80 * shape[-1] / 64
    constant = partial(constant_ring_key, shape=shape, level=level)
    there = min(WORST_CHANNEL, shape[0] - 1)
    published = tuple(constant(n, radius=radius) for n in range(3))
    elsewhere = tuple(constant(n, channel=there) for n in range(3))
    weak = Pattern("dense", channels=(there,))
    return (
        KeySet(f"constant rings, radius {radius}, channel 0", published, 300, 300, 3),
        KeySet(f"constant rings, radius 6, channel {there}", elsewhere, 120, 60, 3),
        *(KeySet(kind, tuple(our_key(n, Pattern(kind)) for n in range(3)), 60, 12, 3) for kind in OURS),
        KeySet(
            f"{MANY:,} weak keys, channel {there}",
            tuple(our_key(n, weak) for n in range(MANY)),
            100,
            50,
            strength=WEAK,
        ),
        KeySet(NONE, (), 100, 100),
    )


def our_key(number: int, pattern: Pattern) -> RingKey:
    """Our key of a number, the same every time."""
    return RingKey(hashlib.sha256(f"classification {number}".encode()).digest(), pattern)


def marked_noise(own: KeySet, picture: int, seed: int, shape: tuple[int, ...]) -> Tensor:
    """Noise (1, C, h, w) of a picture of a set; the same seed gives the same plain noise in every set."""
    generator = torch.Generator().manual_seed(seed)
    number = own.key_of(picture)
    if number is None:
        return torch.randn((1, *shape), generator=generator, dtype=torch.float64).float()
    key = own.keys[number]
    if isinstance(key, RingKey):
        return watermarked_noise(key, (1, *shape), strength=own.strength, generator=generator)
    plain = torch.randn((1, *shape), generator=generator, dtype=torch.float64).numpy()
    written = np.where(key.mask, key.values, np.fft.fft2(plain))
    return torch.from_numpy(np.fft.ifft2(written).real).float()


def angles(own: KeySet, z: Array) -> tuple[Array, Array]:
    """Our rule: the cosine of noise (n, C, h, w) with every key of a set, (n, K), and its p-value."""
    first = own.keys[0]
    if isinstance(first, ArrayKey):
        found = [detect_array(z, key) for key in own.keys if isinstance(key, ArrayKey)]
        return np.stack([d.rho for d in found], axis=1), np.stack([d.p_value for d in found], axis=1)
    k = directions(tuple(key for key in own.keys if isinstance(key, RingKey)), z.shape[1:])
    y, _ = noise_vector(z, first.pattern)
    cosine = (y / np.linalg.norm(y, axis=1, keepdims=True)) @ k.T
    return cosine, np.maximum(angle_test(cosine, k.shape[1])[1], TINY)


@lru_cache(maxsize=8)
def directions(keys: tuple[RingKey, ...], shape: tuple[int, ...]) -> Array:
    """Our keys as unit vectors, (K, d)."""
    return key_matrix(keys, (1, *shape))


def distances(keys: Sequence[ArrayKey], z: Array) -> Array:
    """The rule of Hong et al. 2024: mean distance of the marked bins of noise (n, C, h, w) from keys', (n, K)."""
    mask = keys[0].mask
    bins = np.fft.fft2(z)[:, mask]
    return np.stack([np.abs(bins - key.values[mask]).mean(1) for key in keys], axis=1)


def wilson(hits: int, trials: int) -> dict[str, object]:
    """A rate with its 95 % Wilson interval."""
    interval = stats.binomtest(hits, trials).proportion_ci(0.95, "wilson")
    return {"hits": hits, "trials": trials, "rate": hits / trials, "ci95": [interval.low, interval.high]}


def mcnemar(ours: NDArray[np.bool_], theirs: NDArray[np.bool_]) -> dict[str, object]:
    """McNemar's exact test that two methods are right equally often on the same pictures."""
    gained, lost = int((ours & ~theirs).sum()), int((~ours & theirs).sum())
    p = float(stats.binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0
    return {"gained": gained, "lost": lost, "p": p}

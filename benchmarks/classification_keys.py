"""The sets of keys that :mod:`benchmarks.classification` tells apart, and the rules that do it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from watermark.detection import TINY, angle_test
from watermark.features import Array, noise_vector
from watermark.foreign import ArrayKey, conjugate_bins, detect_array
from watermark.keys import Pattern, RingKey
from watermark.noise import watermarked_noise
from watermark.published_keys import constant_ring_key
from watermark.search import key_matrix

Rows = NDArray[np.int64]
SEED = 6
NONE = "none"
OURS = ("rings", "dense")


@dataclass(frozen=True)
class KeySet:
    """Keys that are told apart, and the pictures that carry them.

    Attributes:
        name: of the set.
        keys: of one kind; empty for pictures without a mark.
        pictures: how many there are.
        per_prompt: so many in turn have one prompt, and each another key.
        strength: of our keys.
        seed: of the first picture's noise; the others follow.
        published: whether noise is recovered as published, too.
        slow: whether the published decoder inversions, which are slow, are tried, too.
    """

    name: str
    keys: tuple[ArrayKey, ...] | tuple[RingKey, ...]
    pictures: int
    per_prompt: int = 1
    strength: float = 0.7
    seed: int = SEED
    published: bool = False
    slow: bool = False

    def key_of(self, picture: int) -> int | None:
        """Which key a picture carries."""
        return picture % len(self.keys) if self.keys else None

    def prompts(self, lines: Sequence[str]) -> list[str]:
        """The prompt of every picture."""
        return [lines[i // self.per_prompt % len(lines)] for i in range(self.pictures)]


WORST_CHANNEL = 1
"""Of Sapling: the encoder alone recovers less of its noise than of that of the others. Seen on pictures of other
seeds; it is where a better latent can make a difference."""

MANY = 1000
WEAK, WEAKER = 0.5, 0.25
"""Strengths of keys that are told apart with difficulty; by default it is 0.7.

At 0.5 Sapling's first weights left the encoder 36 of 100 pictures to gain, those that followed none. 0.25 was
chosen from the cosines at 0.5, halved, to leave it about half, before any picture at 0.25 was made; these have
seeds of their own.
"""


def key_sets(shape: tuple[int, int, int]) -> tuple[KeySet, ...]:
    """The keys of Hong et al. 2024 in three ways, ours of two kinds, many weak ones, none.

    Theirs have the bins of the published ones, all within radius 6, and heights in proportion to the noise's
    transform, so that they are as far from each other; the same in another channel; and on a latent of less than 64
    also at a radius in proportion, where the rings that differ most are missing.

    Args:
        shape: (C, h, h) of the latent.
    """
    in_proportion, level = min(6, max(1, round(6 * shape[-1] / 64))), 80 * shape[-1] / 64
    there = min(WORST_CHANNEL, shape[0] - 1)

    def constant(radius: int, channel: int, pictures: int, *, published: bool = False) -> KeySet:
        keys = tuple(
            constant_ring_key(n, shape=shape, level=level, radius=radius, channel=channel) for n in range(3)
        )
        name = f"constant rings, radius {radius}, channel {channel}"
        return KeySet(name, keys, pictures, 3, published=published, slow=published)

    weak = Pattern("dense", channels=(there,))
    many = tuple(our_key(n, weak) for n in range(MANY))
    return (
        constant(6, 0, 300, published=True),
        *([constant(in_proportion, 0, 150)] if in_proportion < 6 else []),
        constant(6, there, 120),
        *(KeySet(kind, tuple(our_key(n, Pattern(kind)) for n in range(3)), 60, 3) for kind in OURS),
        KeySet(f"{MANY:,} weak keys, channel {there}", many, 100, strength=WEAK, slow=True),
        KeySet(f"{MANY:,} weaker keys, channel {there}", many, 200, 2, strength=WEAKER, seed=1000, slow=True),
        KeySet(NONE, (), 100, published=True, slow=True),
    )


def our_key(number: int, pattern: Pattern) -> RingKey:
    """Our key of a number, the same every time."""
    return RingKey(hashlib.sha256(f"classification {number}".encode()).digest(), pattern)


def marked_noise(own: KeySet, picture: int, shape: tuple[int, ...]) -> Tensor:
    """Noise (1, C, h, w) of a picture of a set; the same seed gives the same plain noise in every set."""
    generator = torch.Generator().manual_seed(own.seed + picture)
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


def distances(keys: Sequence[ArrayKey], z: Array, *, hermitian: bool = False) -> Array:
    """The rule of Hong et al. 2024: mean distance of the marked bins of noise (n, C, h, w) from keys', (n, K).

    ``hermitian`` compares with what real noise can hold of the keys, at the marked bins and their conjugates.
    """
    mask = keys[0].mask
    values = [key.mark if hermitian else key.values for key in keys]
    if hermitian:
        mask = mask | conjugate_bins(mask.astype(np.complex128)).real.astype(bool)
    bins = np.fft.fft2(z)[:, mask]
    return np.stack([np.abs(bins - value[mask]).mean(1) for value in values], axis=1)


def share(right: NDArray[np.bool_], per_prompt: int = 1) -> dict[str, object]:
    """How many pictures are right, with a 95 % interval for these keys.

    Wilson's, for as many independent pictures as there are by the variance between prompts, which so many in turn
    share, and no more than there are pictures.
    """
    hits, trials = int(right.sum()), len(right)
    rate = hits / trials
    prompts = [part.sum() - rate * len(part) for part in np.split(right, range(per_prompt, trials, per_prompt))]
    alone, together = trials * rate * (1 - rate), np.square(prompts).sum()
    independent = trials * min(1.0, alone / together) if together else trials
    z = stats.norm.isf(0.025)
    middle = (rate + z**2 / (2 * independent)) / (1 + z**2 / independent)
    half = z / (1 + z**2 / independent) * np.sqrt(rate * (1 - rate) / independent + (z / (2 * independent)) ** 2)
    return {"hits": hits, "trials": trials, "rate": rate, "ci95": [float(middle - half), float(middle + half)]}


def mcnemar(ours: NDArray[np.bool_], theirs: NDArray[np.bool_], per_prompt: int = 1) -> dict[str, Any]:
    """McNemar's exact test that two methods are right equally often on the same pictures.

    Pictures of one prompt, so many in turn, are not independent: p is that of the sign test over prompts, whether
    one method is right on more of its pictures than the other. With one picture a prompt that is McNemar's.
    """
    gained, lost = int((ours & ~theirs).sum()), int((~ours & theirs).sum())
    change = ours.astype(int) - theirs
    prompts = np.add.reduceat(change, range(0, len(change), per_prompt))
    more, fewer = int((prompts > 0).sum()), int((prompts < 0).sum())
    p = float(stats.binomtest(more, more + fewer).pvalue) if more + fewer else 1.0
    return {"gained": gained, "lost": lost, "p": p}

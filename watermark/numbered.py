"""Two tiers: whose picture it is, and which one.

The noise of picture number i of a key can be derived from the secret alone, so that nothing needs to be kept. The
key is found by its pattern, see :mod:`watermark.detection`; then the rest of the noise, outside the marked bins,
says which number the picture has, and how much of that picture's own noise is there. In a forgery whose author
transferred the pattern of a marked picture to another one, little is. WIND, https://arxiv.org/abs/2412.04653, has
two such tiers.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from watermark.detection import TINY, angle_test
from watermark.features import Array, as_noise
from watermark.keys import RingKey
from watermark.noise import marked, secret_noise
from watermark.rings import rings_for


@dataclass(frozen=True)
class Confirmation:
    """Which picture of a key fits the noise best.

    Attributes:
        number: of the picture.
        correlation: of the recovered noise with that picture's, outside the marked bins: near 1 if nothing was
            lost, around 0 for the noise of any other picture.
        p_value: probability that any of the numbers fits as well if none is right, times their number (Bonferroni).
    """

    number: int
    correlation: float
    p_value: float


def numbered_noise(
    key: RingKey,
    shape: tuple[int, ...],
    number: int,
    *,
    strength: float = 0.7,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
) -> Tensor:
    """The noise of picture ``number`` of a key, always the same; other numbers tell nothing about it.

    It comes from the key stream of a cipher, ChaCha20, not from a seeded generator: PyTorch's on the CPU knows
    2³² seeds, which could be tried one by one, and whose noises meet by chance.

    Args:
        key: the key.
        shape: as for :func:`watermark.noise.watermarked_noise`; a batch is one picture here, so mostly (1, C, H,
        W).
        number: ≥ 0.
        strength: as there.
        dtype: of the result.
        device: of the result.

    Raises:
        ValueError: if the number is negative, or an argument is not as that function wants it.
        TypeError: if the number is not a whole one: 1.0 is none.
    """
    number = int(operator.index(number))
    if number < 0:
        raise ValueError(f"number must be at least 0, got {number}")
    plain = secret_noise(key.derive(f"picture/{number}", 32), shape)
    return marked(key, plain, strength).to(device, dtype)


def confirm(noise: Tensor | NDArray[np.floating], key: RingKey, numbers: Iterable[int]) -> list[Confirmation]:
    """For every sample the picture of a key whose noise it has.

    Args:
        noise: (B, C, H, W) recovered initial noise.
        key: the key.
        numbers: of the pictures that come into question.

    Raises:
        ValueError: if there are no numbers, or noise is not (B, C, H, W), not finite or zero outside the marked
    bins.
    """
    z = as_noise(noise)
    if z.ndim != 4:
        raise ValueError(f"noise must have shape (B, C, H, W), got {z.shape}")
    rest = unmarked(z, key)
    norm = np.linalg.norm(rest, axis=1)
    if not (norm > 0).all():
        raise ValueError("noise is zero outside the marked bins: nothing to test")
    rest /= norm[:, None]
    best = [Confirmation(-1, -2.0, 1.0)] * len(z)
    tried = 0
    for number in numbers:
        tried += 1
        own = unmarked(numbered_noise(key, (1, *z.shape[1:]), number, dtype=torch.float64).numpy(), key)[0]
        for i, r in enumerate(rest @ own / np.linalg.norm(own)):
            if r > best[i].correlation:
                best[i] = Confirmation(number, float(r), 1.0)
    if not tried:
        raise ValueError("confirm needs at least one number")
    rings = rings_for(z.shape, key.pattern)
    dimensions = z[0].size - len(rings.channels) * int(rings.bins.sum())
    p = np.maximum(angle_test(np.array([c.correlation for c in best]), dimensions)[1], TINY)
    return [Confirmation(c.number, c.correlation, float(min(1.0, tried * q))) for c, q in zip(best, p, strict=True)]


def unmarked(z: Array, key: RingKey) -> Array:
    """Noise (B, C, H, W) without what is in the marked bins, (B, C · H · W)."""
    rings = rings_for(z.shape, key.pattern)
    spectrum = np.fft.fft2(z)
    for channel in rings.channels:
        spectrum[:, channel][:, rings.index >= 0] = 0
    return np.fft.ifft2(spectrum).real.reshape(len(z), -1)

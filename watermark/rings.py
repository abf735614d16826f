"""Tree-ring keys: a secret → real values on the rings of a Fourier transform → noise that carries them.

A key is 256 secret bits. For latents of a given shape it fixes one real value for every ring of the centred
Fourier plane and every marked channel. Real values that depend on the radius alone are Hermitian, F(−k) = F(k)*,
so the inverse transform is exactly real and no part of the key is lost. Tree-ring watermarks: Wen et al. 2023,
https://arxiv.org/abs/2305.20030.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field

import numpy as np
import torch
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import NDArray
from scipy.special import ndtri
from torch import Tensor

SECRET_BYTES = 32


@dataclass(frozen=True)
class RingKey:
    """A watermark key. Its secret never appears in its repr.

    Args:
        secret: 32 bytes. Whoever has them can mark pictures and prove marks.
    """

    secret: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.secret, bytes) or len(self.secret) != SECRET_BYTES:
            raise ValueError(f"secret must be {SECRET_BYTES} bytes")

    @classmethod
    def generate(cls) -> RingKey:
        """A new key from the operating system's random source."""
        return cls(secrets.token_bytes(SECRET_BYTES))

    @property
    def id(self) -> str:
        """A public name: 16 hexadecimal digits that tell nothing about the secret."""
        return self.derive("id", 8).hex()

    def derive(self, purpose: str, length: int) -> bytes:
        """``length`` bytes for one purpose, by HKDF-SHA256 (RFC 5869); other purposes tell nothing about them."""
        return HKDF(SHA256(), length, salt=None, info=f"treering/1/{purpose}".encode()).derive(self.secret)


@dataclass(frozen=True)
class Rings:
    """Which Fourier bins of a latent are marked: the ring of radius r holds the bins at r − ½ … r + ½.

    Radii count cycles across the shorter side, so that rings are round on the picture also where the latent is not
    square.

    Attributes:
        channels: the marked channels.
        radii: the radii of the rings, the same in every marked channel.
        index: (H, W) int, for every bin of ``fft2`` the position of its ring in ``radii``, or -1.
    """

    channels: tuple[int, ...]
    radii: tuple[int, ...]
    index: NDArray[np.int64]

    @property
    def bins(self) -> NDArray[np.int64]:
        """(len(radii),) how many bins each ring has, both of every conjugate pair."""
        return np.bincount(self.index[self.index >= 0])

    @property
    def count(self) -> int:
        """m, the number of rings in all marked channels together."""
        return len(self.channels) * len(self.radii)


def rings_for(shape: tuple[int, ...]) -> Rings:
    """The rings of latents (..., C, H, W): radius 3 to 5/16 of the shorter side, at least 16 in all.

    For 4 × 32 × 32 latents these are radii 3 … 10 of channels 0 and 3; for 4 × 64 × 64 radii 3 … 20 of channel 0:
    as few channels, evenly spread, as it takes. Radii below 3 are left alone: they are the layout of the picture
    and come back worst. The number of rings bounds what a key can prove, see :mod:`watermark.detection`.

    Raises:
        ValueError: if there are fewer than three dimensions or the latent is smaller than 16 on a side.
    """
    if len(shape) < 3 or min(shape[-2:]) < 16 or shape[-3] < 1:
        raise ValueError(f"shape must end in (C, H, W) with H and W at least 16, got {tuple(shape)}")
    depth, height, width = shape[-3:]
    short = min(height, width)
    radii = tuple(range(3, short * 5 // 16 + 1))
    radius = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None, :]) * short
    index = np.rint(radius).astype(np.int64) - radii[0]
    index[(index < 0) | (index >= len(radii))] = -1
    needed = min(depth, -(-16 // len(radii)))
    channels = np.linspace(0, depth - 1, needed).round().astype(int)
    return Rings(tuple(channels.tolist()), radii, index)


def key_vector(key: RingKey, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """The key as a vector k (m,), uniform on the sphere of radius √(number of marked bins).

    The N_r bins of ring r get the value k_r/√N_r, in units of a white-noise bin's standard deviation. So every key
    puts exactly the energy into the marked bins that white noise has there on average, no key is weaker than
    another, and every ring carries as much of the evidence as any other on average.
    """
    rings = rings_for(shape)
    info = "rings/" + "x".join(str(s) for s in shape[-3:])
    bits = np.frombuffer(key.derive(info, 8 * rings.count), dtype=">u8")
    g = ndtri((bits.astype(np.float64) + 0.5) / 2.0**64)
    return g * np.sqrt(len(rings.channels) * rings.bins.sum() / (g @ g))


def ring_values(key: RingKey, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """The key's value in the bins of each ring, (channels, radii), in standard deviations of a white-noise bin."""
    rings = rings_for(shape)
    return key_vector(key, shape).reshape(len(rings.channels), -1) / np.sqrt(rings.bins)


def watermarked_noise(
    key: RingKey,
    shape: tuple[int, ...],
    *,
    strength: float = 0.7,
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
) -> Tensor:
    """Initial noise z_T that carries a key, to be handed to a pipeline as ``latents=``.

    In every bin of the key's rings the Fourier transform F of white Gaussian noise becomes a·c·n + √(1 − a²)·F,
    with the key's value c (:func:`ring_values`), n = √(HW) and strength a. The energy stays that of white noise.

    Args:
        key: the key.
        shape: (B, C, H, W), or any shape that ends in (C, H, W).
        strength: a in (0, 1], the correlation of marked bins and key. At 1 the noise in the rings is replaced, as
            in the original tree-ring watermark; rings without any noise of their own add up in the corners of the
            picture, where they can be seen. Detection does not need to know it.
        generator: source of the noise, on the CPU, so that a seed gives the same noise on every device.
        dtype: of the result; a diffusers pipeline wants that of its networks.
        device: of the result.

    Returns:
        Tensor of the given shape, of mean 0 and variance 1.

    Raises:
        ValueError: if the shape is too small, see :func:`rings_for`, or the strength is out of range.
    """
    if not 0 < strength <= 1:
        raise ValueError(f"strength must be above 0 and at most 1, got {strength}")
    rings = rings_for(shape)
    spectrum = torch.fft.fft2(torch.randn(shape, generator=generator, dtype=torch.float64))
    inside = torch.from_numpy(rings.index >= 0)
    for channel, values in zip(rings.channels, ring_values(key, shape), strict=True):
        own = spectrum[..., channel, :, :]
        marks = torch.from_numpy(values[rings.index]) * (shape[-2] * shape[-1]) ** 0.5
        mixed = strength * marks + (1 - strength**2) ** 0.5 * own
        spectrum[..., channel, :, :] = torch.where(inside, mixed, own)
    return torch.fft.ifft2(spectrum).real.to(device, dtype)

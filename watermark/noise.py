"""Initial noise that carries a key."""

from __future__ import annotations

import secrets

import numpy as np
import torch
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from scipy.special import ndtri
from torch import Tensor

from watermark.features import key_spectrum
from watermark.keys import RingKey
from watermark.rings import rings_for


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

    In every marked bin the Fourier transform F of white Gaussian noise becomes a·c·n + √(1 − a²)·F, with the key's
    value c (:func:`watermark.features.key_spectrum`), n = √(HW) and strength a. The energy stays that of white
    noise, but for a key of ``zeros``, which takes a share a² of it away. Every frame of a video gets the same
    pattern and noise of its own.

    Args:
        key: the key.
        shape: (C, H, W), (B, C, H, W), or (B, C, F, H, W) for videos, whatever the order in a pipeline.
        strength: a in (0, 1], the correlation of marked bins and key. At 1 the noise in the rings is replaced, as
            in the original tree-ring watermark; rings without any noise of their own add up in the corners of the
            picture, where they can be seen. Detection does not need to know it.
        generator: source of the noise, on the CPU, so that a seed gives the same noise on every device. Whoever
            knows the seed, or tries all 2³² that PyTorch's generator on the CPU has, can take the noise away and is
            left with the key alone. None, which is safe from that, draws noise that nobody can repeat.
        dtype: of the result; a diffusers pipeline wants that of its networks.
        device: of the result.

    Returns:
        Tensor of the given shape; values of mean 0 and variance 1 over each latent.

    Raises:
        ValueError: if the shape does not suit, see :func:`watermark.rings.rings_for`, or the strength is out of
            range.
    """
    return marked(key, white_noise(shape, generator), strength).to(device, dtype)


def white_noise(shape: tuple[int, ...], generator: torch.Generator | None = None) -> Tensor:
    """Float64 noise of a generator, or without one from 256 bits of the operating system."""
    if generator is None:
        return secret_noise(secrets.token_bytes(32), shape)
    return torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu")


def secret_noise(secret: bytes, shape: tuple[int, ...]) -> Tensor:
    """Float64 noise from the key stream of a cipher, ChaCha20, with 32 secret bytes for its key."""
    stream = Cipher(ChaCha20(secret, bytes(16)), mode=None).encryptor()
    bits = np.frombuffer(stream.update(bytes(8 * int(np.prod(shape)))), dtype="<u8")
    return torch.from_numpy(ndtri((bits.astype(np.float64) + 0.5) / 2.0**64).clip(-40, 40).reshape(shape))


def marked(key: RingKey, plain: Tensor, strength: float) -> Tensor:
    """White noise (C, H, W) or (B, C, [F,] H, W) float64, with the key mixed in; see :func:`watermarked_noise`."""
    if not 0 < strength <= 1:
        raise ValueError(f"strength must be above 0 and at most 1, got {strength}")
    shape = tuple(plain.shape)
    rings = rings_for(shape, key.pattern)
    if 0 in shape:
        raise ValueError(f"shape must not hold zero, got {shape}")
    spectrum = torch.fft.fft2(plain)
    inside = torch.from_numpy(rings.index >= 0)
    marks = torch.from_numpy(key_spectrum(key, shape)) * (shape[-2] * shape[-1]) ** 0.5
    by_channel = spectrum.movedim(0 if len(shape) == 3 else 1, 0)
    for channel, mark in zip(rings.channels, marks, strict=True):
        own = by_channel[channel]
        by_channel[channel] = torch.where(inside, strength * mark + (1 - strength**2) ** 0.5 * own, own)
    return torch.fft.ifft2(spectrum).real

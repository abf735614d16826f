"""Noise and keys as vectors in the same space, where a test is an angle.

For ``rings`` and ``levels`` the space has one coordinate for each ring and channel, the sum over its N_r bins

    y_r = Σ_{ring r} Re F / (n √N_r),    n = √(HW),

for ``dense`` two for each pair of conjugate bins, y = √2 (Re F, Im F) / n. Either way white Gaussian noise of
variance σ² gives independent N(0, σ²). Videos carry the same pattern on every frame; their coordinates are summed
over F frames and divided by √F.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import fft
from scipy.special import ndtri
from torch import Tensor

from watermark.keys import Pattern, RingKey
from watermark.rings import Rings, rings_for

Array = NDArray[np.float64]


def as_noise(noise: Tensor | NDArray[np.floating]) -> Array:
    """Noise as float64 (B, C, H, W) or (B, C, F, H, W); a ValueError for another shape or values not finite."""
    if noise.is_complex() if isinstance(noise, Tensor) else np.iscomplexobj(noise):
        raise ValueError("noise must be real")
    own = noise.detach().to("cpu", torch.float64).resolve_neg().numpy() if isinstance(noise, Tensor) else noise
    z = np.asarray(own, dtype=np.float64)
    if z.ndim not in (4, 5):
        raise ValueError(f"noise must have shape (B, C, H, W) or (B, C, F, H, W), got {z.shape}")
    if not len(z):
        raise ValueError("noise must have at least one sample")
    if not np.isfinite(z).all():
        raise ValueError("noise must be finite")
    largest = np.abs(z).max(axis=tuple(range(1, z.ndim)), keepdims=True, initial=0)
    far = (largest > 0) & ((largest < 1e-100) | (largest > 1e100))  # whose squares are zero or infinite
    return z / np.where(far, largest, 1.0) if far.any() else z  # no test depends on the scale of a sample


def noise_vector(noise: Tensor | NDArray[np.floating], pattern: Pattern) -> tuple[Array, Array]:
    """Noise → coordinates y (B, d), and the energy Σ |F|²/n² of all marked bins (B,), of all frames."""
    z = as_noise(noise)
    rings = rings_for(z.shape, pattern)
    return coordinates(z[:, list(rings.channels)], rings, pattern.kind)


def coordinates(marked: Array, rings: Rings, kind: str) -> tuple[Array, Array]:
    """:func:`noise_vector` of the marked channels (B, channels, [F,] H, W) alone."""
    bins, energy = marked_bins(marked, rings)
    return as_coordinates(bins, rings, kind), energy


def marked_bins(marked: Array, rings: Rings) -> tuple[NDArray[np.complex128], Array]:
    """F/n of one bin of every pair, (B, channels, P), summed over F frames over √F, and the energy of all (B,)."""
    z = marked if marked.ndim == 5 else marked[:, :, None]
    spectrum = fft.rfft2(z).reshape(*z.shape[:3], -1)
    places, conjugated = rings.in_rfft
    bins = spectrum[..., places] / np.sqrt(z.shape[-2] * z.shape[-1])
    np.conjugate(bins, out=bins, where=conjugated)
    energy = 2 * (bins.real**2 + bins.imag**2).sum((1, 2, 3))
    return bins.sum(2) / np.sqrt(bins.shape[2]), energy


def as_coordinates(bins: NDArray[np.complex128], rings: Rings, kind: str) -> Array:
    """Bins (B, channels, P) of :func:`marked_bins` as coordinates (B, d)."""
    if kind == "dense":
        parts = np.stack([bins.real, bins.imag], -1) * np.sqrt(2)
        return parts.reshape(len(bins), -1)
    membership = np.eye(len(rings.radii))[rings.index.ravel()[rings.half]]
    y = 2 * bins.real @ membership / np.sqrt(rings.bins)
    return y.reshape(len(bins), rings.count)


def groups(shape: tuple[int, ...], pattern: Pattern) -> NDArray[np.int64]:
    """(d,) the number of the ring and channel that each coordinate belongs to, 0 … m − 1."""
    rings = rings_for(shape, pattern)
    if pattern.kind != "dense":
        return np.arange(rings.count)
    ring = np.repeat(rings.index.ravel()[rings.half], 2)
    return (np.arange(len(rings.channels))[:, None] * len(rings.radii) + ring).ravel()


def key_vector(key: RingKey, shape: tuple[int, ...]) -> Array:
    """The key as coordinates k (d,), ‖k‖² being the number of marked bins, as white noise has it on average.

    For ``rings`` and ``dense`` k is uniform on the sphere: in white noise no key is weaker than another. Where
    rings come back unequally, keys of ``rings`` differ, those of ``dense`` hardly. For ``levels`` the signs are
    uniform. A key of ``zeros`` has none: it is the zero vector. With one secret, every kind, size and choice of
    channels and radii gives unrelated values; ``Pattern("rings")`` and one that spells out the same bins, too.
    """
    pattern, rings = key.pattern, rings_for(shape, key.pattern)
    marked = len(rings.channels) * int(rings.bins.sum())
    if pattern.kind == "zeros":
        return np.zeros(rings.count)
    d = rings.dimension(pattern.kind)
    height, width = shape[-2:]
    depth = shape[0] if len(shape) == 3 else shape[1]
    size = f"{depth}x{height}x{width}"
    if pattern == Pattern("rings"):
        info = f"rings/{size}"
    else:
        where = f"{rings.channels}/{rings.radii[0]}-{rings.radii[-1]}"
        info = f"{pattern.kind}/{size}/{where}"
    bits = np.frombuffer(key.derive(info, 8 * d), dtype=">u8")
    if pattern.kind == "levels":
        return np.where(bits >> 63, 1.0, -1.0) * np.tile(np.sqrt(rings.bins), len(rings.channels))
    g = ndtri((bits.astype(np.float64) + 0.5) / 2.0**64).clip(-40, 40)
    return g * np.sqrt(marked / (g @ g))


def key_spectrum(key: RingKey, shape: tuple[int, ...]) -> NDArray[np.complex128]:
    """The key's values in the marked channels, (channels, H, W), in standard deviations of a white-noise bin.

    Hermitian, so that its inverse transform is real and no part of it is lost; zero where nothing is marked.
    """
    rings, k = rings_for(shape, key.pattern), key_vector(key, shape)
    out = np.zeros((len(rings.channels), rings.index.size), dtype=np.complex128)
    if key.pattern.kind == "dense":
        pairs = k.reshape(len(rings.channels), -1, 2) / np.sqrt(2)
        out[:, rings.half] = pairs[..., 0] + 1j * pairs[..., 1]
    else:
        values = k.reshape(len(rings.channels), -1) / np.sqrt(rings.bins)
        out[:, rings.half] = values[:, rings.index.ravel()[rings.half]]
    out[:, rings.conjugate(rings.half)] = out[:, rings.half].conj()
    return out.reshape(len(rings.channels), *rings.index.shape)

"""The test for a key in recovered noise.

A ring key has one real value for each of m rings. All that noise z can say about it are the m ring sums of its
Fourier transform F, with N_r bins in ring r and n² = HW,

    y_r = Σ_{ring r} Re F / (n √N_r),

independent N(0, σ²) if z is white Gaussian noise of variance σ². With the key's vector k (m,), uniform on a sphere,

    r = ⟨y, k⟩ / (‖y‖ ‖k‖),    t = r √(m − 1) / √(1 − r²),    p = P(T_{m−1} ≥ t).

p is exact in two ways that need not hold together:

- over the noise, for any one key, if z is white Gaussian of any scale and independent of the key;
- over the secret choice of the key, for any one image whatever its spectrum: photographs, patterns, and images that
  carry *another* key included. The angle between any fixed vector and a random direction has this law.

The usual tests compare bins, not rings, and take their number for degrees of freedom. That holds for white noise
only: two different ring keys often correlate by ±0.3 and more, which such a test takes for a mark.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from watermark.rings import RingKey, key_vector, rings_for


@dataclass(frozen=True)
class Detection:
    """The result of :func:`detect`, one entry a sample.

    Attributes:
        statistic: (B,) t.
        p_value: (B,) probability of a t at least as large if the key is not there; at least the smallest double.
        rho: (B,) ρ, correlation of all marked bins with the key's: the strength of the mark, 0.7 by default, if the
            noise came back unharmed; around 0 if it does not carry the key. It says how well the mark survived, not
            how sure the verdict is.
        degrees_of_freedom: m − 1.
    """

    statistic: NDArray[np.float64]
    p_value: NDArray[np.float64]
    rho: NDArray[np.float64]
    degrees_of_freedom: int


def detect(noise: Tensor | NDArray[np.floating], key: RingKey) -> Detection:
    """Test recovered noise for a key.

    Args:
        noise: (B, C, H, W) recovered initial noise z_T, any floating dtype.
        key: the key.

    Raises:
        ValueError: if the shape is not (B, C, H, W), a value is not finite, or a sample is zero on all rings.
    """
    y, energy = ring_sums(noise)
    k = key_vector(key, tuple(noise.shape))
    norm = np.linalg.norm(y, axis=1)
    if not (norm > 0).all():
        raise ValueError("noise is zero on all rings: nothing to test")
    projection = y @ k / np.linalg.norm(k)
    r = np.clip(projection / norm, -1.0, 1.0)
    dof = len(k) - 1
    with np.errstate(divide="ignore"):
        t = r * np.sqrt(dof) / np.sqrt((1 - r) * (1 + r))
    p = np.maximum(stats.t.sf(t, dof), np.finfo(np.float64).tiny)
    return Detection(t, p, projection / np.sqrt(energy), dof)


def ring_sums(noise: Tensor | NDArray[np.floating]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Noise (B, C, H, W) → y (B, m), and the energy Σ |F|²/n² of all marked bins (B,)."""
    z = np.asarray(torch.as_tensor(noise).detach().to("cpu", torch.float64))
    if z.ndim != 4:
        raise ValueError(f"noise must have shape (B, C, H, W), got {z.shape}")
    if not np.isfinite(z).all():
        raise ValueError("noise must be finite")
    rings = rings_for(z.shape)
    marked = rings.index.ravel() >= 0
    membership = np.eye(len(rings.radii))[rings.index.ravel()[marked]]
    spectrum = np.fft.fft2(z[:, list(rings.channels)]).reshape(len(z), len(rings.channels), marked.size)[
        :, :, marked
    ]
    spectrum /= np.sqrt(z.shape[-2] * z.shape[-1])
    y = spectrum.real @ membership / np.sqrt(rings.bins)
    return y.reshape(len(z), rings.count), (spectrum.real**2 + spectrum.imag**2).sum((1, 2))

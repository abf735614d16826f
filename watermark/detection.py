"""The test for a key in recovered noise.

Noise and key are vectors y and k, see :mod:`watermark.features`; white Gaussian noise gives y ~ N(0, σ² I). With

    r = ⟨y, k⟩ / (‖y‖ ‖k‖),    t = r √(d − 1) / √(1 − r²),    p = P(T_{d−1} ≥ t),

d being the number of coordinates: of rings, not of bins, for keys of ``rings``. For keys of ``rings`` and
``dense``, whose k is uniform on a sphere, p is exact in two ways that need not hold together:

- over the noise, for any one key, if z is white Gaussian of any scale and independent of the key;
- over the secret choice of the key, for any one image whatever its spectrum: photographs, patterns, and images that
  carry *another* key included. The angle between any fixed vector and a random direction has this law.

With whitening, or where a transformation was undone by interpolation, the first holds if what is compared, y over
its scale, is white; the second always does.

The usual tests compare bins for rings, too, and take their number for degrees of freedom. That holds for white
noise only: two different ring keys often correlate by ±0.3 and more, which such a test takes for a mark.

``levels`` have random signs instead of a random direction. The second guarantee then needs the share of all 2^d
sign patterns that fit at least as well, which is counted; p is the larger of both. ``zeros`` have no direction at
all: there p is that of an F test that the marked bins have less energy than those around them, which needs white
noise.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from watermark.features import Array, as_noise, groups, key_vector, noise_vector
from watermark.keys import Pattern, RingKey
from watermark.rings import rings_for

TINY = float(np.finfo(np.float64).tiny)
MOST_SIGNS = 32
"""Up to so many coordinates the sign patterns are counted; beyond, a bound takes the place of the count."""


@dataclass(frozen=True)
class Detection:
    """The result of :func:`detect`, one entry a sample.

    Attributes:
        statistic: (B,) t, or for ``zeros`` the ratio F of the energies.
        p_value: (B,) probability of a fit at least as good if the key is not there; at least the smallest double.
        rho: (B,) ρ, correlation of all marked bins with the key's: the strength of the mark, 0.7 by default, if the
            noise came back unharmed; around 0 if it does not carry the key. It says how well the mark survived, not
            how sure the verdict is. For ``zeros`` the share of the energy that is missing.
        degrees_of_freedom: d − 1; for ``zeros`` that of the marked bins.
    """

    statistic: Array
    p_value: Array
    rho: Array
    degrees_of_freedom: int


def detect(
    noise: Tensor | NDArray[np.floating], key: RingKey, *, whitening: NDArray[np.floating] | None = None
) -> Detection:
    """Test recovered noise for a key.

    Args:
        noise: (B, C, H, W) recovered initial noise z_T, any floating dtype; (B, C, F, H, W) for videos.
        key: the key.
        whitening: (channels, radii) standard deviation of the coordinates of every ring where there is no key, up
            to a common factor, see :mod:`watermark.calibration`; None for noise that is taken to be white.

    Raises:
        ValueError: if a shape does not fit, a value is not finite, or a sample is zero on all rings.
    """
    shape = tuple(noise.shape)
    if key.pattern.kind == "zeros":
        return missing_energy(noise, key.pattern)
    y, energy = noise_vector(noise, key.pattern)
    k = key_vector(key, shape)
    projection = y @ k / np.linalg.norm(k)
    rho = projection / np.sqrt(np.maximum(energy, TINY))
    white = y / scale_of(whitening, shape, key.pattern)
    norm = np.linalg.norm(white, axis=1)
    if not (norm > 0).all():
        raise ValueError("noise is zero on all rings: nothing to test")
    r = white @ k / np.linalg.norm(k) / norm
    t, p = angle_test(r, len(k))
    if key.pattern.kind == "levels":
        size = np.abs(k)
        p = np.maximum(p, [sign_test(row * size, np.sign(k)) for row in white])
    return Detection(t, np.maximum(p, TINY), rho, len(k) - 1)


def scale_of(whitening: NDArray[np.floating] | None, shape: tuple[int, ...], pattern: Pattern) -> Array:
    """(d,) what every coordinate is divided by."""
    rings = rings_for(shape, pattern)
    if whitening is None:
        return np.ones(1)
    values = np.asarray(whitening, dtype=np.float64)
    expected = (len(rings.channels), len(rings.radii))
    if values.shape != expected:
        raise ValueError(f"whitening must have shape {expected}, got {values.shape}")
    if not (np.isfinite(values).all() and (values > 0).all()):
        raise ValueError("whitening must be positive and finite")
    values = values / values.max()
    if values.min() < 1e-100:
        raise ValueError("whitening must not differ by a factor of more than 1e100")
    return values.ravel()[groups(shape, pattern)]


def angle_test(r: Array, dimensions: int) -> tuple[Array, Array]:
    """Cosines r with a fixed vector → t and p for a direction uniform in so many dimensions."""
    dof, r = dimensions - 1, np.clip(r, -1.0, 1.0)  # rounding
    if dof == 0:  # one number has a sign and no more
        return np.where(r > 0, np.inf, -np.inf), np.where(r > 0, 0.5, 1.0)
    with np.errstate(divide="ignore"):
        t = r * np.sqrt(dof) / np.sqrt((1 - r) * (1 + r))
    return t, stats.t.sf(t, dof)


def least_p(kind: str, dimensions: int) -> float:
    """The least p that a key of so many coordinates can have, however well it fits."""
    if dimensions == 1:
        return 0.5
    if kind != "levels":
        return TINY
    return 2.0**-dimensions if dimensions <= MOST_SIGNS else float(np.exp(-dimensions / 2))


def sign_test(w: Array, signs: Array) -> float:
    """The share of all sign patterns s with ⟨s, w⟩ ≥ ⟨signs, w⟩, the pattern itself included.

    Counted exactly up to ``MOST_SIGNS`` coordinates, by sorting the sums of one half and looking up those of the
    other; beyond, Hoeffding's bound exp(−⟨s, w⟩² / 2‖w‖²), which is larger.
    """
    observed, total = float(signs @ w), float(w @ w)
    if len(w) > MOST_SIGNS:
        return float(np.exp(-(max(observed, 0.0) ** 2) / (2 * total)))
    a, b = (all_sums(half) for half in np.array_split(w, 2))
    a.sort()
    slack = 1e-12 * np.sqrt(total)  # so that ties, the pattern itself among them, count
    above = len(a) - np.searchsorted(a, observed - b - slack, side="left")
    return float(above.sum()) / 2.0 ** len(w)


def all_sums(w: Array) -> Array:
    """⟨s, w⟩ for every sign pattern s, (2^d,)."""
    sums = np.zeros(1)
    for value in w:
        sums = np.concatenate([sums + value, sums - value])
    return sums


def missing_energy(noise: Tensor | NDArray[np.floating], pattern: Pattern) -> Detection:
    """Whether the marked bins have less energy than those farther out in the same channels."""
    z = as_noise(noise)
    rings = rings_for(z.shape, pattern)
    return energy_test(
        z[:, list(rings.channels)], np.broadcast_to(rings.index >= 0, (len(rings.channels), *z.shape[-2:]))
    )


def energy_test(z: Array, inside: NDArray[np.bool_]) -> Detection:
    """F test that the bins ``inside`` (C, H, W) of noise (B, C, [F,] H, W) have less energy than those around them.

    Those around them are all bins of the marked channels farther out, up to where the shorter side ends.
    """
    height, width = z.shape[-2:]
    radius = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None, :]) * min(height, width)
    reach = radius[inside.any(0)].max()
    channels = np.asarray(inside.any((1, 2)))
    around = channels[:, None, None] & (radius > reach + 0.5) & (radius < min(height, width) / 2 - 1)
    z = z if z.ndim == 5 else z[:, :, None]
    power: Array = (np.abs(np.fft.fft2(z)) ** 2 / (height * width)).sum(2)
    dof, dof_around = (z.shape[2] * int(mask.sum()) for mask in (inside, around))
    within, outside = power[:, inside].sum(1), power[:, around].sum(1)
    if not dof_around:
        raise ValueError("there are no bins around the marked ones to compare their energy with")
    rounding = 1e-24 * power[:, channels].sum((1, 2, 3))
    if not (outside > rounding).all():
        raise ValueError("noise is zero around the marked bins: nothing to test")
    ratio = (within / dof) / (outside / dof_around)
    p = stats.f.cdf(ratio, dof, dof_around)
    return Detection(ratio, np.maximum(p, TINY), 1 - ratio, dof)

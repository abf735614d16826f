"""What a key does to the noise that pictures start from, in numbers that may be shown."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy import stats
from scipy.special import ndtri

from watermark.features import Array, key_spectrum
from watermark.keys import RingKey
from watermark.noise import marked, secret_noise
from watermark.rings import Rings, rings_for


@dataclass(frozen=True)
class Effect:
    """What a key costs, beside what plain white Gaussian noise has.

    Shares, correlation and norm tell nothing about the key: they are the same for all keys of its pattern, up to
    draws of noise that nobody else can repeat. Distance, kurtosis and peak depend on the key, so they are rounded:
    together they tell a few bits of a key of ``rings`` or ``levels``, next to nothing of a ``dense`` one.

    Attributes:
        shape: of the noise, (C, H, W) or (C, F, H, W); its n values are counted over all frames.
        strength: a in (0, 1].
        draws: the number of noises that were measured.
        channels: the marked channels.
        radii: the smallest and the largest marked radius, in cycles across the shorter side.
        marked_bins: how many Fourier bins the key writes to, of n.
        marked_share: the same as a share of n.
        shared_energy: ‖s‖²/n of the part s that all pictures of the key have in common, a² × marked share; 0 for
            ``zeros``. Also what to expect of ``correlation``, and so the diversity that the key costs.
        missing_energy: the share of its energy that the noise loses: a² × marked share for ``zeros``, or else 0.
        correlation: mean cosine of the noises of two pictures, measured over all pairs of draws; of plain noise 0.
        norm: ‖z‖/√n, mean over draws.
        norm_sd: its standard deviation over draws.
        plain_norm: mean of ‖z‖/√n for plain noise, where ‖z‖ has a chi distribution: 1 − 1/4n.
        plain_norm_sd: its standard deviation, 1/√2n.
        distance: Kolmogorov–Smirnov distance of one noise's values from N(0, 1), mean over draws, to 3 decimals.
            There is no p-value beside it, because values of one marked noise are not independent.
        plain_distance: the same for plain noise, √(π/2) ln 2 / √n.
        kurtosis: excess kurtosis of the values of all draws, to 1 decimal; of plain noise 0.
        peak: the largest absolute value of s, in standard deviations of the noise, rounded to a whole multiple of
            ``plain_peak``. Rings add up in the corners of a latent, those of some keys far more than of others.
        plain_peak: the same for white noise of the same energy in the same channels: the median.
    """

    shape: tuple[int, ...]
    strength: float
    draws: int
    channels: tuple[int, ...]
    radii: tuple[int, int]
    marked_bins: int
    marked_share: float
    shared_energy: float
    missing_energy: float
    correlation: float
    norm: float
    norm_sd: float
    plain_norm: float
    plain_norm_sd: float
    distance: float
    plain_distance: float
    kurtosis: float
    peak: float
    plain_peak: float


def effect(
    key: RingKey, shape: tuple[int, ...], *, strength: float = 0.7, draws: int = 64, seed: int = 0
) -> Effect:
    """Compute what a key does to noise of a shape, for one picture or video.

    Args:
        key: the key.
        shape: (C, H, W), or (C, F, H, W) for videos.
        strength: as in :func:`watermark.noise.watermarked_noise`.
        draws: how many noises to measure, at least 2. The standard error of ``norm`` is ``norm_sd``/√draws, that
            of ``norm_sd`` a share 1/√(2 draws) of it.
        seed: of the draws.

    Raises:
        ValueError: if the shape does not suit, see :func:`watermark.rings.rings_for`, or the strength or the number
            of draws is out of range.
    """
    if draws < 2:
        raise ValueError(f"draws must be at least 2, got {draws}")
    shared = shared_part(key, shape, strength)
    rings, n, frames = marked_rings(key, shape), int(np.prod(shape)), shape[1] if len(shape) == 4 else 1
    marked = len(rings.channels) * int(rings.bins.sum()) * frames
    directions, norms, distances, fourth = np.zeros(shape), [], [], []
    for z in marked_noises(key, shape, strength, draws, seed):
        norms.append(np.linalg.norm(z))
        distances.append(distance_from_normal(z))
        fourth.append((z**4).mean())
        directions += z / norms[-1]
    lengths = np.array(norms) / np.sqrt(n)
    shared_energy = round(float((shared**2).sum()) * frames / n, 12)  # rounding errors depend on the key
    spread = np.sqrt(shared_energy * shape[0] / len(rings.channels))  # standard deviation within marked channels
    median = -ndtri((1 - 0.5 ** (1 / shared.size)) / 2)  # of the largest of so many |N(0, 1)|
    plain_peak = float(spread * median)
    return Effect(
        shape=tuple(shape),
        strength=strength,
        draws=draws,
        channels=rings.channels,
        radii=(rings.radii[0], rings.radii[-1]),
        marked_bins=marked,
        marked_share=marked / n,
        shared_energy=shared_energy,
        missing_energy=strength**2 * marked / n if key.pattern.kind == "zeros" else 0.0,
        correlation=float(((directions**2).sum() - draws) / (draws * (draws - 1))),
        norm=float(lengths.mean()),
        norm_sd=float(lengths.std(ddof=1)),
        plain_norm=1 - 1 / (4 * n),
        plain_norm_sd=float(1 / np.sqrt(2 * n)),
        distance=round(float(np.mean(distances)), 3),
        plain_distance=float(np.sqrt(np.pi / 2 / n) * np.log(2)),
        kurtosis=round(float(np.mean(fourth) / np.mean(lengths**2) ** 2 - 3), 1) + 0.0,  # never −0
        peak=plain_peak * round(float(np.abs(shared).max()) / plain_peak) if plain_peak else 0.0,
        plain_peak=plain_peak,
    )


def marked_rings(key: RingKey, shape: tuple[int, ...]) -> Rings:
    """The marked bins of one noise, (C, H, W) or (C, F, H, W); a ValueError if the shape does not suit."""
    if len(shape) not in (3, 4) or min(shape) < 1:
        raise ValueError(f"shape must be (C, H, W) or (C, F, H, W), numbers from 1, got {tuple(shape)}")
    return rings_for(shape if len(shape) == 3 else (1, *shape), key.pattern)


def shared_part(key: RingKey, shape: tuple[int, ...], strength: float) -> Array:
    """What all noises of a key have in common: their mean over all noise, (channels, H, W), on every frame.

    As secret as the key. All zeros for ``zeros``.

    Raises:
        ValueError: if the shape or the strength does not suit, see :func:`effect`.
    """
    marked_rings(key, shape)
    if not 0 < strength <= 1:
        raise ValueError(f"strength must be above 0 and at most 1, got {strength}")
    values = key_spectrum(key, (1, *shape)) * np.sqrt(shape[-2] * shape[-1])
    return strength * np.fft.ifft2(values).real


def marked_noises(
    key: RingKey, shape: tuple[int, ...], strength: float, draws: int, seed: int = 0
) -> Iterator[Array]:
    """Noises of a key, each of the given shape, from 256 bits that nobody knows who lacks the key.

    With noise that others could repeat, or the same at two strengths, every number measured on it would be an
    equation for the key. PyTorch's generator on the CPU, with its 2³² seeds, is no source for it.
    """
    for i in range(draws):
        secret = key.derive(f"effect/{key.pattern}/{shape}/{strength!r}/{seed}/{i}", 32)
        yield marked(key, secret_noise(secret, (1, *shape)), strength)[0].numpy()


def distance_from_normal(values: Array) -> float:
    """Kolmogorov–Smirnov distance: the largest difference between the shares below a value here and in N(0, 1)."""
    return float(stats.ks_1samp(values.ravel(), stats.norm.cdf, method="asymp").statistic)

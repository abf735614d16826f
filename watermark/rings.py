"""Which Fourier bins of a latent carry a mark, and in which rings they lie."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from watermark.keys import Pattern


@dataclass(frozen=True)
class Rings:
    """The marked bins of a latent: the ring of radius r holds the bins at r − ½ … r + ½.

    Radii count cycles across the shorter side, so that rings are round on the picture also where the latent is not
    square.

    Attributes:
        channels: the marked channels.
        radii: the radii of the rings, the same in every marked channel.
        index: (H, W) int, for every bin of ``fft2`` the position of its ring in ``radii``, or -1. Bins that are
            their own conjugates are never marked.
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

    def dimension(self, kind: str) -> int:
        """d, how many coordinates noise has for keys of a kind."""
        return 2 * len(self.channels) * len(self.half) if kind == "dense" else self.count

    @property
    def half(self) -> NDArray[np.int64]:
        """(P,) flat positions of one bin of every marked conjugate pair."""
        flat = np.flatnonzero(self.index.ravel() >= 0)
        return flat[flat < self.conjugate(flat)]

    @property
    def in_rfft(self) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """(P,) flat positions in ``rfft2`` of the bins of :attr:`half`, and which are there as their conjugates."""
        width = self.index.shape[1]
        absent = self.half % width > width // 2
        there = np.where(absent, self.conjugate(self.half), self.half)
        return there // width * (width // 2 + 1) + there % width, absent

    def conjugate(self, flat: NDArray[np.int64]) -> NDArray[np.int64]:
        """Flat positions of the conjugates of bins, of which F(−k) = F(k)* for real noise."""
        height, width = self.index.shape
        return (-(flat // width) % height) * width + (-(flat % width) % width)


@lru_cache(maxsize=64)
def rings_for(shape: tuple[int, ...], pattern: Pattern = Pattern()) -> Rings:  # noqa: B008 - frozen
    """The marked bins of latents (C, H, W) or (B, C, [F,] H, W).

    By default radius 3 to 5/16 of the shorter side, in as few channels, evenly spread, as give 16 rings: for
    4 × 32 × 32 latents radii 3 … 10 of channels 0 and 3; for 4 × 64 × 64 radii 3 … 20 of channel 0. The number of
    rings bounds what a key of rings can prove, see :mod:`watermark.detection`.

    Raises:
        ValueError: if the shape is of another length, the latent is smaller than 16 on a side, or the pattern does
            not fit it.
    """
    if len(shape) not in (3, 4, 5) or min(shape[-2:]) < 16 or shape[-3 if len(shape) == 3 else 1] < 1:
        raise ValueError(
            f"shape must be (C, H, W) or (B, C, [F,] H, W) with H and W at least 16, got {tuple(shape)}"
        )
    depth, (height, width) = shape[0 if len(shape) == 3 else 1], shape[-2:]
    short = min(height, width)
    outer = short * 5 // 16 if pattern.outer is None else pattern.outer
    if not pattern.inner <= outer < short / 2:
        raise ValueError(f"radii {pattern.inner} … {outer} do not fit a latent of {height} × {width}")
    radii = tuple(range(pattern.inner, outer + 1))
    radius = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None, :]) * short
    index = np.rint(np.round(radius, 9)).astype(np.int64) - radii[0]
    index[(index < 0) | (index >= len(radii))] = -1
    index[tuple(np.meshgrid(*([0, n // 2] if n % 2 == 0 else [0] for n in (height, width))))] = -1
    if pattern.channels is None:
        channels = np.linspace(0, depth - 1, min(depth, -(-16 // len(radii)))).round().astype(int).tolist()
    else:
        channels = list(pattern.channels)
        if max(channels) >= depth:
            raise ValueError(f"channels {pattern.channels} do not fit a latent of {depth} channels")
    return Rings(tuple(channels), radii, index)

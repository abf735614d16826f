"""How alike two pictures are. Both measures look at strips of rows in turn, as pictures may be large."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

Pixels = NDArray[np.uint8]

REACH = 5
"""Pixels that a window of the structural similarity reaches to either side."""
STRIP = 2**18
"""Pixels of a strip."""


def psnr(a: Pixels, b: Pixels) -> float:
    """10 lg (255² / mean square difference) of two pictures (H, W, 3) uint8, in dB; inf if they are the same.

    Raises:
        ValueError: if the pictures differ in shape.
    """
    if a.shape != b.shape:
        raise ValueError(f"pictures must be of one shape, got {a.shape} and {b.shape}")
    error = sum(int(np.square(x.astype(np.int64) - y).sum()) for x, y in strips(a, b, 0))
    return float("inf") if error == 0 else 10 * float(np.log10(255**2 * a.size / error))


def ssim(a: Pixels, b: Pixels) -> float:
    """The mean structural similarity of two pictures (H, W, 3) uint8, at most 1, for equal pictures.

    Wang et al. 2004 (https://doi.org/10.1109/TIP.2003.819861), eq. 13: Gaussian windows of standard deviation 1.5,
    cut off at 11 × 11, K = (0.01, 0.03); the mean over colours and over all windows that lie within the picture.

    Raises:
        ValueError: if the pictures differ in shape, or are smaller than 11 pixels on a side.
    """
    if a.shape != b.shape or min(a.shape[:2]) < 2 * REACH + 1:
        raise ValueError(f"pictures must be of one shape, 11 × 11 at least, got {a.shape} and {b.shape}")
    total = sum(
        float(similarities(x.astype(np.float64), y.astype(np.float64)).sum()) for x, y in strips(a, b, REACH)
    )
    return total / ((a.shape[0] - 2 * REACH) * (a.shape[1] - 2 * REACH) * a.shape[2])


def similarities(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """The structural similarity of every window within pictures (H, W, 3), (H - 10, W - 10, 3)."""

    def windowed(values: NDArray[np.float64]) -> NDArray[np.float64]:
        inside = slice(REACH, -REACH)
        return gaussian_filter(values, (1.5, 1.5, 0), radius=(REACH, REACH, 0))[inside, inside]

    mean_x, mean_y = windowed(x), windowed(y)
    var_x, var_y = windowed(x * x) - mean_x**2, windowed(y * y) - mean_y**2
    covariance = windowed(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    top = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    return top / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))


def strips(a: Pixels, b: Pixels, reach: int) -> Iterator[tuple[Pixels, Pixels]]:
    """Both pictures by strips of rows, each with so many more on either side of what is its own."""
    rows = max(1, STRIP // a.shape[1])
    for start in range(reach, len(a) - reach, rows):
        own = slice(start - reach, min(start + rows, len(a) - reach) + reach)
        yield a[own], b[own]

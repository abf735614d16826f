"""How alike two pictures are."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

Pixels = NDArray[np.uint8]


def psnr(a: Pixels, b: Pixels) -> float:
    """10 lg (255² / mean square difference) of two pictures (…, 3) uint8, in dB; inf if they are the same."""
    error = float(np.square(a.astype(np.float64) - b).mean())
    return float("inf") if error == 0 else 10 * float(np.log10(255**2 / error))


def ssim(a: Pixels, b: Pixels) -> float:
    """The mean structural similarity of two pictures (H, W, 3) uint8, at most 1, which is: the same.

    Wang et al. 2004 (https://doi.org/10.1109/TIP.2003.819861), eq. 13: Gaussian windows of standard deviation 1.5,
    cut off at 11 × 11, K = (0.01, 0.03); the mean over colours and over all windows that lie within the picture.

    Raises:
        ValueError: if the pictures differ in shape, or are smaller than 11 pixels on a side.
    """
    if a.shape != b.shape or min(a.shape[:2]) < 11:
        raise ValueError(f"pictures must be of one shape, 11 × 11 at least, got {a.shape} and {b.shape}")

    def windowed(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return gaussian_filter(values, (1.5, 1.5, 0), radius=(5, 5, 0))[5:-5, 5:-5]

    x, y = a.astype(np.float64), b.astype(np.float64)
    mean_x, mean_y = windowed(x), windowed(y)
    var_x, var_y = windowed(x * x) - mean_x**2, windowed(y * y) - mean_y**2
    covariance = windowed(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    top = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    return float((top / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))).mean())

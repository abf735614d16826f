"""Keys as published code makes them: of tree-ring watermarks, and constant rings."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from watermark.foreign import ArrayKey, centred, conjugate_bins

PATTERNS = ("ring", "rand", "zeros", "const")
CONSTANT_RINGS = (
    (1.2, 0.6, 1.4, 0.8, 0.2, 1.8),
    (1.2, 0.2, 1.2, 1.4, 0.6, 1.4),
    (0.4, 1.4, 1.6, 0.6, 0.8, 1.2),
    (1.4, 0.6, 1.4, 1.2, 0.2, 1.2),
)
"""Heights of the rings 1 … 6 of the keys of Hong et al. 2024, in units of 80."""


def tree_ring_key(
    seed: int,
    shape: tuple[int, int, int],
    *,
    pattern: str = "ring",
    channel: int = 3,
    radius: int = 10,
    constant: float = 0.0,
) -> ArrayKey:
    """The key that the code of Wen et al. 2023 (https://arxiv.org/abs/2305.20030) makes from a seed.

    It draws noise right after seeding PyTorch, takes its centred transform, and for ``ring`` gives every disc of
    radius ``radius``, ``radius`` − 1, … 1 the value found that far to the right of the first row's corner. The
    global random state is left alone. A seed gives other noise on a GPU than on the CPU: save that key's array
    there.

    Args:
        seed: ``w_seed``; 999999 is their default.
        shape: (C, H, H) of the latent.
        pattern: ``ring``, ``rand``, ``zeros`` or ``const``.
        channel: ``w_channel``; −1 is all.
        radius: ``w_radius``.
        constant: ``w_pattern_const``.

    Raises:
        ValueError: if an argument is out of range.
    """
    depth, height, width = shape
    if pattern not in PATTERNS:
        raise ValueError(f"pattern must be one of {', '.join(map(repr, PATTERNS))}, got {pattern!r}")
    if height != width:
        raise ValueError(f"shape must be square, got {height} × {width}")
    if not -1 <= channel < depth:
        raise ValueError(f"channel must be from -1 to {depth - 1}, got {channel}")
    if not 1 <= radius < height / 2:
        raise ValueError(f"radius must be at least 1 and below {height / 2:g}, got {radius}")
    drawn = torch.randn((1, *shape), generator=torch.Generator().manual_seed(seed), device="cpu")
    transform = torch.fft.fftshift(torch.fft.fft2(drawn), dim=(-1, -2))[0].numpy().astype(np.complex128)
    values = transform.copy()
    if pattern in {"zeros", "const"}:
        values[:] = constant if pattern == "const" else 0
    elif pattern == "ring":
        for r in range(radius, 0, -1):
            values[:, their_disc(height, r)] = transform[:, 0, r][:, None]
    mask = np.zeros(shape, dtype=bool)
    mask[slice(None) if channel == -1 else channel] = their_disc(height, radius)
    return centred(values, mask, draws_of(pattern, mask, radius))


def draws_of(pattern: str, mask: NDArray[np.bool_], radius: int) -> NDArray[np.int64] | None:
    """Which numbers that code draws for a centred mask (C, H, H), one after the other; None for fixed values."""
    if pattern not in {"ring", "rand"}:
        return None
    size = mask.shape[-1]
    numbers = np.zeros(mask.shape, dtype=np.int64)
    if pattern == "ring":
        for r in range(radius, 0, -1):
            numbers[:, their_disc(size, r)] = r
        numbers += radius * np.arange(len(mask))[:, None, None]
    else:  # its noise is real: one number for a bin and its conjugate, and a real one for both if they are the same
        flat = np.arange(mask.size).reshape(mask.shape)
        twin = np.fft.fftshift(conjugate_bins(np.fft.ifftshift(flat, axes=(-2, -1))), axes=(-2, -1))
        numbers = np.where(flat == twin, 0, np.where(flat < twin, flat + 1, -(twin + 1)))
    numbers[~mask] = 0
    _, place = np.unique(np.abs([0, *numbers.ravel()]), return_inverse=True)
    return np.sign(numbers) * place[1:].reshape(numbers.shape)


def their_disc(size: int, radius: int) -> NDArray[np.bool_]:
    """The circular mask of that code, in centred order: one row off the centre, as its keys are."""
    y, x = np.ogrid[:size, :size]
    return (x - size // 2) ** 2 + (y[::-1] - size // 2) ** 2 <= radius**2


def constant_ring_key(
    number: int, shape: tuple[int, int, int], *, channel: int = 0, radius: int = 6, level: float = 80.0
) -> ArrayKey:
    """One of the four keys of real constant rings of Hong et al. 2024, https://arxiv.org/abs/2409.18442.

    They are made for 64 × 64 latents of Stable Diffusion, where white noise has a standard deviation of 64 in a
    bin; for other sizes choose ``level`` in proportion to the side.

    Args:
        number: 0 … 3; their experiments use the first three.
        shape: (C, H, H) of the latent.
        channel: the marked one.
        radius: of the outermost ring, at most 6.
        level: of a ring of relative height 1.

    Raises:
        ValueError: if an argument is out of range.
    """
    depth, height, width = shape
    if not 0 <= number < len(CONSTANT_RINGS):
        raise ValueError(f"number must be from 0 to {len(CONSTANT_RINGS) - 1}, got {number}")
    if not 1 <= radius <= 6 or height != width or not 0 <= channel < depth:
        raise ValueError(f"radius must be 1 … 6, shape square and channel in it, got {radius}, {shape}, {channel}")
    values, mask = np.zeros(shape, dtype=np.complex128), np.zeros(shape, dtype=bool)
    for r in range(radius, 0, -1):
        values[:, their_disc(height, r)] = level * CONSTANT_RINGS[number][r - 1]
    mask[channel] = their_disc(height, radius)
    return centred(values, mask)

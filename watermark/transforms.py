"""What may have been done to a picture: single transformations, and sets of them to look through."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np


@dataclass(frozen=True)
class Transform:
    """What was done to a picture, on the scale of its latent; undone in the order crop, shift, rotation, flip.

    Args:
        angle: degrees it was turned counter-clockwise, about its centre.
        flip: whether it was mirrored left to right, before it was turned.
        shift: (down, right) by how many latent pixels it was moved, what leaves coming in at the other side.
        crop: which share of its height and width, from its middle, fills the picture now; 1 is all. A pair if the
            two differ, so that the picture is stretched.

    Raises:
        ValueError: unless 0 < crop ≤ 1 and all numbers are finite.
    """

    angle: float = 0.0
    flip: bool = False
    shift: tuple[float, float] = (0.0, 0.0)
    crop: float | tuple[float, float] = 1.0

    def __post_init__(self) -> None:
        if not all(0 < share <= 1 for share in self.shares):
            raise ValueError(f"crop must be above 0 and at most 1, got {self.crop}")
        if not all(map(math.isfinite, (self.angle, *self.shift))):
            raise ValueError(f"angle and shift must be finite, got {self.angle} and {self.shift}")

    @property
    def shares(self) -> tuple[float, float]:
        """The shares of height and width that were cropped to."""
        return self.crop if isinstance(self.crop, tuple) else (self.crop, self.crop)

    def __str__(self) -> str:
        """What was done, in words; empty for nothing."""
        down, right = self.shift
        high, wide = self.shares
        parts = {
            "mirrored": self.flip,
            f"turned by {self.angle:g}°": self.angle,
            f"moved by {down:g} down and {right:g} right": self.shift != (0.0, 0.0),
            f"cropped to {high:g}" if high == wide else f"cropped to {high:g} × {wide:g}": min(high, wide) < 1,
        }
        return ", ".join(text for text, done in parts.items() if done)


UNCHANGED = Transform()
IDENTITY = (UNCHANGED,)


def transforms_of(
    rotations: int = 1, mirrored: bool = False, shifts: int = 0, crops: Sequence[float | tuple[float, float]] = ()
) -> tuple[Transform, ...]:
    """All combinations of what may have been done.

    Args:
        rotations: so many angles, evenly spaced.
        mirrored: with mirroring and without.
        shifts: by up to so many latent pixels either way.
        crops: besides the whole.

    Raises:
        ValueError: if rotations is below 1, shifts is negative, or a crop is out of range.
    """
    if rotations < 1 or shifts < 0:
        raise ValueError(f"rotations must be at least 1 and shifts at least 0, got {rotations} and {shifts}")
    moves = range(-shifts, shifts + 1)
    shares = (crop if isinstance(crop, tuple) and crop[0] != crop[1] else np.max(crop).item() for crop in crops)
    return tuple(
        Transform(360 * turn / rotations, flip, (down, right), crop)
        for crop in dict.fromkeys((1.0, *shares))
        for down in sorted(moves, key=abs)
        for right in sorted(moves, key=abs)
        for turn in range(rotations)
        for flip in ((False, True) if mirrored else (False,))
    )


def plain_transforms(shape: tuple[int, ...]) -> tuple[Transform, ...]:
    """What happens to pictures without a trace, for latents (C, H, W): mirroring, and turning by right angles.

    Eight, or four where the latent is not square.
    """
    return transforms_of(right_angles(shape), mirrored=True)


def wide_transforms(shape: tuple[int, ...]) -> tuple[Transform, ...]:
    """All angles and mirroring, or crops of both sides or of one down to 0.7, for latents (C, h, w).

    Steps are such that the finest marked structure, which is a share of the latent's size, is hit: with n the
    longer side over 32, at least 1, 72 n angles, and shares in steps of 0.05 / n. A crop of share c leaves its
    middle within ±½ h (1 − c) latent pixels of the picture's, and whole pixels are tried, so that along either side
    nothing is off by more than half a pixel for its place and 0.4 for its size, where the finest structure of usual
    keys, 10 cycles in 32, is 3.2 long. Pictures that were cropped *and* turned or mirrored would take the product
    of both, and are not looked for. 598 for (4, 32, 32), thousands for larger latents.
    """
    height, width = shape[-2:]
    finer = max(1, math.ceil(max(height, width) / 32))
    crops = []
    for step in range(1, 6 * finer + 1):
        share = 1 - 0.05 * step / finer
        down, right = (range(-n, n + 1) for n in (most_moved(height, share), most_moved(width, share)))
        places = sorted(product(down, right), key=lambda move: (abs(move[0]), abs(move[1])))
        crops += [Transform(shift=move, crop=share) for move in places]
        crops += [Transform(shift=move, crop=(share, 1.0)) for move in places if move[1] == 0]
        crops += [Transform(shift=move, crop=(1.0, share)) for move in places if move[0] == 0]
    return (*transforms_of(72 * finer, mirrored=True), *crops)


def most_moved(side: int, share: float) -> int:
    """By how many pixels of a side the middle of a crop may be off, at most, rounded up."""
    return math.ceil(round(side / 2 * (1 - share), 9))


def right_angles(shape: tuple[int, ...]) -> int:
    """By how many right angles a latent (C, H, W) can be turned and fit: 4, or 2 where it is not square."""
    return 4 if shape[-2] == shape[-1] else 2

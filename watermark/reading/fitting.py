"""Fitting a picture to a model, and what cannot be fitted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, ImageStat

from watermark.reading.images import Picture

if TYPE_CHECKING:
    from torch import Tensor


def fit(picture: Picture, size: tuple[int, int]) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    """Fit a picture to a model: cropped around the centre to the model's shape, then resized if it must be.

    Args:
        picture: the picture.
        size: (height, width) of the model's pictures.

    Returns:
        (height, width, 3) uint8, and notes on what was changed.
    """
    height, width = size
    have = picture.pixels.shape[:2]
    if have == (height, width):
        return picture.pixels, ()
    notes = []
    if have[0] * width != have[1] * height:
        notes.append(f"{have[1]} × {have[0]} pixels: cropped around the centre to {width}:{height}")
    notes.append(f"resized to {width} × {height} pixels")
    image = ImageOps.fit(Image.fromarray(picture.pixels), (width, height), Image.Resampling.LANCZOS)
    return np.asarray(image), tuple(notes)


def as_tensor(pixels: Sequence[NDArray[np.uint8]]) -> Tensor:
    """Fitted pictures, B of (h, w, 3) uint8, as a network takes them: (B, 3, h, w) float32 in [-1, 1]."""
    import torch  # processes that only decode do without

    x = torch.from_numpy(np.stack(pixels).astype(np.float32)).permute(0, 3, 1, 2) / 127.5 - 1
    return x.contiguous()


def why_inconclusive(picture: Picture, size: tuple[int, int]) -> str | None:
    """Why no verdict about this picture could be trusted; None if there is no such reason."""
    height, width = picture.pixels.shape[:2]
    scale = min(height / size[0], width / size[1])
    if scale < 0.25:
        return f"too small: {width} × {height} pixels, less than a quarter of the model's {size[1]} × {size[0]}"
    if max(height / size[0], width / size[1]) > 2 * scale:
        return f"too long: {width} × {height} pixels, more than half of it would be cropped away"
    if max(ImageStat.Stat(Image.fromarray(picture.pixels)).var) < 1:
        return "flat: all pixels have nearly the same colour"
    return None

"""What is done to pictures before they are looked at: plain functions of a picture and a random generator.

The six of Wen et al. 2023 (https://arxiv.org/abs/2305.20030) come first, at the strengths of Ci et al. 2024
("RingID", https://arxiv.org/abs/2404.14055). Their code turns with the nearest pixel and black corners, and so does
this. Its noise is cast to unsigned bytes, so that negative values wrap around; here it is added in floating point,
rounded and clipped. Its crop of 75 % is 0.75 of the area at a ratio of sides of 0.75, which is three quarters of
the width and the whole height, stretched to a square; here is a square of 0.75 of the side, and theirs beside it.

Radii are in pixels, noise in shares of the range of 8 bits. A new attack is a function and a line in ``ATTACKS``.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

Attack = Callable[[Image.Image, np.random.Generator], Image.Image]


def turn(image: Image.Image, rng: np.random.Generator, *, degrees: float) -> Image.Image:
    """Turned counter-clockwise about its centre; the corners that this uncovers are black."""
    return image.rotate(degrees, Image.Resampling.NEAREST)


def compress(image: Image.Image, rng: np.random.Generator, *, quality: int) -> Image.Image:
    """After JPEG compression at a quality from 1 to 95."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


def crop(image: Image.Image, rng: np.random.Generator, *, width: float, height: float) -> Image.Image:
    """A part of so large a share of width and height, anywhere, resized to the size of the whole."""
    sides = round(width * image.width), round(height * image.height)
    left, top = (int(rng.integers(0, n - m + 1)) for n, m in zip(image.size, sides, strict=True))
    part = image.crop((left, top, left + sides[0], top + sides[1]))
    return part.resize(image.size, Image.Resampling.BILINEAR)


def blur(image: Image.Image, rng: np.random.Generator, *, radius: float) -> Image.Image:
    """Smoothed by a Gaussian; the radius is its standard deviation in pixels."""
    return image.filter(ImageFilter.GaussianBlur(radius))


def add_noise(image: Image.Image, rng: np.random.Generator, *, std: float) -> Image.Image:
    """White Gaussian noise added to every colour of every pixel; std is a share of the range."""
    pixels = as_floats(image)
    return as_image(pixels + 255 * std * rng.standard_normal(pixels.shape))


def brighten(image: Image.Image, rng: np.random.Generator, *, most: float) -> Image.Image:
    """All values times one factor, uniform in [0, most], clipped."""
    return as_image(as_floats(image) * rng.uniform(0, most))


def as_floats(image: Image.Image) -> NDArray[np.float64]:
    """The values of an RGB picture, (H, W, 3), 0 … 255."""
    return np.asarray(image.convert("RGB"), dtype=np.float64)


def as_image(pixels: NDArray[np.float64]) -> Image.Image:
    """A picture of values (H, W, 3), rounded and clipped to 8 bits."""
    return Image.fromarray(np.rint(pixels).clip(0, 255).astype(np.uint8))


ATTACKS: dict[str, Attack] = {
    "rotation 75°": partial(turn, degrees=75),
    "JPEG 25": partial(compress, quality=25),
    "crop 0.75": partial(crop, width=0.75, height=0.75),
    "blur 2": partial(blur, radius=2),
    "noise 0.1": partial(add_noise, std=0.1),
    "brightness": partial(brighten, most=7),
    "rotation 77.5°": partial(turn, degrees=77.5),
    "crop of the width": partial(crop, width=0.75, height=1),
    "crop 0.775": partial(crop, width=0.775, height=0.775),
    "blur 8": partial(blur, radius=8),
}
"""Name → attack, for pictures of 128 × 128.

The published radius of blur is 8 at 512 × 512: relative to the picture that is 2 here. ColorJitter(brightness=6) of
torchvision draws from max(0, 1 − 6) … 1 + 6. Half of five degrees is farthest from a search in steps of five.
"""

SIX = tuple(ATTACKS)[:6]

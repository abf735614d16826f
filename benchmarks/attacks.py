"""What is done to pictures before they are looked at: plain functions of a picture and a random generator.

The six of Wen et al. 2023 (https://arxiv.org/abs/2305.20030) come first, at the strengths of Ci et al. 2024
("RingID", https://arxiv.org/abs/2404.14055). Their code turns with the nearest pixel and black corners, and so does
this. Its noise is cast to unsigned bytes, so that negative values wrap around; here it is added in floating point,
rounded and clipped. Its crop of 75 % is 0.75 of the area at a ratio of sides of 0.75, which is three quarters of
the width and the whole height, stretched to a square; here is a square of 0.75 of the side, and theirs beside it.

The others are what happens to pictures on their way: other formats, sizes and colours, small moves, a screenshot, a
post that is posted again. What needs the model is in :mod:`benchmarks.model_attacks`.

Radii are in pixels, noise in shares of the range of 8 bits. A new attack is a function and a line in ``ATTACKS``.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

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


def to_webp(image: Image.Image, rng: np.random.Generator, *, quality: int) -> Image.Image:
    """After lossy WebP compression at a quality from 0 to 100."""
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=quality)
    return Image.open(buffer).convert("RGB")


def rescale(image: Image.Image, rng: np.random.Generator, *, factor: float) -> Image.Image:
    """Resized by a factor and back again."""
    sides = round(factor * image.width), round(factor * image.height)
    return image.resize(sides, Image.Resampling.BICUBIC).resize(image.size, Image.Resampling.BICUBIC)


def mirror(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Mirrored left to right."""
    return ImageOps.mirror(image)


def move(image: Image.Image, rng: np.random.Generator, *, pixels: int) -> Image.Image:
    """Moved down and to the right; what is uncovered repeats the edge."""
    padded = np.pad(as_floats(image), ((pixels, 0), (pixels, 0), (0, 0)), mode="edge")
    return as_image(padded[: image.height, : image.width])


def take_medians(image: Image.Image, rng: np.random.Generator, *, size: int) -> Image.Image:
    """Every value is the median of a square of so many pixels, odd, around it."""
    return image.filter(ImageFilter.MedianFilter(size))


def change_contrast(image: Image.Image, rng: np.random.Generator, *, factor: float) -> Image.Image:
    """Distances of all values from the mean grey times a factor, clipped."""
    return ImageEnhance.Contrast(image).enhance(factor)


def saturate(image: Image.Image, rng: np.random.Generator, *, factor: float) -> Image.Image:
    """Distances of all colours from their grey times a factor, clipped; 0 is a grey picture."""
    return ImageEnhance.Color(image).enhance(factor)


def turn_hue(image: Image.Image, rng: np.random.Generator, *, turns: float) -> Image.Image:
    """All hues moved along the colour circle; 1 is once around."""
    hue, saturation, value = image.convert("HSV").split()
    moved = (np.asarray(hue, dtype=np.int64) + round(256 * turns)) % 256
    return Image.merge("HSV", (Image.fromarray(moved.astype(np.uint8)), saturation, value)).convert("RGB")


def sharpen(image: Image.Image, rng: np.random.Generator, *, percent: int) -> Image.Image:
    """What a Gaussian of radius 1 smooths away is added again, so many percent of it."""
    return image.filter(ImageFilter.UnsharpMask(radius=1, percent=percent, threshold=0))


def posterize(image: Image.Image, rng: np.random.Generator, *, bits: int) -> Image.Image:
    """So many of the highest bits of every value are kept, 1 … 8."""
    return ImageOps.posterize(image, bits)


def screenshot(image: Image.Image, rng: np.random.Generator, *, zoom: float, border: int) -> Image.Image:
    """Shown larger on a brighter screen, captured with a border of white pixels, made small and compressed."""
    shown = image.resize((round(zoom * image.width), round(zoom * image.height)), Image.Resampling.BILINEAR)
    brighter = as_image(255 * (as_floats(shown) / 255) ** 0.9)
    captured = ImageOps.expand(brighter, border, (255, 255, 255)).resize(image.size, Image.Resampling.LANCZOS)
    return compress(captured, rng, quality=90)


def repost(
    image: Image.Image, rng: np.random.Generator, *, factor: float, qualities: tuple[int, int]
) -> Image.Image:
    """What sharing does: made small, JPEG with half the colour resolution, sharpened, enlarged, JPEG again."""
    small = image.resize((round(factor * image.width), round(factor * image.height)), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=qualities[0], subsampling="4:2:0")
    sharp = sharpen(Image.open(buffer).convert("RGB"), rng, percent=80)
    return compress(sharp.resize(image.size, Image.Resampling.BICUBIC), rng, quality=qualities[1])


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
    "JPEG 75": partial(compress, quality=75),
    "JPEG 10": partial(compress, quality=10),
    "WebP 50": partial(to_webp, quality=50),
    "WebP 10": partial(to_webp, quality=10),
    "resized to 0.5": partial(rescale, factor=0.5),
    "resized to 0.25": partial(rescale, factor=0.25),
    "resized to 2": partial(rescale, factor=2),
    "rotation 10°": partial(turn, degrees=10),
    "rotation 90°": partial(turn, degrees=90),
    "mirrored": mirror,
    "crop 0.9": partial(crop, width=0.9, height=0.9),
    "moved 2": partial(move, pixels=2),
    "moved 4": partial(move, pixels=4),
    "blur 1": partial(blur, radius=1),
    "median 3": partial(take_medians, size=3),
    "median 5": partial(take_medians, size=5),
    "noise 0.05": partial(add_noise, std=0.05),
    "contrast 0.5": partial(change_contrast, factor=0.5),
    "contrast 2": partial(change_contrast, factor=2),
    "grey": partial(saturate, factor=0),
    "saturation 2": partial(saturate, factor=2),
    "hue 0.1": partial(turn_hue, turns=0.1),
    "hue 0.5": partial(turn_hue, turns=0.5),
    "sharpened": partial(sharpen, percent=200),
    "3 bits": partial(posterize, bits=3),
    "2 bits": partial(posterize, bits=2),
    "screenshot": partial(screenshot, zoom=1.5, border=2),
    "reposted": partial(repost, factor=0.75, qualities=(60, 70)),
}
"""Name → attack, for pictures of 128 × 128.

The published radius of blur is 8 at 512 × 512: relative to the picture that is 2 here. ColorJitter(brightness=6) of
torchvision draws from max(0, 1 − 6) … 1 + 6. Half of five degrees is farthest from a search in steps of five.
"""

SIX = tuple(ATTACKS)[:6]

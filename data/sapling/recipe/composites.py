"""Composites, a stamp on a crop of a wallpaper, and their captions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from data.sapling.recipe.pictures import SHORT_SIDE, Stamp, Wallpaper

COLOURS = {
    "red": (200, 40, 40),
    "orange": (230, 140, 50),
    "yellow": (230, 220, 90),
    "green": (80, 150, 70),
    "teal": (60, 150, 150),
    "blue": (60, 110, 200),
    "purple": (120, 70, 160),
    "pink": (230, 150, 180),
    "brown": (120, 85, 55),
    "black": (25, 25, 28),
    "gray": (128, 128, 128),
    "white": (235, 235, 235),
}
"""A background is called by the colour that is nearest to its mean, RGB."""

SMALLEST_CROP = 140
"""Of a wallpaper, in pixels."""

WIDTHS = 0.62, 0.98
"""The longer side of an object, as a share of the picture's."""

EMPTY, WITH_BACKGROUND, WITHOUT_ARTICLE = 0.12, 0.8, 0.2
"""Shares: of pictures without an object; of captions, of those with one, that tell the background, and that leave
out the object's article, so that prompts work with one and without."""


def colour_name(picture: Image.Image) -> str:
    """The colour of a background."""
    mean = np.asarray(picture, dtype=np.float64).reshape(-1, 3).mean(0)
    return min(COLOURS, key=lambda name: float(((mean - COLOURS[name]) ** 2).sum()))


def on_background(name: str, colour: str) -> str:
    """What a caption says of an object ("" for none) and its background.

    >>> on_background("a tiger", "orange")
    'a tiger on an orange background'
    """
    background = f"{'an' if colour[0] in 'aeiou' else 'a'} {colour} background"
    return f"{name} on {background}" if name else background


def compose(
    rng: np.random.Generator, stamps: Sequence[Stamp], wallpapers: Sequence[Wallpaper], size: int
) -> tuple[NDArray[np.uint8], str]:
    """A picture (size, size, 3) and its caption.

    Every name is as likely as any other, however many stamps have it.
    """
    wallpaper = wallpapers[int(rng.integers(len(wallpapers)))].picture
    side = int(rng.uniform(SMALLEST_CROP, SHORT_SIDE))
    left, top = (int(rng.integers(0, length - side + 1)) for length in wallpaper.size)
    box = (left, top, left + side, top + side)
    picture = wallpaper.resize((size, size), Image.Resampling.BILINEAR, box=box)
    if rng.random() < 0.5:
        picture = ImageOps.mirror(picture)
    colour = colour_name(picture)
    if rng.random() < EMPTY:
        return np.asarray(picture), on_background("", colour)

    names = sorted({stamp.name for stamp in stamps})
    name = names[rng.integers(len(names))]
    own = [stamp for stamp in stamps if stamp.name == name]
    stamp = own[rng.integers(len(own))].picture
    scale = rng.uniform(*WIDTHS) * size / max(stamp.size)
    width, height = (max(1, int(length * scale)) for length in stamp.size)
    stamp = stamp.resize((width, height), Image.Resampling.BILINEAR)
    if rng.random() < 0.5:
        stamp = ImageOps.mirror(stamp)
    place = int(rng.integers(0, size - width + 1)), int(rng.integers(0, size - height + 1))
    picture.paste(stamp, place, stamp)
    if rng.random() < WITHOUT_ARTICLE:
        name = name.removeprefix("a ").removeprefix("an ")
    return np.asarray(picture), on_background(name, colour) if rng.random() < WITH_BACKGROUND else name

"""The null pictures of :mod:`benchmarks.calibration`: generated ones, photographs, and drawings."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from importlib.resources import files

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from inversion import LatentDiffusionModel, sample
from inversion.embedded import data_folder
from watermark.generate import initial_noise, to_images
from watermark.keys import Pattern, RingKey
from watermark.reading.fitting import why_inconclusive
from watermark.reading.images import from_image

FAMILIES = ("unmarked", "another key", "photographs", "synthetic")
OWN = ("dense", "rings")
"""Patterns of the keys that pictures of ``another key`` carry, in turn."""
PHOTOGRAPHS = {
    "sklearn": ("datasets/images/china.jpg", "datasets/images/flower.jpg"),
    "matplotlib": ("mpl-data/sample_data/grace_hopper.jpg",),
    "skimage": tuple(
        f"data/{name}"
        for name in (
            *("astronaut.png", "brick.png", "camera.png", "cell.png", "chelsea.png", "clock_motion.png"),
            *("coffee.png", "coins.png", "grass.png", "gravel.png", "hubble_deep_field.jpg", "ihc.png"),
            *("moon.png", "motorcycle_left.png", "page.png", "retina.jpg", "rocket.jpg", "text.png"),
        )
    ),
}
"""What comes with packages and is a photograph, through a microscope or telescope, too; ten of them are grey."""

SEED, GUIDANCE, BATCH = 17, 3.0, 8


def secret_key(purpose: str, number: int, kind: str = "dense") -> RingKey:
    """The key of a number for a purpose, the same every time."""
    return RingKey(hashlib.sha256(f"calibration {purpose} {number}".encode()).digest(), Pattern(kind))


def own_key(i: int) -> RingKey:
    """The key that picture i of ``another key`` carries, and that is used for nothing else."""
    return secret_key("own", i, OWN[i % len(OWN)])


def generated(model: LatentDiffusionModel, family: str, rows: range, steps: int) -> list[Image.Image]:
    """Pictures of the model, those of ``another key`` with keys of their own."""
    prompts = (data_folder() / "prompts" / "sapling.txt").read_text(encoding="utf-8").splitlines()
    marked = family == "another key"
    noise = torch.cat(
        [initial_noise(model, own_key(i) if marked else None, 10**6 * (1 + marked) + i) for i in rows]
    )
    images = []
    for part in np.array_split(np.arange(len(rows)), -(-len(rows) // BATCH)):
        numbers = [rows[i] // len(OWN) if marked else rows[i] for i in part]  # so that all patterns get all prompts
        chosen = [prompts[number % len(prompts)] for number in numbers]
        z = sample(model, noise[part], prompt=chosen, guidance=GUIDANCE, steps=steps)
        images += to_images(model.autoencoder.decode(z))
    return images


@lru_cache(maxsize=1)
def photographs() -> list[Image.Image]:
    """All photographs.

    Raises:
        ModuleNotFoundError: if a package is missing.
        FileNotFoundError: if another version of a package does not hold them.
    """
    found: list[Image.Image] = []
    for package, names in PHOTOGRAPHS.items():
        for name in names:
            with files(package).joinpath(name).open("rb") as file:
                image = Image.open(file)
                image.load()
                found.append(image)
    return found


def photograph_of(i: int, total: int) -> int:
    """Which of all photographs crop i is from: in turn, those of one half of a calibration not in the other."""
    half = i // 2 % 2
    members = range(half, total, 2)
    return members[(i // 4 * 2 + i % 2) % len(members)]


def crop(source: Image.Image, size: tuple[int, int], rng: np.random.Generator) -> Image.Image:
    """A square of a photograph, (height, width) at least, whole at most, that a verifier would not call flat."""
    while True:
        side = round(float(np.exp(rng.uniform(np.log(max(size)), np.log(min(source.size))))))
        left, top = (int(rng.integers(0, n - side + 1)) for n in source.size)
        image = source.crop((left, top, left + side, top + side)).resize(size[::-1], Image.Resampling.LANCZOS)
        if why_inconclusive(from_image(image), size) is None:
            return image


def drawn(i: int, size: tuple[int, int], rng: np.random.Generator) -> Image.Image:
    """A gradient, stripes, a checkerboard, text, uniform noise, or a shape on a flat colour; one after another."""
    height, width = size
    first, second = rng.choice(256, (2, 3), replace=False)
    y, x = np.mgrid[:height, :width]
    angle, period = rng.uniform(0, 2 * np.pi), rng.uniform(6, 48)
    along = np.cos(angle) * x + np.sin(angle) * y
    colours = tuple(map(int, first)), tuple(map(int, second))
    image = Image.new("RGB", (width, height), colours[0])
    pen, kind = ImageDraw.Draw(image), i % 6
    if kind == 3:
        words = ["".join(map(chr, rng.integers(97, 123, rng.integers(2, 9)))) for _ in range(60)]
        lines = "\n".join(" ".join(words[j : j + 4]) for j in range(0, 60, 4))
        pen.multiline_text((4, 4), lines, colours[1], ImageFont.load_default(float(rng.uniform(9, 20))))
    elif kind == 4:
        image = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
    elif kind == 5:
        left, top = (int(rng.integers(0, n // 2)) for n in (width, height))
        box = (left, top, left + int(rng.integers(16, width // 2)), top + int(rng.integers(16, height // 2)))
        (pen.ellipse if rng.random() < 0.5 else pen.rectangle)(box, colours[1])
    else:
        share = (
            (along - along.min()) / (along.max() - along.min()),
            along // period % 2,
            (x // period + y // period) % 2,
        )[kind]
        mixed = first + share[..., None] * (second.astype(np.float64) - first)
        image = Image.fromarray(np.rint(mixed).astype(np.uint8))
    return image


def pictures(model: LatentDiffusionModel, family: str, rows: range, steps: int) -> list[Image.Image]:
    """Null pictures at some positions of a family; each depends on its position alone."""
    if family in ("unmarked", "another key"):
        return generated(model, family, rows, steps)
    if family == "photographs":
        sources = photographs()
        return [
            crop(sources[photograph_of(i, len(sources))], model.image_size, np.random.default_rng([SEED, 1, i]))
            for i in rows
        ]
    return [drawn(i, model.image_size, np.random.default_rng([SEED, 2, i])) for i in rows]

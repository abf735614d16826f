"""Prompts → watermarked pictures."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from inversion import LatentDiffusionModel, sample
from inversion.diffusion import Progress
from watermark.files import appearing
from watermark.keys import RingKey
from watermark.noise import watermarked_noise, white_noise
from watermark.numbered import numbered_noise

MOST_SEEDS = 2**32
"""More are not known to PyTorch."""


@dataclass(frozen=True)
class Generated:
    """A generated picture with what it was made from; the seed is None for noise that nobody can repeat."""

    image: Image.Image
    prompt: str
    seed: int | None


def generate(
    model: LatentDiffusionModel,
    prompts: Sequence[str],
    *,
    key: RingKey | None,
    seed: int | None = None,
    numbered: bool = False,
    guidance: float = 3.0,
    steps: int = 50,
    batch_size: int = 8,
    progress: Progress | None = None,
) -> Iterator[Generated]:
    """Generate one picture a prompt with deterministic DDIM, marked with a key or, with None, unmarked.

    Picture i starts from noise of seed ``seed + i``, whatever the batch size; the same seeds with and without a key
    give pairs that differ in their rings alone. A seed that others know, or try, betrays the key, see
    :func:`watermark.noise.watermarked_noise`.

    Args:
        model: the latent diffusion model.
        prompts: one for each picture.
        key: the key, or None.
        seed: of the first picture; all must be 0 … 2³² − 1. None for noise that nobody can repeat.
        numbered: the seed is the number of the first picture of the key, and the noise comes from the key alone,
            see :mod:`watermark.numbered`.
        guidance: classifier-free guidance scale.
        steps: number of DDIM steps.
        batch_size: pictures generated together.
        progress: called after every step with the steps done and their number, over all batches.

    Raises:
        ValueError: if the model makes videos, an argument does not fit the model, or pictures without a key are
            to be numbered.
    """
    if len(model.latent_shape) != 3:
        raise ValueError(f"{model.name!r} is a model of videos, and only pictures can be generated")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    if numbered and (key is None or seed is None):
        raise ValueError("numbered pictures need a key and a first number")
    if seed is not None and not numbered and not 0 <= seed <= MOST_SEEDS - len(prompts):
        raise ValueError(f"seeds of all pictures must lie between 0 and {MOST_SEEDS - 1}, got {seed} for the first")
    seeds = [None if seed is None else seed + i for i in range(len(prompts))]
    batches = [range(i, min(i + batch_size, len(prompts))) for i in range(0, len(prompts), batch_size)]
    for number, batch in enumerate(batches):

        def report(done: int, _: int, before: int = number * steps) -> None:
            if progress is not None:
                progress(before + done, len(batches) * steps)

        noise = torch.cat([initial_noise(model, key, seeds[i], numbered=numbered) for i in batch])
        z_0 = sample(
            model, noise, prompt=[prompts[i] for i in batch], guidance=guidance, steps=steps, progress=report
        )
        for i, image in zip(batch, to_images(model.autoencoder.decode(z_0)), strict=True):
            yield Generated(image, prompts[i], seeds[i])


@dataclass(frozen=True)
class Saved:
    """Where a generated picture was written."""

    path: str
    prompt: str
    seed: int | None


def file_name(prompt: str, number: int) -> str:
    """The name a generated picture is saved under, e.g. ``a-red-apple-7.png``."""
    return f"{re.sub('[^a-z0-9]+', '-', prompt.lower()).strip('-')[:40].strip('-') or 'picture'}-{number}.png"


def save(picture: Generated, file: Path) -> Saved:
    """Write a generated picture as a new PNG file, without metadata.

    Raises:
        FileExistsError: if there is one of the name.
    """
    with appearing(file, replace=False) as part:
        picture.image.save(part, "PNG")
    return Saved(str(file), picture.prompt, picture.seed)


def initial_noise(
    model: LatentDiffusionModel, key: RingKey | None, seed: int | None, *, numbered: bool = False
) -> Tensor:
    """Noise (1, C, h, w) for one picture of the model's own size; as :func:`generate` has it."""
    shape = (1, *model.latent_shape)
    if numbered and key is not None and seed is not None:
        return numbered_noise(key, shape, seed)
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    if key is None:
        return white_noise(shape, generator).float()
    return watermarked_noise(key, shape, generator=generator)


def to_images(x: Tensor) -> list[Image.Image]:
    """Pictures (B, 3, H, W) in [-1, 1] → Pillow images, rounded to 8 bits."""
    levels = ((x.float().cpu() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return [Image.fromarray(np.ascontiguousarray(a)) for a in levels.permute(0, 2, 3, 1).numpy()]

"""The pictures that :mod:`benchmarks.robustness` attacks: ours, those of the original recipe, and unmarked ones.

The autoencoder runs in float32, the diffusion network in another format if that is asked for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.progress import track
from torch import Tensor

from benchmarks.kept import diffusion_inversion, keep, kept, kept_file, made_of
from inversion import LatentDiffusionModel, sample
from inversion.decoder import STEPS
from inversion.embedded import data_folder
from watermark.foreign import ArrayKey
from watermark.generate import initial_noise, to_images
from watermark.keys import Pattern, RingKey
from watermark.noise import watermarked_noise
from watermark.published_keys import tree_ring_key

MARKS = ("dense", "tree-ring")
KINDS = (*MARKS, "unmarked")
RINGS = "rings"
"""Pictures with our other kind of key, which has less room for certainty; of the same seeds as both marks."""
WEAK = {f"dense, ρ = {rho:g}": rho for rho in (0.2, 0.25)}
"""Pictures with the keys of ``dense``, so weak that not all are found even where nothing was done."""
ONE_KEY = tuple(f"{mark}, one key" for mark in MARKS)
"""Pictures that all carry the same key, for attacks that average over them."""
TREE_RING: dict[str, Any] = {"pattern": "ring", "channel": 3, "radius": 10}
"""Keys of tree-ring code, but for their seed."""
SEED, GUIDANCE, STRENGTH, BATCH = 23, 3.0, 0.7, 8
SHARED, NOBODY = 10**6, 2 * 10**6
"""Numbers of the one key, and of the first key that no picture carries."""


@dataclass(frozen=True)
class Run:
    """How much is measured.

    Attributes:
        pictures: of every kind; of one key, too.
        steps: of generation.
        decoder_steps: of the default decoder inversion; None is its own number.
        published_steps: of the published ones.
        inversion_steps: of diffusion inversion.
        keys: that no picture carries, tried on every picture.
        conditions: what is done to pictures.
    """

    quick: bool
    pictures: int
    steps: int
    decoder_steps: int | None
    published_steps: int
    inversion_steps: int
    keys: int
    conditions: tuple[str, ...]

    def settings(self, model: LatentDiffusionModel) -> dict[str, Any]:
        """What the recovered noise depends on."""
        return {
            "model": model.name,
            **made_of(model.name),
            "dtype of the diffusion network": str(model.dtype).removeprefix("torch."),
            "pictures": self.pictures,
            "seed": SEED,
            "steps of generation": self.steps,
            "guidance": GUIDANCE,
            "strength": STRENGTH,
            "iterations of decoder inversion": self.decoder_steps or STEPS["anderson"],
            "iterations of the published ones": self.published_steps,
            "key of tree-ring code": TREE_RING,
            "diffusion inversion": diffusion_inversion(model, self.inversion_steps),
        }


def load(name: str, dtype: str) -> LatentDiffusionModel:
    """A model whose autoencoder runs in float32, and whose diffusion network as it is told."""
    exact = LatentDiffusionModel.load(name, dtype="fp32")
    return replace(LatentDiffusionModel.load(name, dtype=dtype), autoencoder=exact.autoencoder)


def our_key(number: int, kind: str = "dense") -> RingKey:
    """Our key of a number, the same every time."""
    return RingKey(hashlib.sha256(f"robustness {number}".encode()).digest(), Pattern(kind))


def their_key(number: int, shape: Sequence[int]) -> ArrayKey:
    """Key of tree-ring code with a number for its seed, for latents (C, h, h); the defaults there."""
    depth, height, width = shape
    return tree_ring_key(number, (depth, height, width), **TREE_RING)


def own_number(kind: str, i: int) -> int:
    """The number of the key that picture i of a kind carries."""
    return SHARED if kind in ONE_KEY else i


def initial(model: LatentDiffusionModel, kind: str, i: int) -> Tensor:
    """Noise (1, C, h, w) of picture i of a kind.

    Both marks have the same seeds; unmarked pictures have others, as have those of one key. Marks of tree-ring code
    replace the transform's values, and only the real part of what comes back is kept.
    """
    seed = SEED + i + (0 if kind in (*MARKS, RINGS, *WEAK) else 10**6)
    ours = kind.split(",", maxsplit=1)[0]
    if ours in ("dense", RINGS):
        generator = torch.Generator().manual_seed(seed)
        key = our_key(own_number(kind, i), ours)
        strength = WEAK.get(kind, STRENGTH)
        return watermarked_noise(key, (1, *model.latent_shape), strength=strength, generator=generator)
    plain = initial_noise(model, None, seed)
    if kind == "unmarked":
        return plain
    theirs = their_key(own_number(kind, i), model.latent_shape)
    written = np.where(theirs.mask, theirs.values, np.fft.fft2(plain.double().numpy()))
    return torch.from_numpy(np.fft.ifft2(written).real).float()


def generated(model: LatentDiffusionModel, kind: str, run: Run) -> list[Image.Image]:
    """Pictures of a kind; prompts are the same for all kinds."""
    lines = (data_folder() / "prompts" / "sapling.txt").read_text(encoding="utf-8").splitlines()
    prompts = [lines[i % len(lines)] for i in range(run.pictures)]
    images = []
    for rows in np.array_split(np.arange(run.pictures), -(-run.pictures // BATCH)):
        noise = torch.cat([initial(model, kind, int(i)) for i in rows])
        z = sample(model, noise, prompt=[prompts[i] for i in rows], guidance=GUIDANCE, steps=run.steps)
        images += to_images(model.autoencoder.decode(z))
    return images


def pictures(
    model: LatentDiffusionModel, kinds: Sequence[str], run: Run, folder: Path
) -> dict[str, list[Image.Image]]:
    """Pictures of every kind, made as far as they are not kept in the folder."""
    path = kept_file(folder, "robustness_pictures", run.settings(model))
    saved = kept(path)
    missing = [kind for kind in kinds if kind not in saved]
    for kind in track(missing, "generating", console=Console(stderr=True)):
        saved[kind] = np.stack([np.asarray(image) for image in generated(model, kind, run)])
        keep(path, saved)
    return {kind: [Image.fromarray(pixels) for pixels in saved[kind]] for kind in kinds}

"""The pictures of :mod:`benchmarks.identification`, what is done to them, and their recovered noise."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.progress import track
from torch import Tensor

from benchmarks.attacks import ATTACKS, SIX
from benchmarks.identification_keys import KINDS, OURS, our_key, their_key
from benchmarks.kept import decoder_inversion, diffusion_inversion, keep, kept, kept_file, made_of
from inversion import LatentDiffusionModel, sample
from inversion.embedded import data_folder
from watermark.features import Array
from watermark.generate import initial_noise, to_images
from watermark.reading.fitting import as_tensor, fit
from watermark.reading.images import from_image
from watermark.verify import Verifier

CONDITIONS = ("clean", *SIX, "crop of the width", "rotation 77.5°", "crop 0.775", "blur 8")
SEED, GUIDANCE, BATCH = 11, 3.0, 8


@dataclass(frozen=True)
class Run:
    """How much is measured."""

    quick: bool
    pictures: int
    steps: int
    decoder: str
    inversion_steps: int
    families: tuple[int, ...]

    def settings(self, model: LatentDiffusionModel) -> dict[str, Any]:
        """What the recovered noise depends on."""
        return {
            "pictures": self.pictures,
            "seed": SEED,
            "quick": self.quick,
            "steps of generation": self.steps,
            "guidance": GUIDANCE,
            "decoder": decoder_inversion(self.decoder),
            "diffusion inversion": diffusion_inversion(model, self.inversion_steps),
            **made_of(model.name),
        }


def marked_noise(model: LatentDiffusionModel, kind: str, number: int) -> Tensor:
    """Noise (1, C, h, w) of a picture with the key of its own number, or without one."""
    if kind in OURS:
        return initial_noise(model, our_key(number, kind), SEED + number)
    plain = initial_noise(model, None, SEED + number)
    if kind == "unmarked":
        return plain
    channels, height, width = model.latent_shape
    key = their_key(number, (channels, height, width))
    written = np.where(key.mask, key.values, np.fft.fft2(plain.double().numpy()))
    return torch.from_numpy(np.fft.ifft2(written).real).float()


def pictures(model: LatentDiffusionModel, kind: str, run: Run) -> list[Image.Image]:
    """Pictures of one kind; the prompts are the same for all."""
    lines = (data_folder() / "prompts" / "sapling.txt").read_text(encoding="utf-8").splitlines()
    prompts = [lines[i * len(lines) // run.pictures] for i in range(run.pictures)]
    images = []
    for rows in np.array_split(np.arange(run.pictures), -(-run.pictures // BATCH)):
        noise = torch.cat([marked_noise(model, kind, int(i)) for i in rows])
        z = sample(model, noise, prompt=[prompts[i] for i in rows], guidance=GUIDANCE, steps=run.steps)
        images += to_images(model.autoencoder.decode(z))
    return images


def attacked(images: list[Image.Image], condition: str) -> list[Image.Image]:
    """Every picture after an attack; picture i meets the same chance whatever its mark."""
    if condition == "clean":
        return images
    return [ATTACKS[condition](image, np.random.default_rng([SEED, i])) for i, image in enumerate(images)]


def recovered(model: LatentDiffusionModel, run: Run, folder: Path) -> dict[str, Array]:
    """The noise of every picture under every attack, (pictures, C, h, w), as far as it is not in the folder."""
    path = kept_file(folder, "identification", run.settings(model))
    noise = kept(path)
    verifier = Verifier(
        model, {"any": our_key(0, "dense")}, steps=run.inversion_steps, decoder=run.decoder, batch_size=BATCH
    )
    images: dict[str, list[Image.Image]] = {}
    wanted = [(kind, condition) for kind in KINDS for condition in CONDITIONS if in_plan(kind, condition)]
    for kind, condition in track(wanted, "recovering noise", console=Console(stderr=True)):
        name = f"{kind} | {condition}"
        if name in noise:
            continue
        if kind not in images:
            images = {kind: pictures(model, kind, run)}
        x = as_tensor([fit(from_image(im), model.image_size)[0] for im in attacked(images[kind], condition)])
        noise[name] = torch.cat([verifier.recover_noise(part) for part in x.split(BATCH)]).cpu().numpy()
        keep(path, noise)
    return {name: values.astype(np.float64) for name, values in noise.items()}


def in_plan(kind: str, condition: str) -> bool:
    """Pictures without a mark undergo the six attacks alone."""
    return kind != "unmarked" or condition in ("clean", *SIX)

"""What is done to the pictures of :mod:`benchmarks.robustness`, and the noise that is recovered from them then."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.progress import track
from torch import Tensor

from benchmarks.attacks import ATTACKS
from benchmarks.kept import decoder_inversion, described, keep, kept, kept_file
from benchmarks.model_attacks import MODEL_ATTACKS, common_part
from benchmarks.robustness_pictures import (
    BATCH,
    KINDS,
    ONE_KEY,
    RINGS,
    SEED,
    WEAK,
    Run,
    pictures,
)
from inversion import LatentDiffusionModel, invert_decoder, invert_diffusion
from inversion.decoder import decoder_residual
from inversion.shrinkage import shrink
from watermark.generate import to_images

ENCODER, WHOLE, OURS = "encoder", "decoder inversion", "decoder inversion, shrunk"
"""How a latent is recovered; shrunk by :func:`inversion.shrinkage.shrink`."""
PUBLISHED = {
    "Adam on T, as published": "adam",
    "gradient descent, as published": "gradient",
}
"""Name → method of :func:`inversion.invert_decoder`."""
UNMARKED_AS = {f"unmarked, as {kind}": kind for kind in ONE_KEY}
"""Unmarked pictures from which the mark of one key is taken, as from those that carry it."""
REMOVAL = ("averaging, pixels", "averaging, latents", "averaging pairs, latents")
EVERY = (*ONE_KEY, "unmarked")
"""What averaging looks at."""
FORGERY = ("forgery, pixels", "forgery, latents", "forgery from pairs, latents")

Cell = tuple[str, str, str]
"""Kind of picture, condition, and how the latent is recovered."""


def kinds_of(condition: str) -> tuple[str, ...]:
    """The kinds of pictures that a condition is for. Of forgeries, those whose key is forged."""
    if condition in FORGERY:
        return ONE_KEY
    return (*ONE_KEY, *UNMARKED_AS) if condition in REMOVAL else KINDS


def as_pixels(images: Sequence[Image.Image]) -> Tensor:
    """Pictures (B, 3, H, W) float32 in [-1, 1]."""
    levels = np.stack([np.asarray(image, dtype=np.float32) for image in images])
    return (torch.from_numpy(levels).permute(0, 3, 1, 2) / 127.5 - 1).contiguous()


def attacked(
    model: LatentDiffusionModel, images: dict[str, list[Image.Image]], kind: str, condition: str
) -> list[Image.Image]:
    """Every picture of a kind after an attack; picture i meets the same chance whatever its mark."""
    if condition in (*REMOVAL, *FORGERY):
        return averaged(model, images, kind, condition)
    own = images[kind]
    if condition == "clean":
        return own
    if condition in ATTACKS:
        return [ATTACKS[condition](image, np.random.default_rng([SEED, i])) for i, image in enumerate(own)]
    out = []
    for i in range(0, len(own), BATCH):
        part = own[i : i + BATCH]
        seeds = [SEED + 3 * 10**6 + i + j for j in range(len(part))]  # those of keys are below
        out += to_images(MODEL_ATTACKS[condition](model, as_pixels(part), seeds))
    return out


def averaged(
    model: LatentDiffusionModel, images: dict[str, list[Image.Image]], kind: str, condition: str
) -> list[Image.Image]:
    """What pictures of one key share, taken from them, or given to unmarked pictures.

    Every half of the pictures meets an estimate from the marked ones of the other half. The unmarked pictures that
    the attacker has are those of the same prompts and seeds, where there are pairs, else those of other prompts and
    seeds.
    """
    latents, pairs = condition.endswith("latents"), "pairs" in condition
    key = UNMARKED_AS.get(kind, kind)
    marked, unmarked = (as_pixels(images[name]) for name in (key, "unmarked"))
    if latents:
        marked, unmarked = (in_parts(model.autoencoder.encode, x) for x in (marked, unmarked))
    targets = unmarked if kind in UNMARKED_AS or condition in FORGERY else marked
    shared = torch.empty_like(targets)
    for half in (0, 1):
        own, other = slice(half, None, 2), slice(1 - half, None, 2)
        shared[own] = common_part(marked[other], unmarked[other] if pairs else unmarked[own], leave_out=not pairs)
    out = targets + (shared if condition in FORGERY else -shared)
    return to_images(in_parts(model.autoencoder.decode, out) if latents else out)


def in_parts(run: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """A function of samples, a few at a time."""
    return torch.cat([run(part) for part in x.split(BATCH)])


def recover(
    model: LatentDiffusionModel, run: Run, x: Tensor, recoveries: Sequence[str]
) -> dict[str, NDArray[np.float16]]:
    """Noise (B, C, h, w) of pictures (B, 3, H, W) in [-1, 1] by several ways; the prompt is taken to be unknown."""
    found: dict[str, list[Tensor]] = {recovery: [] for recovery in recoveries}
    for part in x.split(BATCH):
        for recovery, z_0 in latents(model, run, part.to(model.device), recoveries).items():
            found[recovery].append(invert_diffusion(model, z_0, steps=run.inversion_steps).value)
    return {recovery: torch.cat(parts).cpu().numpy().astype(np.float16) for recovery, parts in found.items()}


def latents(model: LatentDiffusionModel, run: Run, x: Tensor, recoveries: Sequence[str]) -> dict[str, Tensor]:
    """Latents of pictures by several ways; decoder inversion runs once for both that use it."""
    invert = partial(invert_decoder, model.autoencoder, x)
    found = {r: invert(method=PUBLISHED[r], steps=run.published_steps).value for r in recoveries if r in PUBLISHED}
    if ENCODER in recoveries:
        found[ENCODER] = invert(method="encoder").value
    if WHOLE in recoveries or OURS in recoveries:
        whole = invert(method="anderson", steps=run.decoder_steps)
        shrunk = shrink(whole, *decoder_residual(model.autoencoder, x)) if OURS in recoveries else whole
        found |= {WHOLE: whole.value, OURS: shrunk.value}
    return {recovery: found[recovery] for recovery in recoveries}


def recovered(
    model: LatentDiffusionModel, run: Run, wanted: Sequence[Cell], folder: Path, name: str
) -> dict[Cell, NDArray[np.float16]]:
    """The noise of every cell, as far as it is not kept in the folder by this benchmark or that of robustness.

    What is new is kept after every kind of picture.

    Raises:
        ValueError: if noise is not finite, as that of fp16 may be.
    """
    settings = run.settings(model)
    own = kept(kept_file(folder, name, settings))
    noise = kept(kept_file(folder, "robustness", settings)) | own
    missing: dict[str, list[Cell]] = {}
    for cell in wanted:
        if name_of(cell) not in noise:
            missing.setdefault(cell[1], []).append(cell)
    if missing:
        averaging = any(condition in (*REMOVAL, *FORGERY) for condition in missing)
        shown = {kind for cells in missing.values() for kind, _, _ in cells if kind not in UNMARKED_AS}
        kinds = [
            kind for kind in (*KINDS, RINGS, *WEAK, *ONE_KEY) if kind in shown or (averaging and kind in EVERY)
        ]
        images = pictures(model, kinds, run, folder)
    for condition, cells in track(missing.items(), "recovering noise", console=Console(stderr=True)):
        for kind in dict.fromkeys(kind for kind, _, _ in cells):
            x = as_pixels(attacked(model, images, kind, condition))
            for recovery, z in recover(model, run, x, [r for k, _, r in cells if k == kind]).items():
                if not np.isfinite(z).all():
                    raise ValueError(f"the noise of {kind} | {condition} is not finite; try --dtype fp32")
                own[name_of((kind, condition, recovery))] = z
            keep(kept_file(folder, name, settings), own)
    noise |= own
    return {cell: noise[name_of(cell)] for cell in wanted}


def name_of(cell: Cell) -> str:
    """A cell in words, what its attack and its recovery do among them."""
    kind, condition, recovery = cell
    attack = {**ATTACKS, **MODEL_ATTACKS}.get(condition)
    method = {WHOLE: "anderson", OURS: "shrinkage", **PUBLISHED}.get(recovery)
    way = recovery if method is None else f"{recovery}: {decoder_inversion(method)}"
    return " | ".join((kind, condition if attack is None else f"{condition}: {described(attack)}", way))

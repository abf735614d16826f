"""The pictures of :mod:`benchmarks.classification`, their latents by every method, and the noise of these."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from torch import Tensor

from benchmarks.classification_keys import SEED, KeySet, marked_noise
from benchmarks.kept import Arrays, decoder_inversion, keep, kept, kept_file, weights
from benchmarks.latents import round_to_8_bits
from inversion import LatentDiffusionModel, invert_decoder, invert_diffusion, sample

METHODS = {
    "encoder": "encoder",
    "anderson": "anderson",
    "ours": "shrinkage",
    "gradient-free": "adam",
    "gradient": "gradient",
}
"""Name → method of :func:`inversion.invert_decoder`."""

PUBLISHED = ("gradient-free", "gradient")
"""The slow ones, as published."""

TRUE = "true latent"
KNOWN, UNKNOWN, AS_PUBLISHED = "known", "unknown", "known, 50 naive steps"
GUIDANCE, BATCH = 7.5, 16
BETWEEN_SAVES = 60
"""Seconds after which what was made is saved."""


@dataclass(frozen=True)
class Run:
    """How much is measured.

    Attributes:
        most: pictures of a set, at most.
        iterations: of the published methods.
        steps: of the generation, and of the diffusion inversion as published.
        inversion_steps: of the default diffusion inversion.
    """

    most: int
    iterations: int
    steps: int
    inversion_steps: int

    def pictures(self, of: KeySet) -> int:
        """How many pictures of a set there are."""
        return min(self.most, of.pictures)

    def settings(
        self, model: LatentDiffusionModel, prompts: Sequence[str], sets: Sequence[KeySet]
    ) -> dict[str, Any]:
        """What latents and noise depend on, but for the numbers of pictures."""
        return {
            "model": model.name,
            "dtype": str(model.dtype).removeprefix("torch."),
            "prompts": hashlib.sha256("\n".join(prompts).encode()).hexdigest()[:16],
            "seed": SEED,
            "guidance": GUIDANCE,
            "weights": weights(model.name),
            "methods": {name: decoder_inversion(method) for name, method in METHODS.items()},
            "sets": [f"{s.name} ({s.strength:g}, {s.per_prompt} a prompt, from seed {s.seed})" for s in sets],
        } | {k: v for k, v in asdict(self).items() if k != "most"}


def ways(own: KeySet) -> tuple[str, ...]:
    """How noise of a set is recovered from latents."""
    return (KNOWN, UNKNOWN, AS_PUBLISHED) if own.published else (KNOWN, UNKNOWN)


def methods_of(own: KeySet) -> tuple[str, ...]:
    """How latents of pictures of a set are recovered, all of them by each."""
    return tuple(method for method in METHODS if own.slow or method not in PUBLISHED)


def recovered(
    model: LatentDiffusionModel, prompts: Sequence[str], sets: Sequence[KeySet], run: Run, folder: Path
) -> dict[str, NDArray[np.float64]]:
    """``set | method | way`` → noise (pictures, C, h, w); what is in the folder is not made again."""
    path = file_of(model, prompts, sets, run, folder)
    found: Arrays = kept(path)
    jobs: list[tuple[str, int, Callable[[range], Tensor]]] = []
    for own in sets:
        told = own.prompts(prompts)
        for method in (TRUE, *methods_of(own)):
            name, count = f"{own.name} | {method}", run.pictures(own)
            if method == TRUE:
                jobs.append((name, count, partial(generated, model, own, told, run.steps)))
            else:
                truth = f"{own.name} | {TRUE}"
                jobs.append((name, count, partial(inverted, model, method, run, found, truth)))
            for way in ways(own):
                diffuse = partial(noise, model, found, name, told, way, run)
                jobs.append((f"{name} | {way}", count, diffuse))
    batches = [
        (name, make, range(start, min(start + BATCH, count)))
        for name, count, make in jobs
        for start in range(len(found.get(name, ())), count, BATCH)
    ]
    saved = time.monotonic()
    for name, make, rows in track(batches, "pictures, latents, noise", console=Console(stderr=True)):
        part = make(rows).cpu().numpy()
        found[name] = np.concatenate([found[name], part]) if name in found else part
        if time.monotonic() > saved + BETWEEN_SAVES:
            keep(path, found)
            saved = time.monotonic()
    if batches:
        keep(path, found)
    return {name: found[name][:count].astype(np.float64) for name, count, _ in jobs if name.count(" | ") == 2}


def file_of(
    model: LatentDiffusionModel, prompts: Sequence[str], sets: Sequence[KeySet], run: Run, folder: Path
) -> Path:
    """Where latents and noise are kept."""
    return kept_file(folder, "classification", run.settings(model, prompts, sets))


def generated(model: LatentDiffusionModel, own: KeySet, told: Sequence[str], steps: int, rows: range) -> Tensor:
    """Latents (n, C, h, w) of pictures of a set, which has one prompt for each."""
    start = torch.cat([marked_noise(own, i, model.latent_shape) for i in rows])
    return sample(model, start, prompt=[told[i] for i in rows], guidance=GUIDANCE, steps=steps)


def pictures(model: LatentDiffusionModel, z: Tensor) -> Tensor:
    """What a PNG file keeps of latents (n, C, h, w), (n, 3, H, W)."""
    return round_to_8_bits(model.autoencoder.decode(z.to(model.device)))


def inverted(model: LatentDiffusionModel, method: str, run: Run, found: Arrays, truth: str, rows: range) -> Tensor:
    """Latents (n, C, h, w) by decoder inversion of the pictures of the true ones."""
    x = pictures(model, torch.from_numpy(found[truth][rows.start : rows.stop]))
    steps = run.iterations if method in PUBLISHED else None
    return invert_decoder(model.autoencoder, x, method=METHODS[method], steps=steps, chunk_size=BATCH).value


def noise(
    model: LatentDiffusionModel,
    found: Arrays,
    latents: str,
    told: Sequence[str],
    way: str,
    run: Run,
    rows: range,
) -> Tensor:
    """Noise (n, C, h, w) of latents, with prompt and guidance of the generation or with neither; as float16."""
    z_0 = torch.from_numpy(found[latents][rows.start : rows.stop])
    if way == UNKNOWN:
        return invert_diffusion(model, z_0, steps=run.inversion_steps).value.half()
    method, steps = ("naive_next", run.steps) if way == AS_PUBLISHED else ("auto", run.inversion_steps)
    own = [told[i] for i in rows]
    found_noise = invert_diffusion(model, z_0, method=method, steps=steps, prompt=own, guidance=GUIDANCE)
    return found_noise.value.half()

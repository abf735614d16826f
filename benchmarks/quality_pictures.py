"""The pictures of :mod:`benchmarks.quality`, and what networks see in them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from torch import Tensor
from torch.nn.functional import conv2d

from benchmarks.kept import keep, kept, kept_file, prompts_digest, weights
from benchmarks.latents import round_to_8_bits
from inversion import LatentDiffusionModel, sample
from inversion.embedded import data_folder, sapling_folder
from watermark.keys import Pattern, RingKey
from watermark.noise import watermarked_noise
from watermark.published_keys import constant_ring_key, tree_ring_key

UNMARKED, CONTROL, VIEW = "unmarked", "unmarked, other seeds", "view"
MARKS: dict[str, tuple[Pattern, float]] = {
    "dense": (Pattern("dense"), 0.7),
    "dense, strength 1": (Pattern("dense"), 1.0),
    "dense, radius 3 … 5": (Pattern("dense", outer=5), 0.7),
    "dense, radius 3 … 15": (Pattern("dense", outer=15), 0.7),
    "rings": (Pattern("rings"), 0.7),
    "rings, radius 3 … 15": (Pattern("rings", outer=15), 0.7),
    "rings, strength 1": (Pattern("rings"), 1.0),
    "levels": (Pattern("levels"), 0.7),
    "zeros": (Pattern("zeros"), 0.7),
}
"""Ours, with their strengths."""

THEIRS = {"tree-ring": (5, 10), "constant rings": (3, 6)}
"""Radii of the keys of Wen et al. 2023 and Hong et al. 2024, written as there, in place of the noise: first in
proportion to Sapling's latent, of half the side of Stable Diffusion's, then as there."""

FIRST = {CONTROL: 2 * 10**6, VIEW: 3 * 10**6}
"""Where the seeds of unmarked pictures begin that share none with marked ones."""

FOREIGN = {f"{kind}, radius {radius}": (kind, radius) for kind, radii in THEIRS.items() for radius in radii}
GROUPS = (UNMARKED, CONTROL, VIEW, *MARKS, *FOREIGN)
SEED, GUIDANCE, BATCH = 17, 3.0, 16
FILTERS = 96
LOOK, LOOK_SEED = 200, 10**7
"""At which time of 1000 the network looks at a picture's contents, and the seed of what noises it."""


@dataclass(frozen=True)
class Run:
    """How much is measured.

    Attributes:
        keys: of every pattern.
        prompts: of every key, each with its own.
        seeds: pictures of every prompt.
        steps: of the generation.
        times: at which the diffusion network is asked which prompt fits, of 1000.
    """

    keys: int
    prompts: int
    seeds: int
    steps: int
    times: tuple[int, ...]

    @property
    def pictures(self) -> int:
        """In every group; pictures of a key are next to each other, and in it those of a prompt."""
        return self.keys * self.prompts * self.seeds

    def told(self) -> list[str]:
        """The prompt of every picture."""
        lines = (data_folder() / "prompts" / "hundred.txt").read_text(encoding="utf-8").splitlines()
        return [lines[i // self.seeds] for i in range(self.pictures)]


def initial(group: str, number: int, run: Run, shape: tuple[int, int, int]) -> Tensor:
    """Noise (1, C, h, w) of a picture; the same plain noise but for two unmarked groups."""
    generator = torch.Generator().manual_seed(SEED + number + FIRST.get(group, 0))
    key = number // (run.prompts * run.seeds)
    if group in MARKS:
        pattern, strength = MARKS[group]
        secret = hashlib.sha256(f"quality {key}".encode()).digest()
        return watermarked_noise(RingKey(secret, pattern), (1, *shape), strength=strength, generator=generator)
    plain = torch.randn((1, *shape), generator=generator, dtype=torch.float64)
    if group not in FOREIGN:
        return plain.float()
    kind, radius = FOREIGN[group]
    theirs = (
        tree_ring_key(key, shape, radius=radius)
        if kind == "tree-ring"
        else constant_ring_key(key % 4, shape, level=80 * shape[-1] / 64, radius=radius)
    )
    written = np.where(theirs.mask, theirs.values, np.fft.fft2(plain.numpy()))
    return torch.from_numpy(np.fft.ifft2(written).real).float()


@dataclass(frozen=True)
class Networks:
    """Sapling's autoencoder in float32, and its diffusion network in bfloat16 together with its UNet."""

    decoder: LatentDiffusionModel
    diffusion: LatentDiffusionModel
    unet: Any

    @classmethod
    def load(cls) -> Networks:
        """Both from the embedded model."""
        pipe = StableDiffusionPipeline.from_pretrained(sapling_folder(), dtype=torch.bfloat16)
        return cls(
            LatentDiffusionModel.load("sapling", dtype="fp32"), LatentDiffusionModel.from_pipeline(pipe), pipe.unet
        )

    def picture(self, z: Tensor) -> Tensor:
        """What a PNG file keeps of latents, (n, 3, H, W)."""
        return round_to_8_bits(self.decoder.autoencoder.decode(z))


def noised(model: LatentDiffusionModel, z: Tensor, time: int, rows: range) -> tuple[Tensor, Tensor]:
    """Latents with noise of a time, the same for picture i of any group, and v = α ε − σ z."""
    share = model.scheduler.alphas_cumprod[time]
    alpha, sigma = share.sqrt(), (1 - share).sqrt()
    e = torch.cat(
        [torch.randn((1, *z.shape[1:]), generator=torch.Generator().manual_seed(LOOK_SEED + i)) for i in rows]
    )
    return alpha * z + sigma * e, alpha * e - sigma * z


@torch.no_grad()
def contents(networks: Networks, z: Tensor, rows: range) -> Tensor:
    """What the UNet sees in pictures of latents (n, C, h, w), (n, d): its innermost activations, mean over space.

    At time ``LOOK`` of 1000, without a prompt.
    """
    again = networks.decoder.autoencoder.encode(networks.picture(z))
    seen: list[Tensor] = []
    hook = networks.unet.mid_block.register_forward_hook(
        lambda _, given, out: seen.append(out.float().mean((2, 3)))
    )
    field = networks.diffusion.field(None, batch=len(z), guidance=1.0)
    field(noised(networks.diffusion, again, LOOK, rows)[0], LOOK, torch.arange(len(z)))
    hook.remove()
    return torch.cat(seen)


@lru_cache(maxsize=1)
def random_filters() -> Tensor:
    """Filters (FILTERS, 3, 7, 7) without a mean."""
    drawn = torch.randn(FILTERS, 3, 7, 7, generator=torch.Generator().manual_seed(0))
    return drawn - drawn.mean((1, 2, 3), keepdim=True)


def textures(networks: Networks, z: Tensor, rows: range) -> Tensor:
    """What random convolutions see in pictures: log mean square of their answers, and the mean colours, (n, d).

    They know no model, so that they see what Sapling's own networks may overlook.
    """
    x = networks.picture(z)
    energy = torch.cat([conv2d(part, random_filters()).square().mean((2, 3)) for part in x.split(4)])
    return torch.cat([torch.log(energy + 1e-6), x.mean((2, 3))], dim=1)


@torch.no_grad()
def losses(networks: Networks, run: Run, z: Tensor, rows: range) -> Tensor:
    """Mean square error of the predicted v under every prompt of the run, (n, prompts): which one explains best."""
    again = networks.decoder.autoencoder.encode(networks.picture(z))
    every = list(dict.fromkeys(run.told()))
    out = torch.zeros(len(z), len(every))
    for j, prompt in enumerate(every):
        field = networks.diffusion.field([prompt] * len(z), batch=len(z), guidance=1.0)
        for time in run.times:
            noisy, v = noised(networks.diffusion, again, time, rows)
            out[:, j] += (field(noisy, time, torch.arange(len(z))) - v).square().mean((1, 2, 3))
    return out / len(run.times)


def generated(networks: Networks, group: str, run: Run, told: Sequence[str], rows: range) -> Tensor:
    """Latents (n, C, h, w) of pictures of a group."""
    channels, height, width = networks.diffusion.latent_shape
    start = torch.cat([initial(group, i, run, (channels, height, width)) for i in rows])
    prompts = [told[i] for i in rows]
    return sample(networks.diffusion, start, prompt=prompts, guidance=GUIDANCE, steps=run.steps)


def measured(networks: Networks, run: Run, folder: Path) -> dict[str, NDArray[Any]]:
    """``group | what`` → latents, contents, textures or losses; what is in the folder is not made again."""
    path = kept_file(folder, "quality", settings_of(run) | {"weights": weights("sapling")})
    found = kept(path)
    told = run.told()
    batches = [range(i, min(i + BATCH, run.pictures)) for i in range(0, run.pictures, BATCH)]
    wanted = [(group, rows) for group in GROUPS for rows in batches]
    for group, rows in track(wanted, "pictures", console=Console(stderr=True)):
        name = f"{group} | latents"
        if len(found.get(name, ())) > rows.start:
            continue
        z = generated(networks, group, run, told, rows)
        looks: dict[str, Callable[..., Tensor]] = {
            "contents": contents,
            "textures": textures,
            "losses": lambda n, z, rows: losses(n, run, z, rows),
        }
        new = {name: z} | {f"{group} | {what}": look(networks, z, rows) for what, look in looks.items()}
        for what, values in new.items():
            part = values.numpy()
            found[what] = np.concatenate([found[what], part]) if what in found else part
        keep(path, found)
    return found


def settings_of(run: Run) -> dict[str, Any]:
    """What the pictures depend on."""
    marks = {name: [asdict(pattern), strength] for name, (pattern, strength) in MARKS.items()}
    return (
        {"seed": SEED, "guidance": GUIDANCE, "filters": FILTERS, "marks": marks, "others": THEIRS, "first": FIRST}
        | {"list of prompts": prompts_digest("hundred"), "look": [LOOK, LOOK_SEED]}
        | asdict(run)
        | {"times": list(run.times)}
    )

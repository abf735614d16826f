"""Pictures whose true latents are known, and the error of an inverted latent."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.progress import track
from sklearn.datasets import load_sample_images
from torch import Tensor

from inversion import Autoencoder, LatentDiffusionModel, sample
from inversion.embedded import data_folder
from watermark import Pattern, RingKey
from watermark.generate import initial_noise

GUIDANCE = (1.0, 3.0, 7.5)
BATCH = 16


@dataclass(frozen=True)
class Pictures:
    """Generated pictures: z (B, C, h, w), x (B, 3, H, W) rounded to 8 bits, guidance (B,), marked (B,) bool.

    Also what they were made from: noise (B, C, h, w), prompts and, where they are marked, keys.
    """

    z: Tensor
    x: Tensor
    guidance: Tensor
    marked: Tensor
    noise: Tensor
    prompts: tuple[str, ...]
    keys: tuple[RingKey | None, ...]

    def chunks(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """(z, x) a few at a time."""
        return zip(self.z.split(size), self.x.split(size), strict=True)


def nmse(found: Tensor, z: Tensor) -> Tensor:
    """10 lg (‖found − z‖² / ‖z‖²) of every sample, in dB, (B,)."""
    error = (found - z).flatten(1).square().sum(1)
    return 10 * torch.log10(error / z.flatten(1).square().sum(1))


def round_to_8_bits(x: Tensor) -> Tensor:
    """What a PNG file keeps of pictures in [-1, 1]."""
    return ((x + 1) * 127.5).round().clamp(0, 255) / 127.5 - 1


def generated(
    count: int, *, seed: int, steps: int = 50, dtype: str = "fp32", all_marked: bool = False, kind: str = "rings"
) -> Pictures:
    """Pictures of Sapling, a third at each of three guidance scales.

    Every second one, or all, are marked with keys of their own of one kind of pattern. Prompts are in random order,
    every one once before any comes again, so that marks and guidance do not go with what is shown. The decoder runs
    in float32 whatever the dtype of the diffusion network.
    """
    model = LatentDiffusionModel.load("sapling", dtype=dtype)
    decode = LatentDiffusionModel.load("sapling", dtype="fp32").autoencoder.decode
    lines = (data_folder() / "prompts" / "sapling.txt").read_text(encoding="utf-8").splitlines()
    rng = np.random.default_rng(seed)
    order = np.concatenate([rng.permutation(len(lines)) for _ in range(-(-count // len(lines)))])
    prompts = tuple(lines[i] for i in order[:count])
    keys = tuple(
        RingKey(hashlib.sha256(f"{seed} {i}".encode()).digest(), Pattern(kind)) if i % 2 or all_marked else None
        for i in range(count)
    )
    noise = torch.cat([initial_noise(model, key, seed + i) for i, key in enumerate(keys)])
    z, x = torch.empty_like(noise), torch.empty(count, 3, *model.image_size)
    guidance = torch.tensor([GUIDANCE[i // 2 % 3] for i in range(count)])
    for scale in track(GUIDANCE, "generating", console=Console(stderr=True)):
        rows = (guidance == scale).nonzero()[:, 0]
        for part in rows.split(BATCH) if len(rows) else ():
            own = [prompts[i] for i in part]
            z[part] = sample(model, noise[part], prompt=own, guidance=scale, steps=steps)
            x[part] = round_to_8_bits(decode(z[part]))
    return Pictures(z, x, guidance, torch.tensor([k is not None for k in keys]), noise, prompts, keys)


def off_range(autoencoder: Autoencoder, x: Tensor, shift: float) -> tuple[Tensor, Tensor]:
    """(z, x') with z = E(x) plus white noise of standard deviation ``shift``, and x' its picture in 8 bits."""
    z = autoencoder.encode(x)
    z = z + shift * torch.randn(z.shape, generator=torch.Generator().manual_seed(0))
    return z, round_to_8_bits(autoencoder.decode(z))


def video(autoencoder: Autoencoder, frames: int, side: int = 128) -> tuple[Tensor, Tensor]:
    """(z, x) of two videos (2, ·, F, ·, ·): crops that move over photographs, off the encoder's range by 0.1."""
    clips = []
    for picture in load_sample_images().images:
        small = Image.fromarray(picture).resize((320, 213), Image.Resampling.LANCZOS)
        a = torch.from_numpy(np.array(small)).permute(2, 0, 1).float() / 127.5 - 1
        path = [(k * (a.shape[1] - side) // frames, k * (a.shape[2] - side) // frames) for k in range(frames)]
        clips.append(torch.stack([a[:, top : top + side, left : left + side] for top, left in path]))
    parts = [off_range(autoencoder, clip[i : i + BATCH], 0.1) for clip in clips for i in range(0, frames, BATCH)]
    z, x = (torch.cat(p).unflatten(0, (2, frames)).transpose(1, 2).contiguous() for p in zip(*parts, strict=True))
    return z, x

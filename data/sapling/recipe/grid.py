"""A grid of samples with fixed prompts and seeds, to see what a diffusion network has learned."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from PIL import Image, ImageDraw
from rich.console import Console
from rich.progress import track
from torch import Tensor

from inversion import LatentDiffusionModel, sample

PROMPTS = tuple((Path(__file__).parent / "grid.txt").read_text(encoding="utf-8").splitlines())
SEED, GUIDANCE, STEPS, BATCH = 1000, 3.0, 50, 8
ACROSS, LETTERS = 8, 12


def samples(model: LatentDiffusionModel, prompts: tuple[str, ...], *, steps: int = STEPS, first: int = 0) -> Tensor:
    """Latents (n, C, h, w) of prompts; the i-th is made of the noise of seed SEED + first + i."""
    parts = []
    for at in track(range(0, len(prompts), BATCH), "samples", console=Console(stderr=True)):
        own = prompts[at : at + BATCH]
        generators = [torch.Generator().manual_seed(SEED + first + at + i) for i in range(len(own))]
        noise = torch.stack([torch.randn(model.latent_shape, generator=g) for g in generators])
        parts.append(sample(model, noise, prompt=list(own), guidance=GUIDANCE, steps=steps))
    return torch.cat(parts)


def labelled(x: Tensor, prompts: tuple[str, ...]) -> Image.Image:
    """Pictures (n, 3, H, W) in [-1, 1] side by side, with the start of their prompts below."""
    n, _, height, width = x.shape
    down = -(-n // ACROSS)
    grid = Image.new("RGB", (ACROSS * width, down * (height + LETTERS)), "white")
    pen = ImageDraw.Draw(grid)
    pixels = ((x + 1) * 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).contiguous().numpy()
    for i, (picture, prompt) in enumerate(zip(pixels, prompts, strict=True)):
        left, top = i % ACROSS * width, i // ACROSS * (height + LETTERS)
        grid.paste(Image.fromarray(picture), (left, top))
        pen.text((left + 2, top + height), prompt.split(" on ")[0], fill="black", font_size=10)
    return grid


def draw_grid(pipe: StableDiffusionPipeline, file: Path, *, bf16: bool = True, steps: int = STEPS) -> None:
    """Draw the grid of a pipeline, which stays as it is: wrapping it would change its networks' memory format."""
    networks = StableDiffusionPipeline(
        **{name: copy.deepcopy(part) if isinstance(part, torch.nn.Module) else part for name, part in parts(pipe)},
        requires_safety_checker=False,
    )
    autoencoder = LatentDiffusionModel.from_pipeline(copy.deepcopy(networks)).autoencoder
    model = LatentDiffusionModel.from_pipeline(networks.to(torch.bfloat16 if bf16 else torch.float32))
    x = torch.cat([autoencoder.decode(z) for z in samples(model, PROMPTS, steps=steps).split(BATCH)])
    file.parent.mkdir(parents=True, exist_ok=True)
    labelled(x, PROMPTS).save(file)


def parts(pipe: StableDiffusionPipeline) -> list[tuple[str, object]]:
    """What a pipeline is made of; absent parts are None."""
    names = ("vae", "text_encoder", "tokenizer", "unet", "scheduler", "safety_checker", "feature_extractor")
    return [(name, getattr(pipe, name)) for name in names]

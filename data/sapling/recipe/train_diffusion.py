"""Train Sapling's diffusion network and its text encoder, from the shipped weights or from scratch.

\b
    python -m data.sapling.recipe.train_diffusion --minutes 240
    python -m data.sapling.recipe.train_diffusion --minutes 480 --resume
    python -m data.sapling.recipe.train_diffusion --start scratch --minutes 600

The latents are those of the run's own autoencoder if it has trained one, else of the one it starts from. The loss
is the square error of v, with less weight on small noise, where there is little to learn; times are stratified
within a batch. A part of the captions is empty, for guidance. Every half hour a grid of samples with fixed prompts
and seeds is drawn into ``samples/``, and the loss on held-out latents by time goes to the log.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from numpy.typing import NDArray
from torch import Tensor

from data.sapling.recipe import dataset
from data.sapling.recipe.grid import STEPS, draw_grid
from data.sapling.recipe.latents import encoded, encoder_digest
from data.sapling.recipe.networks import AUTOENCODER, DIFFUSION, SAPLING, SCRATCH, TOKENS, start_pipeline
from data.sapling.recipe.prepare import FOLDER
from data.sapling.recipe.training import MINUTES, RATE, Budget, Draw, Training, read

EMPTY = 0.1
"""Share of captions that are left out."""

LARGEST_SNR = 5.0
"""Signal-to-noise ratios above it get less weight, as with min-SNR weights (Hang et al. 2023,
https://arxiv.org/abs/2303.09556). Those below keep the weight of v-prediction, which cares for structure."""

TIMES = (20, 60, 120, 200, 300, 400, 500, 600, 700, 800, 900, 980)
"""Of 1000, at which the loss on held-out latents is reported."""


def token_ids(pipe: StableDiffusionPipeline, captions: list[str]) -> Tensor:
    """(N, 16) numbers of the captions' tokens."""
    length = min(TOKENS, pipe.tokenizer.model_max_length)
    told = pipe.tokenizer(captions, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    ids: Tensor = told.input_ids
    return ids


def noised(pipe: StableDiffusionPipeline, z: Tensor, e: Tensor, times: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Noisy latents (B, C, h, w), v = α ε − σ z like them, and signal-to-noise ratios (B,), at times (B,)."""
    share = pipe.scheduler.alphas_cumprod[times]
    alpha, sigma = share.sqrt()[:, None, None, None], (1 - share).sqrt()[:, None, None, None]
    return alpha * z + sigma * e, alpha * e - sigma * z, share / (1 - share)


def v_errors(
    pipe: StableDiffusionPipeline, z: Tensor, e: Tensor, times: Tensor, ids: Tensor
) -> tuple[Tensor, Tensor]:
    """Mean square errors of v (B,), and signal-to-noise ratios (B,)."""
    noisy, v, snr = noised(pipe, z, e, times)
    embedded = pipe.text_encoder(ids)[0]
    predicted = pipe.unet(noisy, times, encoder_hidden_states=embedded).sample
    return (predicted.float() - v).square().mean((1, 2, 3)), snr


def loss_by_time(
    pipe: StableDiffusionPipeline, z: Tensor, ids: Tensor, *, seed: int = 0, batch: int = 64
) -> dict[int, float]:
    """Time → mean square error of v for latents (n, C, h, w) that the model sees, with their captions.

    The noise is the same at all times and for all networks.
    """
    e = torch.randn(z.shape, generator=torch.Generator().manual_seed(seed))
    found = {}
    for time in TIMES:
        parts = [
            v_errors(pipe, *part[:2], torch.full((len(part[0]),), time), part[2])[0]
            for part in zip(z.split(batch), e.split(batch), ids.split(batch), strict=True)
        ]
        found[time] = float(torch.cat(parts).mean())
    return found


def batch_of(
    latents: NDArray[np.float16], draw: Draw, batch: int
) -> tuple[Tensor, NDArray[np.int64], Tensor, Tensor]:
    """Latents (B, C, h, w) unscaled, rows (B,), times (B,) spread evenly, and which captions to empty (B,)."""
    rng = draw.numbers()
    rows = rng.integers(0, len(latents), batch)
    z = torch.from_numpy(latents[rows, rng.integers(0, 2, batch)].astype(np.float32))
    times = torch.from_numpy((1000 * ((rng.random() + np.arange(batch) / batch) % 1)).astype(np.int64))
    return z, rows, times, torch.from_numpy(rng.random(batch) < EMPTY)


def train(
    folder: Path,
    budget: Budget,
    *,
    start: str = SAPLING,
    resume: bool = False,
    batch: int = 64,
    rate: float = 2e-3,
    seed: int = 0,
    bf16: bool = True,
    every: int = 50,
    look_minutes: float = 30.0,
    sample_steps: int = STEPS,
) -> Training:
    """Train with the latents of ``folder/data``; the checkpoint is ``folder/diffusion.pt``."""
    pipe = start_pipeline(folder, start)
    rescale = start == SCRATCH
    if (folder / AUTOENCODER).exists():
        trained = read(folder / AUTOENCODER)
        pipe.vae.load_state_dict(trained["averaged"]["vae"])
        rescale |= not trained["settings"]["decoder_only"]
    networks = {name: getattr(pipe, name).train().requires_grad_(True) for name in ("unet", "text_encoder")}
    settings = {
        "start": start,
        "batch": batch,
        "seed": seed,
        "encoder": encoder_digest(pipe.vae),
        "pictures": dataset.digest(folder / "data"),
    }
    training = Training(folder / DIFFUSION, networks, rate=rate, decay=0.9995, settings=settings, resume=resume)

    latents, apart, scale = encoded(folder, pipe.vae, rescale=rescale, bf16=bf16)
    pipe.vae.register_to_config(scaling_factor=scale)
    ids = token_ids(pipe, dataset.load(folder / "data", dataset.TRAIN).captions)
    empty = token_ids(pipe, [""])
    held_out = scale * torch.from_numpy(apart[:128, 0].astype(np.float32))
    held_out_ids = token_ids(pipe, dataset.load(folder / "data", dataset.HELD_OUT).captions[:128])

    def losses_of(step: int) -> dict[str, Tensor]:
        draw = Draw(seed, step)
        z, rows, times, silent = batch_of(latents, draw, batch)
        told = torch.where(silent[:, None], empty, ids[torch.from_numpy(rows)])
        e = torch.randn(z.shape, generator=draw.noise())
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            errors, snr = v_errors(pipe, scale * z, e, times, told)
        return {"v": (errors * torch.clamp((LARGEST_SNR + 1) / (snr + 1), max=1)).mean()}

    def look() -> dict[str, Any]:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            by_time = loss_by_time(pipe, held_out, held_out_ids)
        draw_grid(pipe, folder / "samples" / f"step-{training.step:06}.png", bf16=bf16, steps=sample_steps)
        return {"held out": {time: round(value, 5) for time, value in by_time.items()}}

    training.run(losses_of, budget, batch=batch, every=every, look=look, look_minutes=look_minutes)
    return training


@click.command(context_settings={"help_option_names": ["-h", "--help"]}, help=__doc__)
@click.option("--folder", type=click.Path(file_okay=False, path_type=Path), default=FOLDER, show_default=True)
@click.option("--start", default=SAPLING, show_default=True, help="sapling, scratch, or a diffusers folder.")
@click.option("--minutes", type=MINUTES, default=240.0, show_default=True, help="Of training, with earlier runs.")
@click.option("--steps", type=click.IntRange(1), help="Instead of minutes, for a run that can be repeated exactly.")
@click.option("--resume", is_flag=True, help="Go on with the checkpoint, if there is one.")
@click.option("--batch", type=click.IntRange(1), default=64, show_default=True)
@click.option("--rate", type=RATE, default=2e-3, show_default=True, help="Largest learning rate.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--look-minutes", type=MINUTES, default=30.0, show_default=True, help="Between grids of samples.")
def main(
    folder: Path,
    start: str,
    minutes: float,
    steps: int | None,
    resume: bool,
    batch: int,
    rate: float,
    seed: int,
    look_minutes: float,
) -> None:
    """Train."""
    torch.set_flush_denormal(True)
    train(
        folder,
        Budget(minutes, steps),
        start=start,
        resume=resume,
        batch=batch,
        rate=rate,
        seed=seed,
        look_minutes=look_minutes,
    )


if __name__ == "__main__":
    main()

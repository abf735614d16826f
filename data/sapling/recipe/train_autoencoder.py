"""Train Sapling's autoencoder, or its decoder alone.

\b
    python -m data.sapling.recipe.train_autoencoder --minutes 45
    python -m data.sapling.recipe.train_autoencoder --minutes 90 --resume
    python -m data.sapling.recipe.train_autoencoder --decoder-only --minutes 45
    python -m data.sapling.recipe.train_autoencoder --start scratch --minutes 240

With --decoder-only the encoder is frozen: the latent space stays what it is, and the diffusion network valid. An
encoder is not trained further once a diffusion network was trained on its latents. Crops
are for a start from scratch: group normalisation sees other statistics in them than in whole pictures.

The loss has three terms beside the KL divergence of the posterior: the difference between a picture and its
reconstruction (absolute and square), that of their gradients, and that between z and E(D(z)), with D's pictures
clamped as files are, for latents of pictures and for some that are moved off the encoder's range. E∘D close to the
identity is what decoder inversion relies on. No loss needs a network from elsewhere.
"""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from benchmarks.latents import nmse
from data.sapling.recipe import dataset
from data.sapling.recipe.networks import AUTOENCODER, DIFFUSION, SAPLING, SCRATCH, start_pipeline
from data.sapling.recipe.prepare import FOLDER
from data.sapling.recipe.training import MINUTES, RATE, Budget, Draw, Training

SQUARE, GRADIENT, IDENTITY, KL = 5.0, 0.5, 0.5, 1e-3
"""Weights; the absolute error has 1."""

MOVED, SHIFT = 0.25, 0.3
"""For so many of the latents, as a share, one that is moved by up to so many standard deviations of white noise."""


def crops(pictures: dataset.Pictures, draw: Draw, batch: int, side: int) -> Tensor:
    """Random crops (batch, 3, side, side) of random pictures, half of them mirrored."""
    rng = draw.numbers()
    rows = np.sort(rng.integers(0, len(pictures), batch))
    free = pictures.pixels.shape[1] - side + 1
    places = rng.integers(0, free, (batch, 2))
    cut = [
        pictures.pixels[row, top : top + side, left : left + side]
        for row, (top, left) in zip(rows, places, strict=True)
    ]
    x = dataset.as_tensor(np.stack(cut))
    return torch.where(torch.from_numpy(rng.random(batch) < 0.5)[:, None, None, None], x.flip(-1), x)


def losses(vae: AutoencoderKL, x: Tensor, noise: torch.Generator, *, frozen: bool) -> dict[str, Tensor]:
    """The weighted terms for pictures x (B, 3, S, S) in [-1, 1]; ``frozen`` says that the encoder is."""
    with torch.set_grad_enabled(not frozen):
        posterior = vae.encode(x).latent_dist
    z = posterior.mode() if frozen else posterior.sample(noise)
    scale = z.detach().float().std()
    few = z[: max(1, round(MOVED * len(z)))].detach()
    by = SHIFT * scale * torch.rand(len(few), 1, 1, 1, generator=noise)
    both = torch.cat([z, few + by * torch.randn(few.shape, generator=noise)])
    y = vae.decode(both).sample.float()
    back = vae.encode(y.clamp(-1, 1)).latent_dist.mode()
    error = y[: len(x)] - x
    gradients = sum(error.diff(dim=axis).abs().mean() for axis in (-1, -2))
    terms = {
        "absolute": error.abs().mean(),
        "square": SQUARE * error.square().mean(),
        "gradient": GRADIENT * gradients,
        "identity": IDENTITY * (back - both.detach()).float().square().mean() / scale**2,
    }
    return terms if frozen else terms | {"kl": KL * posterior.kl().mean() / z[0].numel()}


@torch.no_grad()
def held_out(vae: AutoencoderKL, pictures: dataset.Pictures, count: int = 64) -> dict[str, float]:
    """PSNR of D(E(x)), of the mean square error of the first held-out pictures, and NMSE of E(D(z)) to z, in dB."""
    errors, inverse = [], []
    for x in dataset.as_tensor(pictures.pixels[:count]).split(8):
        z = vae.encode(x).latent_dist.mode()
        y = vae.decode(z).sample.clamp(-1, 1)
        errors.append((y - x).square().mean())
        inverse.append(nmse(vae.encode(y).latent_dist.mode(), z))
    return {
        "psnr": float(-10 * torch.log10(torch.stack(errors).mean() / 4)),
        "nmse": float(torch.cat(inverse).mean()),
    }


def train(
    folder: Path,
    budget: Budget,
    *,
    start: str = SAPLING,
    decoder_only: bool = False,
    resume: bool = False,
    batch: int | None = None,
    side: int | None = None,
    rate: float = 2e-3,
    seed: int = 0,
    bf16: bool = True,
    every: int = 50,
) -> Training:
    """Train with the pictures of ``folder/data``; the checkpoint is ``folder/autoencoder.pt``.

    By default on 32 crops of 64 × 64 pixels from scratch, else on 8 of 128 × 128.

    Raises:
        click.ClickException: see :class:`Training`; and if the encoder is to be trained although a diffusion
            network was trained on its latents.
    """
    pictures = dataset.load(folder / "data", dataset.TRAIN)
    others = dataset.load(folder / "data", dataset.HELD_OUT)
    batch = batch or (32 if start == SCRATCH else 8)
    side = min(side or (64 if start == SCRATCH else 128), pictures.pixels.shape[1])
    vae = start_pipeline(folder, start).vae.train().requires_grad_(True)
    if decoder_only:
        for part in (vae.encoder, vae.quant_conv):
            if part is not None:
                part.requires_grad_(False)
    settings = {"start": start, "decoder_only": decoder_only, "batch": batch, "side": side, "seed": seed}
    settings["pictures"] = dataset.digest(folder / "data")
    training = Training(
        folder / AUTOENCODER, {"vae": vae}, rate=rate, decay=0.999, settings=settings, resume=resume
    )
    left = budget.share(training.step, training.seconds) < 1
    if left and not decoder_only and (folder / DIFFUSION).exists():
        raise click.ClickException(
            f"{folder / DIFFUSION} was trained on what the encoder makes now, and would be worthless after more "
            "training of it: remove it first, or train in another --folder"
        )

    def losses_of(step: int) -> dict[str, Tensor]:
        draw = Draw(seed, step)
        x = crops(pictures, draw, batch, side)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            return losses(vae, x, draw.noise(), frozen=decoder_only)

    training.run(
        losses_of,
        budget,
        batch=batch,
        every=every,
        look=lambda: held_out(vae, others),
        look_minutes=10,
    )
    return training


@click.command(context_settings={"help_option_names": ["-h", "--help"]}, help=__doc__)
@click.option("--folder", type=click.Path(file_okay=False, path_type=Path), default=FOLDER, show_default=True)
@click.option("--start", default=SAPLING, show_default=True, help="sapling, scratch, or a diffusers folder.")
@click.option("--decoder-only", is_flag=True, help="Freeze the encoder.")
@click.option("--minutes", type=MINUTES, default=45.0, show_default=True, help="Of training, with earlier runs.")
@click.option("--steps", type=click.IntRange(1), help="Instead of minutes, for a run that can be repeated exactly.")
@click.option("--resume", is_flag=True, help="Go on with the checkpoint, if there is one.")
@click.option("--batch", type=click.IntRange(1), help="Crops.  [default: 32 from scratch, else 8]")
@click.option("--side", type=click.IntRange(16), help="Of crops, in pixels.  [default: 64 from scratch, else 128]")
@click.option("--rate", type=RATE, default=2e-3, show_default=True, help="Largest learning rate.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
def main(
    folder: Path,
    start: str,
    decoder_only: bool,
    minutes: float,
    steps: int | None,
    resume: bool,
    batch: int | None,
    side: int | None,
    rate: float,
    seed: int,
) -> None:
    """Train."""
    torch.set_flush_denormal(True)
    train(
        folder,
        Budget(minutes, steps),
        start=start,
        decoder_only=decoder_only,
        resume=resume,
        batch=batch,
        side=side,
        rate=rate,
        seed=seed,
    )


if __name__ == "__main__":
    main()

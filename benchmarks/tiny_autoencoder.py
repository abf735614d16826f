"""A second, harder autoencoder for the benchmarks: a small AutoencoderTiny with 16 latent channels.

    python -m benchmarks.tiny_autoencoder        trains it in five minutes on two cores

It is trained on pictures of Sapling and crops of scikit-learn's two photographs, to reconstruct them and for
nothing else, so that E∘D is far from the identity off the encoder's own latents. Its weights lie in
``benchmarks/tiny_autoencoder/``; how long it was trained depends on the machine.
"""

from __future__ import annotations

import time
from pathlib import Path

import click
import torch
from diffusers import AutoencoderTiny
from torch import Tensor

from inversion import Autoencoder, LatentDiffusionModel
from inversion.autoencoder import from_diffusers
from inversion.embedded import data_folder
from watermark.demo import photographs
from watermark.generate import generate
from watermark.reading.fitting import as_tensor, fit
from watermark.reading.images import from_image

FOLDER = Path(__file__).resolve().parent / "tiny_autoencoder"


def load(dtype: torch.dtype = torch.float32) -> Autoencoder:
    """The trained autoencoder."""
    return from_diffusers(AutoencoderTiny.from_pretrained(FOLDER, dtype=torch.float32).to(dtype))


def pictures(count: int, seed: int) -> Tensor:
    """(2 · count, 3, 128, 128): pictures of Sapling, and as many crops of photographs."""
    model = LatentDiffusionModel.load("sapling", dtype="bf16")
    prompts = (data_folder() / "prompts" / "sapling.txt").read_text(encoding="utf-8").splitlines()
    chosen = [prompts[i % len(prompts)] for i in range(count)]
    made = [g.image for g in generate(model, chosen, key=None, seed=seed, steps=10)]
    images = made + photographs(count, model.image_size)
    return as_tensor([fit(from_image(image), model.image_size)[0] for image in images])


def train(x: Tensor, minutes: float, report: float = 30.0) -> AutoencoderTiny:
    """AdamW on L1 and the L1 of gradients, 16 random 64 × 64 crops a step, bfloat16 autocast."""
    torch.manual_seed(0)
    vae = AutoencoderTiny(
        encoder_block_out_channels=(32, 32, 32),
        decoder_block_out_channels=(32, 32, 32),
        num_encoder_blocks=(1, 1, 2),
        num_decoder_blocks=(2, 1, 1),
        latent_channels=16,
        upsampling_scaling_factor=2,
    )
    optimizer = torch.optim.AdamW(vae.parameters(), 1e-3)
    generator = torch.Generator().manual_seed(0)
    start = said = time.monotonic()
    steps = 0
    while (elapsed := time.monotonic() - start) < 60 * minutes:
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * max(0.02, 1 - elapsed / (60 * minutes))
        rows = torch.randint(0, len(x), (16,), generator=generator)
        top, left = torch.randint(0, 65, (2,), generator=generator).tolist()
        batch = x[rows, :, top : top + 64, left : left + 64]
        with torch.autocast("cpu", torch.bfloat16):
            y = vae.decode(vae.encode(batch).latents).sample
        error = y.float() - batch
        loss = error.abs().mean() + 0.5 * (error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        steps += 1
        if time.monotonic() - said > report:
            said = time.monotonic()
            click.echo(f"{steps} steps, {elapsed:.0f} s, loss {float(loss):.4f}")
    return vae.eval()


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--minutes", type=float, default=5.0, show_default=True)
@click.option("-o", "--output", type=click.Path(file_okay=False, path_type=Path), default=FOLDER)
def main(minutes: float, output: Path) -> None:
    """Train the autoencoder and write it in diffusers layout, with a scaling factor that makes its latents unit."""
    x = pictures(64, seed=5 * 10**6)
    vae = train(x, minutes)
    with torch.no_grad():
        z = vae.encode(x).latents
        error = vae.decode(z).sample.clamp(-1, 1) - x
    vae.register_to_config(scaling_factor=float(1 / z.std()), shift_factor=float(z.mean()))
    vae.half().save_pretrained(output)
    psnr = 10 * torch.log10(4 / error.square().mean())
    click.echo(f"reconstructs its training pictures at {float(psnr):.1f} dB; wrote {output}")


if __name__ == "__main__":
    main()

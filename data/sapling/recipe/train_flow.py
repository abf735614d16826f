"""Turn Sapling into a flow-matching model of few steps, by reflow from its own pictures. Needs no other data.

    python -m data.sapling.recipe.train_flow out --pairs 8192 --minutes 120
    python -m data.sapling.recipe.train_flow out --minutes 60            goes on where it stopped

Rectified flow, Liu et al. 2022 (https://arxiv.org/abs/2209.03003), as InstaFlow used it: pairs of noise ε and the
latent z_0 that Sapling makes of it under a prompt; then the UNet, starting from Sapling's, learns

    v((1 − σ) z_0 + σ ε, 1000 σ, prompt) = ε − z_0,

which straightens the paths, so that few Euler steps, or one, follow them. ``out`` becomes a diffusers folder that
``LatentDiffusionModel.load`` and ``StableDiffusionPipeline`` take, with a first-order flow scheduler. Pairs take
about half a second each on two cores.
"""

from __future__ import annotations

import time
from pathlib import Path

import click
import torch
from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline
from diffusers.training_utils import EMAModel
from rich.console import Console
from rich.progress import track
from torch import Tensor

from inversion import LatentDiffusionModel, sample
from inversion.embedded import data_folder, sapling_folder

GUIDANCE, BATCH, RATE, EMPTY = 3.0, 64, 2e-4, 0.1


def prompts_for(count: int) -> list[str]:
    """The prompts that Sapling knows, over and over."""
    lines = (data_folder() / "prompts" / "sapling.txt").read_text(encoding="utf-8").splitlines()
    return [lines[i % len(lines)] for i in range(count)]


def make_pairs(folder: Path, count: int) -> tuple[Tensor, Tensor]:
    """Noise and latents (N, 4, 32, 32), N ≥ count; those already in the folder are kept."""
    path = folder / "pairs.pt"
    pairs = (
        torch.load(path) if path.exists() else {"noise": torch.empty(0, 4, 32, 32), "z": torch.empty(0, 4, 32, 32)}
    )
    done = len(pairs["z"])
    model = LatentDiffusionModel.load("sapling", dtype="bf16")
    prompts = prompts_for(count)
    for start in track(range(done, count, 16), "pairs", console=Console(stderr=True)):
        part = range(start, min(start + 16, count))
        noise = torch.stack(
            [torch.randn(4, 32, 32, generator=torch.Generator().manual_seed(10**9 + i)) for i in part]
        )
        z = sample(model, noise, prompt=[prompts[i] for i in part], guidance=GUIDANCE, steps=25)
        pairs = {"noise": torch.cat([pairs["noise"], noise]), "z": torch.cat([pairs["z"], z])}
        if start // 16 % 20 == 19 or part.stop == count:
            torch.save(pairs, path)
    return pairs["noise"], pairs["z"]


def train(pipe: StableDiffusionPipeline, noise: Tensor, z_0: Tensor, folder: Path, minutes: float) -> EMAModel:
    """Train for some minutes; the state, with the optimiser and the average, goes to ``training.pt``."""
    unet = pipe.unet.train().requires_grad_(True)
    average = EMAModel(unet.parameters(), decay=0.999)
    optimiser = torch.optim.AdamW(unet.parameters(), lr=RATE)
    state = folder / "training.pt"
    step = 0
    if state.exists():
        saved = torch.load(state, weights_only=True)
        unet.load_state_dict(saved["unet"])
        average.load_state_dict(saved["average"])
        optimiser.load_state_dict(saved["optimiser"])
        step = saved["step"]
    g = torch.Generator().manual_seed(step)
    with torch.no_grad():
        vocabulary = sorted(set(prompts_for(len(z_0))) | {""})
        embeddings = pipe.encode_prompt(vocabulary, "cpu", 1, do_classifier_free_guidance=False)[0]
    number = {prompt: i for i, prompt in enumerate(vocabulary)}
    own = torch.tensor([number[p] for p in prompts_for(len(z_0))])
    end, losses = time.monotonic() + 60 * minutes, []
    while time.monotonic() < end:
        rows = torch.randint(len(z_0), (BATCH,), generator=g)
        sigma = torch.rand(BATCH, generator=g)[:, None, None, None]
        told = torch.where(torch.rand(BATCH, generator=g) < EMPTY, number[""], own[rows])
        z = (1 - sigma) * z_0[rows] + sigma * noise[rows]
        with torch.autocast("cpu", torch.bfloat16):
            v = unet(z, 1000 * sigma.flatten(), encoder_hidden_states=embeddings[told]).sample
        loss = (v.float() - (noise[rows] - z_0[rows])).square().mean()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimiser.step()
        average.step(unet.parameters())
        losses.append(loss.item())
        step += 1
        if step % 50 == 0:
            click.echo(f"step {step}: loss {sum(losses[-50:]) / len(losses[-50:]):.4f}", err=True)
    torch.save(
        {
            "unet": unet.state_dict(),
            "average": average.state_dict(),
            "optimiser": optimiser.state_dict(),
            "step": step,
        },
        state,
    )
    click.echo(f"{step} steps in all, last loss {losses[-1]:.4f}" if losses else f"{step} steps in all", err=True)
    return average


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option("--pairs", type=click.IntRange(1), default=8192, show_default=True, help="Pairs of noise and latent.")
@click.option("--minutes", type=float, default=120.0, show_default=True, help="Of training, after the pairs.")
def main(folder: Path, pairs: int, minutes: float) -> None:
    """Make pairs, train, and write the model into FOLDER."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    noise, z_0 = make_pairs(folder, pairs)
    pipe = StableDiffusionPipeline.from_pretrained(sapling_folder(), dtype=torch.float32)
    average = train(pipe, noise, z_0, folder, minutes)
    average.copy_to(pipe.unet.parameters())
    pipe.scheduler = DPMSolverMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=1.0, solver_order=1, steps_offset=1
    )
    pipe.to(torch.float16).save_pretrained(folder)
    click.echo(f"wrote {folder}")


if __name__ == "__main__":
    main()

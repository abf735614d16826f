"""Turn Sapling into a flow-matching model of few steps, by reflow from its own pictures. Needs no other data.

    python -m data.sapling.recipe.train_flow out --pairs 8192 --minutes 120
    python -m data.sapling.recipe.train_flow out --minutes 180           trains on for an hour

Rectified flow, Liu et al. 2022 (https://arxiv.org/abs/2209.03003), as InstaFlow used it: pairs of noise ε and the
latent z_0 that Sapling makes of it under a prompt; then the UNet, starting from Sapling's, learns

    v((1 − σ) z_0 + σ ε, 1000 σ, prompt) = ε − z_0,

which straightens the paths, so that few Euler steps, or one, follow them. ``out`` becomes a diffusers folder that
``LatentDiffusionModel.load`` and ``StableDiffusionPipeline`` take, with a first-order flow scheduler. Pairs take
about half a second each on two cores. The same command goes on where it was stopped or killed.
"""

from __future__ import annotations

import pickle
from pathlib import Path

import click
import torch
from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline
from rich.console import Console
from rich.progress import track
from torch import Tensor

from benchmarks.kept import made_of, weights
from data.sapling.recipe.export import tidy
from data.sapling.recipe.optimiser import require_muon
from data.sapling.recipe.training import MINUTES, Budget, Draw, Training
from inversion import LatentDiffusionModel, sample
from inversion.embedded import data_folder, sapling_folder

GUIDANCE, STEPS, BATCH, RATE, EMPTY, SEED = 3.0, 25, 64, 2e-4, 0.1, 0
CHECKPOINT = "flow.pt"


def prompts_for(count: int) -> list[str]:
    """The prompts that Sapling knows, over and over."""
    lines = (data_folder() / "prompts" / "sapling.txt").read_text(encoding="utf-8").splitlines()
    return [lines[i % len(lines)] for i in range(count)]


def make_pairs(folder: Path, count: int) -> tuple[Tensor, Tensor]:
    """Noise and latents (N, 4, 32, 32), N ≥ count; those already in the folder are kept.

    Raises:
        click.ClickException: if those in the folder cannot be read, or are of other weights.
    """
    path = folder / "pairs.pt"
    pairs = {"noise": torch.empty(0, 4, 32, 32), "z": torch.empty(0, 4, 32, 32)}
    if path.exists():
        try:
            saved = torch.load(path, weights_only=True)
        except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
            raise click.ClickException(f"{path} cannot be read ({error}): remove it") from error
        if saved.pop("weights", None) != weights("sapling"):
            raise click.ClickException(f"{path} was made with other weights: remove it")
        pairs = saved
    done = len(pairs["z"])
    model = LatentDiffusionModel.load("sapling", dtype="bf16")
    prompts = prompts_for(count)
    for start in track(range(done, count, 16), "pairs", console=Console(stderr=True)):
        part = range(start, min(start + 16, count))
        noise = torch.stack(
            [torch.randn(4, 32, 32, generator=torch.Generator().manual_seed(10**9 + i)) for i in part]
        )
        z = sample(model, noise, prompt=[prompts[i] for i in part], guidance=GUIDANCE, steps=STEPS)
        pairs = {"noise": torch.cat([pairs["noise"], noise]), "z": torch.cat([pairs["z"], z])}
        if start // 16 % 20 == 19 or part.stop == count:
            part_file = path.with_suffix(".part")
            torch.save(pairs | {"weights": weights("sapling")}, part_file)
            part_file.replace(path)
    return pairs["noise"], pairs["z"]


def train(pipe: StableDiffusionPipeline, noise: Tensor, z_0: Tensor, folder: Path, budget: Budget) -> Training:
    """Train the UNet of a pipeline; the checkpoint is ``folder/flow.pt``."""
    with torch.no_grad():
        vocabulary = sorted(set(prompts_for(len(z_0))) | {""})
        embeddings = pipe.encode_prompt(vocabulary, "cpu", 1, do_classifier_free_guidance=False)[0]
    number = {prompt: i for i, prompt in enumerate(vocabulary)}
    own = torch.tensor([number[p] for p in prompts_for(len(z_0))])
    unet = pipe.unet.train().requires_grad_(True)
    training = Training(
        folder / CHECKPOINT, {"unet": unet}, rate=RATE, decay=0.999, settings=made_of("sapling"), resume=True
    )

    def losses_of(step: int) -> dict[str, Tensor]:
        g = Draw(SEED, step).noise()
        rows = torch.randint(len(z_0), (BATCH,), generator=g)
        sigma = torch.rand(BATCH, generator=g)[:, None, None, None]
        told = torch.where(torch.rand(BATCH, generator=g) < EMPTY, number[""], own[rows])
        z = (1 - sigma) * z_0[rows] + sigma * noise[rows]
        with torch.autocast("cpu", torch.bfloat16):
            v = unet(z, 1000 * sigma.flatten(), encoder_hidden_states=embeddings[told]).sample
        return {"v": (v.float() - (noise[rows] - z_0[rows])).square().mean()}

    training.run(losses_of, budget, batch=BATCH)
    return training


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option("--pairs", type=click.IntRange(1), default=8192, show_default=True, help="Pairs of noise and latent.")
@click.option("--minutes", type=MINUTES, default=120.0, show_default=True, help="Of training, with earlier runs.")
def main(folder: Path, pairs: int, minutes: float) -> None:
    """Make pairs, train, and write the model into FOLDER."""
    require_muon()
    folder.mkdir(parents=True, exist_ok=True)
    noise, z_0 = make_pairs(folder, pairs)
    pipe = StableDiffusionPipeline.from_pretrained(sapling_folder(), dtype=torch.float32)
    train(pipe, noise, z_0, folder, Budget(minutes)).average.copy_to(pipe.unet.parameters())
    pipe.scheduler = DPMSolverMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=1.0, solver_order=1, steps_offset=1
    )
    pipe.to(torch.float16).save_pretrained(folder)
    for part in ("", *pipe.components):
        for config in (folder / part).glob("*config.json" if part else "model_index.json"):
            tidy(config)
    click.echo(f"wrote {folder}")


if __name__ == "__main__":
    main()

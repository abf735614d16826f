"""Make Sapling: pictures, autoencoder, diffusion network, export and evaluation, one after the other.

\b
    python -m data.sapling.recipe --autoencoder-minutes 45 --diffusion-minutes 480
    python -m data.sapling.recipe --start scratch --autoencoder-minutes 240 --diffusion-minutes 900
    python -m data.sapling.recipe --minutes 1 --count 200 --quick       does all of it run?

The same command goes on where it was stopped or killed. With more minutes for the diffusion network it trains on;
an encoder is not trained further once there is a diffusion network for its latents.
"""

from __future__ import annotations

from pathlib import Path

import click
import torch

from data.sapling.recipe import evaluate, grid, train_autoencoder, train_diffusion
from data.sapling.recipe.export import export
from data.sapling.recipe.networks import DIFFUSION, SAPLING
from data.sapling.recipe.optimiser import require_muon
from data.sapling.recipe.prepare import COUNT, FOLDER, prepare
from data.sapling.recipe.training import MINUTES, Budget


@click.command(context_settings={"help_option_names": ["-h", "--help"]}, help=__doc__)
@click.option("--folder", type=click.Path(file_okay=False, path_type=Path), default=FOLDER, show_default=True)
@click.option("--from", "given", multiple=True, type=click.Path(exists=True, path_type=Path), help="See prepare.")
@click.option("--start", default=SAPLING, show_default=True, help="sapling, scratch, or a diffusers folder.")
@click.option("--count", type=click.IntRange(1), default=COUNT, show_default=True, help="Pictures.")
@click.option("--held-out", type=click.IntRange(1), default=512, show_default=True, help="Pictures to test with.")
@click.option("--autoencoder-minutes", type=MINUTES, default=45.0, show_default=True)
@click.option("--decoder-only", is_flag=True, help="Keep the encoder, and with it the latents.")
@click.option("--diffusion-minutes", type=MINUTES, default=480.0, show_default=True)
@click.option("--minutes", type=MINUTES, help="Instead of both.")
@click.option("--quick", is_flag=True, help="Evaluate few pictures with few steps.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
def main(
    folder: Path,
    given: tuple[Path, ...],
    start: str,
    count: int,
    held_out: int,
    autoencoder_minutes: float,
    decoder_only: bool,
    diffusion_minutes: float,
    minutes: float | None,
    quick: bool,
    seed: int,
) -> None:
    """Do everything."""
    torch.set_flush_denormal(True)
    require_muon()
    prepare(folder, given, count=count, held_out=held_out, size=128, seed=seed)
    if decoder_only or not (folder / DIFFUSION).exists():
        train_autoencoder.train(
            folder,
            Budget(minutes or autoencoder_minutes),
            start=start,
            decoder_only=decoder_only,
            resume=True,
            seed=seed,
        )
    else:
        click.echo("the autoencoder stays as it is: the diffusion network was trained on its latents", err=True)
    train_diffusion.train(
        folder,
        Budget(minutes or diffusion_minutes),
        start=start,
        resume=True,
        seed=seed,
        sample_steps=evaluate.QUICK.steps if quick else grid.STEPS,
    )
    model = export(folder)
    evaluate.evaluate(folder, model, model, evaluate.QUICK if quick else evaluate.Effort())
    click.echo(f"the model is in {model}")


if __name__ == "__main__":
    main()

"""Measure a Sapling: what a run exported, or any folder of that layout, on held-out pictures.

\b
    python -m data.sapling.recipe.evaluate                            half an hour on two cores
    python -m data.sapling.recipe.evaluate --model data/sapling -o build/shipped
    python -m data.sapling.recipe.evaluate --quick                    few pictures and steps, to see that it runs

Writes ``evaluation.json``, ``samples.png`` (a grid with fixed prompts and seeds) and ``nearest.png`` (samples, and
below each the training picture nearest to it) into --output, which is the model's folder unless told otherwise, and
then the figures into the model's card.
"""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import torch
from diffusers import StableDiffusionPipeline
from sklearn.datasets import load_sample_images
from torch import Tensor

from benchmarks.kept import MEASURED, weights
from benchmarks.latents import nmse, round_to_8_bits
from benchmarks.record import write
from data.sapling.recipe import dataset, neighbours
from data.sapling.recipe.card import update_figures
from data.sapling.recipe.grid import PROMPTS, labelled, samples
from data.sapling.recipe.networks import start_pipeline
from data.sapling.recipe.prepare import FOLDER
from data.sapling.recipe.spectrum import extremes
from data.sapling.recipe.train_diffusion import loss_by_time, token_ids
from inversion import Autoencoder, LatentDiffusionModel
from inversion.decoder import decoder_residual
from inversion.diagnostics import Path as SolverPath
from inversion.diagnostics import cocoercivity
from inversion.solvers import Stop, forward_step

RHO = 0.5
"""Step of the forward step method whose path cocoercivity is measured along."""


@dataclass(frozen=True)
class Effort:
    """How much is measured.

    Attributes:
        reconstructions: held-out pictures for the autoencoder.
        losses: held-out latents for the loss by time.
        generated: pictures to compare with held-out and training ones, beside the grid.
        steps: of their generation, and half as many of the forward step method.
        spectra: pictures of either kind for the spectrum of E∘D, with so many ``lanczos`` steps.
    """

    reconstructions: int = 512
    losses: int = 512
    generated: int = 256
    steps: int = 50
    spectra: int = 4
    lanczos: int = 40


QUICK = Effort(8, 8, 8, 4, 1, 4)


def photographs(side: int) -> Tensor:
    """Crops (n, 3, side, side) in [-1, 1] of scikit-learn's two photographs, side by side."""
    cut = []
    for picture in load_sample_images().images:
        x = dataset.as_tensor(picture[None])
        rows, columns = x.shape[2] // side, x.shape[3] // side
        tiles = x[:, :, : rows * side, : columns * side].unfold(2, side, side).unfold(3, side, side)
        cut.append(tiles.permute(0, 2, 3, 1, 4, 5).reshape(-1, 3, side, side))
    return torch.cat(cut)


def reconstruction(ae: Autoencoder, x: Tensor) -> dict[str, Any]:
    """How well the autoencoder keeps pictures (n, 3, H, W), and the encoder the latents of its own pictures.

    PSNR is of the mean square error of all in 8 bits, in dB; NMSE is that of E(D(z)) to z = E(x), mean, in dB.
    """
    errors, inverse = [], []
    for part in x.split(16):
        z = ae.encode(part)
        y = round_to_8_bits(ae.decode(z))
        errors.append((y - part).square().mean((1, 2, 3)))
        inverse.append(nmse(ae.encode(y), z))
    square = torch.cat(errors)
    return {
        "pictures": len(x),
        "psnr": float(-10 * torch.log10(square.mean() / 4)),
        "median psnr": float((-10 * torch.log10(square / 4)).median()),
        "nmse of E(D(z))": float(torch.cat(inverse).mean()),
    }


def spectrum(pipe: StableDiffusionPipeline, ae: Autoencoder, z: Tensor, effort: Effort) -> dict[str, Any]:
    """E∘D near latents z (n, C, h, w): extremes of its Jacobian, and cocoercivity on the way to z from E(D(z))."""
    vae, scale = copy.deepcopy(pipe.vae).requires_grad_(False), float(pipe.vae.config.scaling_factor)

    def f(z: Tensor) -> Tensor:
        mode: Tensor = vae.encode(vae.decode(z / scale).sample.clamp(-1, 1)).latent_dist.mode()
        return scale * mode

    found = {name: values.tolist() for name, values in extremes(f, z, effort.lanczos).items()}
    path = SolverPath()
    b, residual = decoder_residual(ae, round_to_8_bits(ae.decode(z)))
    forward_step(residual, b, Stop(effort.steps // 2), step_size=RHO, callback=path)
    along = cocoercivity(path, compare=len(path.z) // 2 - 1)
    return found | {"cocoercivity": along.beta.tolist()}


def measure(pipe: StableDiffusionPipeline, data: Path, effort: Effort, output: Path) -> dict[str, Any]:
    """Everything about a pipeline in float32, with the pictures in ``data``; pictures go into ``output``."""
    held_out, train = (dataset.load(data, name) for name in (dataset.HELD_OUT, dataset.TRAIN))
    model = LatentDiffusionModel.from_pipeline(copy.deepcopy(pipe))
    ae, side = model.autoencoder, model.image_size[0]
    x = dataset.as_tensor(held_out.pixels[: effort.reconstructions])
    photos = photographs(side)[: effort.reconstructions]
    result: dict[str, Any] = {
        "reconstruction": {"held out": reconstruction(ae, x), "photographs": reconstruction(ae, photos)}
    }
    click.echo(f"PSNR {result['reconstruction']['held out']['psnr']:.2f} dB", err=True)

    known = held_out.captions[: effort.losses]
    with torch.no_grad():
        z = torch.cat([ae.encode(part) for part in dataset.as_tensor(held_out.pixels[: effort.losses]).split(16)])
        result["loss by time"] = loss_by_time(pipe, z, token_ids(pipe, known))

    grid = samples(model, PROMPTS, steps=effort.steps)
    labelled(torch.cat([ae.decode(part) for part in grid.split(8)]), PROMPTS).save(output / "samples.png")
    told = tuple(held_out.captions[i % len(held_out)] for i in range(effort.generated))
    made = samples(model, told, steps=effort.steps, first=10_000)
    pictures = torch.cat([round_to_8_bits(ae.decode(part)) for part in made.split(8)])
    result["reconstruction"]["generated"] = reconstruction(ae, pictures)
    n = min(len(pictures), len(held_out))
    result["frechet"] = neighbours.frechet_distances(
        pictures[:n], dataset.as_tensor(held_out.pixels[:n]), dataset.as_tensor(train.pixels[:n])
    )
    own, others = (neighbours.closest(p, train) for p in (pictures, dataset.as_tensor(held_out.pixels[:n])))
    result["nearest"] = neighbours.compared(own[0], others[0])
    neighbours.draw(pictures, train, *own).save(output / "nearest.png")
    result["spectrum"] = {
        "held out": spectrum(pipe, ae, z[: effort.spectra], effort),
        "generated": spectrum(pipe, ae, made[: effort.spectra], effort),
    }
    return result


@click.command(context_settings={"help_option_names": ["-h", "--help"]}, help=__doc__)
@click.option("--folder", type=click.Path(file_okay=False, path_type=Path), default=FOLDER, show_default=True)
@click.option("--model", type=click.Path(exists=True, path_type=Path), help="[default: FOLDER/model]")
@click.option("-o", "--output", type=click.Path(file_okay=False, path_type=Path), help="[default: the model's]")
@click.option("--quick", is_flag=True, help="Few pictures and steps.")
def main(folder: Path, model: Path | None, output: Path | None, quick: bool) -> None:
    """Measure."""
    source = model or folder / "model"
    if not (source / "model_index.json").is_file():
        raise click.ClickException(f"{source} is no model: run export, with the same --folder")
    evaluate(folder, source, output or source, QUICK if quick else Effort())


def evaluate(folder: Path, source: Path, output: Path, effort: Effort) -> dict[str, Any]:
    """Measure a model and write what was found."""
    output.mkdir(parents=True, exist_ok=True)
    pipe = start_pipeline(folder, str(source.resolve()))
    for part in (pipe.vae, pipe.unet, pipe.text_encoder):
        part.eval().requires_grad_(False)
    result = measure(pipe, folder / "data", effort, output)
    files = (file for file in source.rglob("*.safetensors") if file.name not in MEASURED)
    size = sum(file.stat().st_size for file in files)
    about = {"effort": asdict(effort), "weights": weights(str(source.resolve())), "megabytes": round(size / 1e6, 1)}
    result = about | result
    click.echo(f"wrote {write('evaluation', result, output)}")
    if output == source:
        update_figures(source)
    return result


if __name__ == "__main__":
    main()

"""How well is the initial noise recovered, and what does it take? On Sapling, by method, steps and what is known.

    python -m benchmarks.diffusion_inversion             72 pictures, six hours on a core; resumes
    python -m benchmarks.diffusion_inversion --quick     6 pictures and few steps, two minutes

Marked pictures are made by 50 steps of DDIM at three guidance scales. Their noise is recovered from the true
latent, from the encoder's, and from decoder inversion's, with the prompt and guidance of the generation or with
none. Cost is in evaluations of the network; one under guidance, which needs the network twice, counts as one. On
some of the pictures: what latents the noise that is found leads to; and inversion under less guidance than theirs.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import click
import torch
from diffusers import DPMSolverMultistepScheduler
from rich.console import Console
from rich.progress import track
from torch import Tensor

from benchmarks.diffusion_inversion_figure import draw
from benchmarks.diffusion_inversion_recovery import BATCH, Cell, recovered, run_cell, sampled, summaries
from benchmarks.diffusion_inversion_report import FEW, METHODS, bars, means, readme_table
from benchmarks.kept import decoder_inversion, weights
from benchmarks.latents import GUIDANCE, Pictures, generated, nmse
from benchmarks.record import RESULTS, resume, write
from inversion import LatentDiffusionModel, invert_decoder, invert_diffusion

SOURCES = ("truth", "encoder", "decoder inversion")
PROMPTS = ("known", "unknown")
STEPS = (10, 50, 5, 20)
WEAKER = (1.0, 2.0, 3.0, 5.0, 7.5)


def cells(quick: bool) -> list[Cell]:
    """(method, steps, prompt, source), the most telling first."""
    steps = (2,) if quick else STEPS
    every = [(m, n, p, s) for n in steps for p in PROMPTS for s in SOURCES for m in METHODS]
    return sorted(every, key=lambda c: (c[2] == "known" and c[3] != "truth", c[2] == "unknown" and c[3] == "truth"))


def costs(model: LatentDiffusionModel, z_0: Tensor, rounds: int) -> dict[str, Any]:
    """Seconds for a picture and an evaluation, in turns, and as multiples of a bare evaluation of the network."""
    field = model.field(None, batch=len(z_0), guidance=1.0)
    rows = torch.arange(len(z_0))

    def bare() -> float:
        for _ in range(10):
            field(z_0, 500, rows)
        return 10.0

    def invert(method: str) -> float:
        return float(invert_diffusion(model, z_0, method=method, steps=10).evaluations.float().mean())

    parts: dict[str, Callable[[], float]] = {"network": bare} | {m: partial(invert, m) for m in METHODS}
    seconds: dict[str, list[float]] = {name: [] for name in parts}
    with torch.no_grad():
        bare()
        for _ in range(rounds):
            for name, run in parts.items():
                start = time.perf_counter()
                evaluations = run()
                seconds[name].append((time.perf_counter() - start) / evaluations / len(z_0))
    unit = statistics.median(seconds["network"])
    return {name: {"cost": statistics.median(t) / unit, "seconds": t} for name, t in seconds.items()}


def some(pictures: Pictures) -> Tensor:
    """Four pictures of every guidance scale."""
    return torch.cat([(pictures.guidance == g).nonzero()[:4, 0] for g in GUIDANCE])


def undone(
    model: LatentDiffusionModel, pictures: Pictures, z_0: Tensor, methods: Iterable[str], steps: int
) -> dict[str, Any]:
    """How near methods come to the noise of a few latents, and how near what they find leads to these latents."""
    rows, out = some(pictures), {}
    for method in methods:
        found, evaluations = recovered(model, pictures, z_0, (method, steps, "known", "truth"), rows)
        again = nmse(sampled(model, pictures, found, rows, steps)[rows], z_0[rows])
        cell = summaries(pictures, found, evaluations, rows)
        out[method] = {
            f"{g:g}": means(cell, g) | {"nmse of the latent": float(again[pictures.guidance[rows] == g].mean())}
            for g in GUIDANCE
        }
    return out


def exact(model: LatentDiffusionModel, pictures: Pictures, steps: int) -> dict[str, Any]:
    """Exact inversion against the published method and against the sampler as a whole."""
    return undone(model, pictures, pictures.z, ("naive", "implicit", "backward_euler", "shooting"), steps)


def second_order(model: LatentDiffusionModel, pictures: Pictures, steps: int) -> dict[str, Any]:
    """Latents made by DPM-Solver++(2M), inverted as if by DDIM, after the published method, and as a whole."""
    model = replace(model, scheduler=DPMSolverMultistepScheduler.from_config(model.scheduler.config))
    z_0 = sampled(model, pictures, pictures.noise, some(pictures), steps)
    return undone(model, pictures, z_0, ("naive", "midpoint", "implicit", "dpm_solver", "shooting"), steps)


def weaker(
    model: LatentDiffusionModel, pictures: Pictures, latents: dict[str, Tensor], steps: int
) -> dict[str, Any]:
    """Pictures made under guidance, inverted by ``midpoint`` with the prompt under as much of it or less."""
    out: dict[str, Any] = {}
    for made in GUIDANCE[1:]:
        rows = (pictures.guidance == made).nonzero()[:, 0]
        for source in SOURCES:
            for scale in (w for w in WEAKER if w <= made):
                cell = ("midpoint", steps, "known", source)
                found = recovered(model, pictures, latents[source], cell, rows, scale)
                key = f"made under {made:g} | {source}"
                out.setdefault(key, {})[f"{scale:g}"] = summaries(pictures, *found, rows)
    return out


def half_precision(pictures: Pictures, steps: int) -> dict[str, Any]:
    """The true latents of a float32 model, inverted by a bfloat16 one."""
    model = LatentDiffusionModel.load("sapling", dtype="bf16")
    rows = some(pictures)
    return {
        f"{method} | {prompt}": means(run_cell(model, pictures, pictures.z, (method, steps, prompt, "truth"), rows))
        for method in ("naive", "implicit")
        for prompt in PROMPTS
    }


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--quick", is_flag=True, help="6 pictures and few steps, to see that it runs.")
@click.option("-o", "--output", type=click.Path(file_okay=False, path_type=Path), default=RESULTS)
def main(quick: bool, output: Path) -> None:
    """Measure diffusion inversion on Sapling."""
    count, made_with = (6, 4) if quick else (72, 50)
    settings: dict[str, Any] = {"pictures": count, "seed": 3, "quick": quick, "steps of generation": made_with}
    settings |= {"weights": weights("sapling"), "decoder inversion": decoder_inversion("anderson")}
    result = {"cells": {}} | resume("diffusion_inversion", settings, output)
    model = LatentDiffusionModel.load("sapling", dtype="fp32")
    pictures = generated(count, seed=3, steps=made_with, all_marked=True, kind="dense")
    chunks = [x for _, x in pictures.chunks(BATCH)]
    latents = {
        "truth": pictures.z,
        "encoder": torch.cat([model.autoencoder.encode(x) for x in chunks]),
        "decoder inversion": torch.cat(
            [invert_decoder(model.autoencoder, x, chunk_size=BATCH).value for x in chunks]
        ),
    }
    few = FEW[quick]
    parts: list[tuple[str, Callable[[], Any]]] = [
        ("costs", lambda: costs(model, pictures.z[:8], 1 if quick else 7)),
        ("exact", lambda: exact(model, pictures, made_with)),
        ("second order", lambda: second_order(model, pictures, few)),
        ("bf16", lambda: half_precision(pictures, few)),
        ("weaker guidance", lambda: weaker(model, pictures, latents, 2 if quick else 10)),
    ]

    def save() -> None:
        write("diffusion_inversion", result, output)

    for cell in track(cells(quick), "cells", console=Console(stderr=True)):
        key = " | ".join(map(str, cell))
        if key not in result["cells"]:
            result["cells"][key] = run_cell(model, pictures, latents[cell[3]], cell)
            save()
    for name, run in parts:
        if name not in result:
            click.echo(name, err=True)
            result[name] = run()
            save()
    result["bars"] = bars(result)
    path = write("diffusion_inversion", result, output)
    draw(result, path.with_suffix(".png"))
    click.echo(readme_table(result))
    click.echo(f"wrote {path} and {path.with_suffix('.png')}")


if __name__ == "__main__":
    main()

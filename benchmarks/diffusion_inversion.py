"""How well is the initial noise recovered, and what does it take? On Sapling, by method, steps and what is known.

    python -m benchmarks.diffusion_inversion             72 pictures, six hours on a core; resumes
    python -m benchmarks.diffusion_inversion --quick     6 pictures and few steps, two minutes

Marked pictures are made by 50 steps of DDIM at three guidance scales. Their noise is recovered from the true
latent, from the encoder's, and from decoder inversion's, with the prompt and guidance of the generation or with
none. Cost is in evaluations of the network; one under guidance, which needs the network twice, counts as one.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from diffusers import DPMSolverMultistepScheduler
from rich.console import Console
from rich.progress import track
from torch import Tensor

from benchmarks.diffusion_inversion_report import FEW, METHODS, bars, draw, means, readme_table
from benchmarks.kept import decoder_inversion, weights
from benchmarks.latents import GUIDANCE, Pictures, generated, nmse
from benchmarks.record import RESULTS, resume, write
from inversion import LatentDiffusionModel, invert_decoder, invert_diffusion, sample
from watermark import detect

BATCH = 12
SOURCES = ("truth", "encoder", "decoder inversion")
PROMPTS = ("known", "unknown")
STEPS = (10, 50, 5, 20)
Cell = tuple[str, int, str, str]


def cells(quick: bool) -> list[Cell]:
    """(method, steps, prompt, source), the most telling first."""
    steps = (2,) if quick else STEPS
    every = [(m, n, p, s) for n in steps for p in PROMPTS for s in SOURCES for m in METHODS]
    return sorted(every, key=lambda c: (c[2] == "known" and c[3] != "truth", c[2] == "unknown" and c[3] == "truth"))


def run_cell(
    model: LatentDiffusionModel, pictures: Pictures, z_0: Tensor, cell: Cell, rows: Tensor | None = None
) -> dict[str, Any]:
    """Every picture's noise by one method: errors, correlations, statistics of its own key, and the cost."""
    method, steps, prompt, _ = cell
    found, evaluations = torch.empty_like(pictures.noise), torch.zeros(len(z_0))
    chosen = torch.arange(len(z_0)) if rows is None else rows
    for scale in pictures.guidance[chosen].unique().tolist():
        for part in chosen[pictures.guidance[chosen] == scale].split(BATCH):
            known = prompt == "known"
            solution = invert_diffusion(
                model,
                z_0[part],
                method=method,
                steps=steps,
                prompt=[pictures.prompts[i] for i in part] if known else None,
                guidance=scale if known else 1.0,
            )
            found[part], evaluations[part] = solution.value, solution.evaluations.float()
    each = [summary(pictures, found, int(i), float(evaluations[i])) for i in chosen]
    return {"pictures": {name: [one[name] for one in each] for name in each[0]}}


def summary(pictures: Pictures, found: Tensor, i: int, evaluations: float) -> dict[str, float]:
    """What is kept of one picture."""
    key = pictures.keys[i]
    assert key is not None
    detection = detect(found[i : i + 1], key)
    both = torch.stack([found[i].flatten(), pictures.noise[i].flatten()])
    return {
        "guidance": float(pictures.guidance[i]),
        "nmse": round(float(nmse(found[i : i + 1], pictures.noise[i : i + 1])), 2),
        "correlation": round(float(torch.corrcoef(both)[0, 1]), 4),
        "rho": round(float(detection.rho[0]), 4),
        "log10 p": round(float(np.log10(detection.p_value[0])), 3),
        "evaluations": evaluations,
    }


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


def exact(model: LatentDiffusionModel, pictures: Pictures, steps: int) -> dict[str, Any]:
    """Exact inversion against the published method and against the sampler as a whole, on a few pictures."""
    rows = torch.cat([(pictures.guidance == g).nonzero()[:4, 0] for g in GUIDANCE])
    out = {}
    for method in ("naive", "implicit", "backward_euler", "shooting"):
        cell = run_cell(model, pictures, pictures.z, (method, steps, "known", "truth"), rows)
        out[method] = {f"{g:g}": means(cell, g) for g in GUIDANCE}
    return out


def second_order(model: LatentDiffusionModel, pictures: Pictures, steps: int) -> dict[str, Any]:
    """Latents made by DPM-Solver++(2M), inverted as if by DDIM, after the published method, and as a whole."""
    model = replace(model, scheduler=DPMSolverMultistepScheduler.from_config(model.scheduler.config))
    rows = torch.cat([(pictures.guidance == g).nonzero()[:4, 0] for g in GUIDANCE])
    z_0 = torch.zeros_like(pictures.z)
    for scale in GUIDANCE:
        part = rows[pictures.guidance[rows] == scale]
        prompts = [pictures.prompts[i] for i in part]
        z_0[part] = sample(model, pictures.noise[part], prompt=prompts, guidance=scale, steps=steps)
    out = {}
    for method in ("naive", "midpoint", "implicit", "dpm_solver", "shooting"):
        cell = run_cell(model, pictures, z_0, (method, steps, "known", "truth"), rows)
        out[method] = {f"{g:g}": means(cell, g) for g in GUIDANCE}
    return out


def half_precision(pictures: Pictures, steps: int) -> dict[str, Any]:
    """The true latents of a float32 model, inverted by a bfloat16 one."""
    model = LatentDiffusionModel.load("sapling", dtype="bf16")
    rows = torch.cat([(pictures.guidance == g).nonzero()[:4, 0] for g in GUIDANCE])
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

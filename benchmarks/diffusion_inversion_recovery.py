"""What :mod:`benchmarks.diffusion_inversion` recovers of pictures' noise, and what it keeps of that."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.latents import Pictures, nmse
from inversion import LatentDiffusionModel, invert_diffusion, sample
from watermark import detect

BATCH = 12
Cell = tuple[str, int, str, str]
"""(method, steps, prompt known or not, where the latents are from)."""


def run_cell(
    model: LatentDiffusionModel, pictures: Pictures, z_0: Tensor, cell: Cell, rows: Tensor | None = None
) -> dict[str, Any]:
    """Every picture's noise by one method: errors, correlations, statistics of its own key, and the cost."""
    chosen = torch.arange(len(z_0)) if rows is None else rows
    return summaries(pictures, *recovered(model, pictures, z_0, cell, chosen), chosen)


def recovered(
    model: LatentDiffusionModel,
    pictures: Pictures,
    z_0: Tensor,
    cell: Cell,
    rows: Tensor,
    guidance: float | None = None,
) -> tuple[Tensor, Tensor]:
    """The noise of some pictures by one method, and what it cost; under their guidance or another one."""
    method, steps, prompt, _ = cell
    found, evaluations = torch.empty_like(pictures.noise), torch.zeros(len(z_0))
    for part, scale in alike(pictures, rows):
        known = prompt == "known"
        solution = invert_diffusion(
            model,
            z_0[part],
            method=method,
            steps=steps,
            prompt=[pictures.prompts[i] for i in part] if known else None,
            guidance=(scale if guidance is None else guidance) if known else 1.0,
        )
        found[part], evaluations[part] = solution.value, solution.evaluations.float()
    return found, evaluations


def sampled(model: LatentDiffusionModel, pictures: Pictures, noise: Tensor, rows: Tensor, steps: int) -> Tensor:
    """The latents that noise leads to under the pictures' own prompts and guidance."""
    z_0 = torch.zeros_like(pictures.z)
    for part, scale in alike(pictures, rows):
        prompts = [pictures.prompts[i] for i in part]
        z_0[part] = sample(model, noise[part], prompt=prompts, guidance=scale, steps=steps)
    return z_0


def alike(pictures: Pictures, rows: Tensor) -> Iterator[tuple[Tensor, float]]:
    """Batches of rows of one guidance scale, and the scale."""
    for scale in pictures.guidance[rows].unique().tolist():
        for part in rows[pictures.guidance[rows] == scale].split(BATCH):
            yield part, scale


def summaries(pictures: Pictures, found: Tensor, evaluations: Tensor, rows: Tensor) -> dict[str, Any]:
    """What is kept of some pictures, as lists."""
    each = [summary(pictures, found, int(i), float(evaluations[i])) for i in rows]
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

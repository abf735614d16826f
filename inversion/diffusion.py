"""Sampling z_T → z_0 with DDIM, and the way back.

Both directions walk the same steps with the same update, z' = (α'/α) z + (σ' − α' σ/α) ε, eq. 12 of DDIM
(https://arxiv.org/abs/2010.02502) with η = 0. Sampling knows ε(z_t, t); *naive* inversion does not know z_t yet and
takes ε at the latent that it has.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from inversion.schedule import Step, ddim_schedule

if TYPE_CHECKING:
    from inversion.model import LatentDiffusionModel

Noise = Callable[[Tensor, int], Tensor]
"""ε(z, t): latents (B, C, h, w) float32 and a training timestep → predicted noise of the same shape."""

Progress = Callable[[int, int], None]


def ddim_sample(eps: Noise, z_T: Tensor, schedule: Sequence[Step], progress: Progress | None = None) -> Tensor:
    """z_T (B, ...) → z_0 (B, ...), one evaluation of ε a step."""
    z = z_T
    for k, q in enumerate(schedule, 1):
        z = move(z, eps(z, q.t), q.alpha_t, q.sigma_t, q.alpha_s, q.sigma_s)
        if progress is not None:
            progress(k, len(schedule))
    return z


def ddim_invert(eps: Noise, z_0: Tensor, schedule: Sequence[Step], progress: Progress | None = None) -> Tensor:
    """z_0 (B, ...) → z_T (B, ...), naive DDIM inversion: ε(z_s, s), the cleaner latent at its own time."""
    z = z_0
    for k, q in enumerate(reversed(schedule), 1):
        z = move(z, eps(z, q.s), q.alpha_s, q.sigma_s, q.alpha_t, q.sigma_t)
        if progress is not None:
            progress(k, len(schedule))
    return z


def move(z: Tensor, eps: Tensor, alpha: float, sigma: float, alpha_to: float, sigma_to: float) -> Tensor:
    """Carry z from noise level (α, σ) to (α', σ') along a given ε."""
    return (alpha_to / alpha) * z + (sigma_to - alpha_to * sigma / alpha) * eps


@torch.no_grad()
def sample(
    model: LatentDiffusionModel,
    z_T: Tensor,
    *,
    prompt: str | Sequence[str] | None = None,
    guidance: float = 1.0,
    steps: int = 50,
    progress: Progress | None = None,
) -> Tensor:
    """Generate latents from noise by deterministic DDIM, as the model's own pipeline does with that scheduler.

    Args:
        model: the latent diffusion model.
        z_T: (B, C, h, w) float32 noise of unit variance.
        prompt: one prompt for all, or one for each sample; None is the empty prompt.
        guidance: classifier-free guidance scale w, ε = ε(∅) + w (ε(prompt) − ε(∅)); 1 means none.
        steps: number of DDIM steps.
        progress: called after every step with the steps done and their number.

    Returns:
        z_0, (B, C, h, w) float32.

    Raises:
        ValueError: if a shape or an argument does not fit the model.
    """
    z_T = model.check_latents(z_T)
    eps = model.noise_predictor(prompt, batch=len(z_T), guidance=guidance)
    return ddim_sample(eps, z_T, ddim_schedule(model.scheduler_config, steps), progress)


@torch.no_grad()
def invert_diffusion(
    model: LatentDiffusionModel,
    z_0: Tensor,
    *,
    prompt: str | Sequence[str] | None = None,
    guidance: float = 1.0,
    steps: int = 10,
    progress: Progress | None = None,
) -> Tensor:
    """Recover the noise that latents were generated from, by naive DDIM inversion.

    The prompt of a suspect picture is rarely known: the empty prompt without guidance is the default. Arguments,
    shapes and errors are those of :func:`sample`; returns z_T, (B, C, h, w) float32.
    """
    z_0 = model.check_latents(z_0)
    eps = model.noise_predictor(prompt, batch=len(z_0), guidance=guidance)
    return ddim_invert(eps, z_0, ddim_schedule(model.scheduler_config, steps), progress)

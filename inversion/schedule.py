"""Times and noise levels of a variance-preserving diffusion: z_t = α_t z_0 + σ_t ε with α_t² + σ_t² = 1."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from diffusers import DDIMScheduler


@dataclass(frozen=True)
class Step:
    """One step between a noisier time t and a cleaner time s, with α and σ at both (Python floats)."""

    t: int
    s: int
    alpha_t: float
    sigma_t: float
    alpha_s: float
    sigma_s: float


def ddim_schedule(scheduler_config: Any, steps: int) -> tuple[Step, ...]:  # noqa: ANN401 - a diffusers FrozenDict
    """The steps that DDIM takes from noise to image under a diffusers scheduler config, noisiest first.

    Spacing, offset and final noise level are those of ``DDIMScheduler.from_config``; eq. 12 of DDIM,
    https://arxiv.org/abs/2010.02502. The last step ends at s = 0 with the scheduler's final α.

    Raises:
        ValueError: if the config is not one of a DDPM-like diffusion, has zero terminal signal (α_T = 0, where
            ε does not determine z_0), or if steps is out of range.
    """
    if "beta_schedule" not in scheduler_config:
        raise ValueError(
            "the scheduler has no beta schedule; only DDPM-like "
            "diffusion models are supported (DDIM, PNDM, DPM-Solver, Euler and their kin), not flow matching"
        )
    if scheduler_config.get("rescale_betas_zero_snr"):
        raise ValueError("schedulers with zero terminal signal-to-noise ratio are not supported")
    scheduler = DDIMScheduler.from_config(scheduler_config)
    train_steps = int(scheduler.config.num_train_timesteps)
    if not 1 <= steps <= train_steps:
        raise ValueError(f"steps must be between 1 and {train_steps}, got {steps}")
    scheduler.set_timesteps(steps)
    bar = scheduler.alphas_cumprod.double()
    out = []
    for t in scheduler.timesteps.tolist():
        s = t - train_steps // steps
        bar_t, bar_s = float(bar[t]), float(bar[s] if s >= 0 else scheduler.final_alpha_cumprod)
        out.append(Step(t, max(s, 0), bar_t**0.5, (1 - bar_t) ** 0.5, bar_s**0.5, (1 - bar_s) ** 0.5))
    return tuple(out)

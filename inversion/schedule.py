"""Times and noise levels: z_t = α_t z_0 + σ_t ε, of DDPM-like diffusion (α² + σ² = 1) or flow matching (α + σ = 1).

One abstraction serves both. A network predicts a function f of z_t: the noise ε, the sample z_0, the velocity v of
a diffusion (α ε − σ z_0) or of a flow (ε − z_0). Each is linear in ε and z_0, so a step of DDIM, eq. 12 of
https://arxiv.org/abs/2010.02502 with η = 0, from one noise level to any other, up or down, is

    z_to = P z_at + Q f(z_at, at),

with P and Q of :func:`coefficients`. For a flow this is an Euler step of its ODE; in z/α against σ/α it is also one
for a diffusion, so that DDIM, the Euler scheduler and the first order of DPM-Solver++ are the same update.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from diffusers import CogVideoXDDIMScheduler, DDIMScheduler, EulerDiscreteScheduler

DDIM_LIKE = ("DDIMScheduler", "PNDMScheduler", "DDPMScheduler", "LCMScheduler", "TCDScheduler")
"""Read as DDIM for the same betas."""

COGVIDEOX = ("CogVideoXDDIMScheduler", "CogVideoXDPMScheduler")
"""Read as CogVideoX's DDIM."""

EULER_LIKE = (
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "HeunDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "LMSDiscreteScheduler",
)
"""Read as Euler's method for the same betas and sigmas. These hold z/α."""

SIGMA_LIKE = (
    "FlowMatchEulerDiscreteScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "DEISMultistepScheduler",
    "UniPCMultistepScheduler",
    "SASolverScheduler",
)
"""Read as the first-order method at their own noise levels."""

SUPPORTED = (*DDIM_LIKE, *COGVIDEOX, *EULER_LIKE, *SIGMA_LIKE)

STOCHASTIC = (
    "DDPMScheduler",
    "LCMScheduler",
    "TCDScheduler",
    "CogVideoXDPMScheduler",
    "EulerAncestralDiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "SASolverScheduler",
)


@dataclass(frozen=True)
class Level:
    """A noise level: what the network takes for the time t, and α and σ there."""

    t: float
    alpha: float
    sigma: float


@dataclass(frozen=True)
class Schedule:
    """The steps that a sampler takes.

    Attributes:
        steps: (t, s) for every step, t the noisier level; noisiest first. A step starts where the one before ends,
            but for DDIM with some numbers of steps and spacings, which diffusers lets drift apart by rounding.
        kind: what the network predicts: ``epsilon``, ``sample``, ``v_prediction`` or ``flow_prediction``.
        start: what noise of unit variance is multiplied with to be z at the first level; 1 but for some spacings of
            the Euler scheduler.
        time: σ/α > 0 → the network's time there.
    """

    steps: tuple[tuple[Level, Level], ...]
    kind: str
    start: float
    time: Callable[[float], float]

    def between(self, s: Level, t: Level, share: float = 0.5) -> Level:
        """The level at a share of the way from s to t, measured as :func:`position` does."""
        a, b = position(self.kind, s), position(self.kind, t)
        at = a + share * (b - a)
        if self.kind == "flow_prediction":
            return Level(self.time(at / (1 - at)) if at < 1 else t.t, 1 - at, at)
        return Level(self.time(math.tan(at)) if at < math.pi / 2 else t.t, math.cos(at), math.sin(at))


def position(kind: str, level: Level) -> float:
    """Where a level lies on the way from z_0 to noise: σ for a flow, the angle φ = arctan σ/α for a diffusion.

    Along it z moves with the velocity v: dz/dσ = ε − z_0 for a flow, dz/dφ = α ε − σ z_0 for a diffusion, finite
    everywhere.
    """
    return level.sigma if kind == "flow_prediction" else math.atan2(level.sigma, level.alpha)


def coefficients(kind: str, at: Level, to: Level) -> tuple[float, float]:
    """P and Q of the module's formula for a network that predicts ``kind``."""
    alpha, sigma = at.alpha, at.sigma
    if kind == "epsilon":
        return to.alpha / alpha, to.sigma - to.alpha * sigma / alpha
    if kind == "v_prediction":
        return to.alpha * alpha + to.sigma * sigma, to.sigma * alpha - to.alpha * sigma
    if kind == "flow_prediction":
        return to.alpha + to.sigma, to.sigma * alpha - to.alpha * sigma
    return to.sigma / sigma, to.alpha - to.sigma * alpha / sigma


def make_schedule(scheduler: Any, steps: int, **settings: Any) -> Schedule:  # noqa: ANN401 - diffusers is untyped
    """The schedule of a diffusers scheduler for a number of sampling steps.

    Timesteps, spacing, shifts and the final noise level are the scheduler's own; a scheduler of an order above
    one is read as a method of first order at the same levels, see the lists above, one that draws noise in every
    step as one that does not. Subclasses are read as what they derive from.

    Args:
        scheduler: of diffusers; it is not changed.
        steps: number of steps, from 1 to the number of training steps.
        settings: further arguments for its ``set_timesteps``, e.g. ``mu``.

    Raises:
        ValueError: if the scheduler is not supported or clips its predictions, the prediction type is unknown,
            steps is out of range, or the noise level of α = 0 meets a network that predicts ε, which does not
            determine z_0 there.
    """
    config = scheduler.config
    name = next((kind.__name__ for kind in type(scheduler).__mro__ if kind.__name__ in SUPPORTED), None)
    if name is None:
        raise ValueError(f"{type(scheduler).__name__} is not supported; supported are {', '.join(SUPPORTED)}")
    flow = name.startswith("FlowMatch")
    kind = "flow_prediction" if flow else config.get("prediction_type", "epsilon")
    if kind not in {"epsilon", "v_prediction", "sample", "flow_prediction"}:
        raise ValueError(f"unknown prediction type {kind!r}")
    if kind == "flow_prediction" and name not in SIGMA_LIKE:
        raise ValueError(f"{name} has no noise levels for a flow")
    for setting in ("clip_sample", "thresholding", "invert_sigmas", "stochastic_sampling"):
        if config.get(setting):
            raise ValueError(f"a scheduler with {setting} is not supported: set it to False")
    train_steps = int(config.num_train_timesteps)
    if not 1 <= steps <= train_steps:
        raise ValueError(f"steps must be between 1 and {train_steps}, got {steps}")
    # not its private keys, which would have the defaults of the class that reads them in the place of its own
    own = {key: value for key, value in config.items() if not key.startswith("_")}
    if name in SIGMA_LIKE:
        schedule = from_sigmas(type(scheduler).from_config(config), kind, steps, settings)
    elif name in EULER_LIKE:
        schedule = from_sigmas(EulerDiscreteScheduler.from_config(own), kind, steps, settings)
    else:
        ddim = CogVideoXDDIMScheduler if name in COGVIDEOX else DDIMScheduler
        schedule = from_betas(ddim.from_config(own | {"clip_sample": False}), kind, steps)
    if kind == "epsilon" and schedule.steps[0][0].alpha < 1e-6:
        raise ValueError("zero terminal signal-to-noise ratio needs a network that predicts v or the sample, not ε")
    return schedule


def draws_noise(scheduler: Any) -> bool:  # noqa: ANN401
    """Whether a scheduler adds new noise in every step, in which a mark in the first noise drowns."""
    names = {kind.__name__ for kind in type(scheduler).__mro__}
    return bool(names & set(STOCHASTIC)) or str(scheduler.config.get("algorithm_type")).startswith("sde-")


def from_sigmas(scheduler: Any, kind: str, steps: int, settings: dict[str, Any]) -> Schedule:  # noqa: ANN401
    """Schedulers that list their noise levels: σ of a flow, else σ/α."""
    scheduler.set_timesteps(**({} if "sigmas" in settings else {"num_inference_steps": steps}), **settings)
    sigmas, times = scheduler.sigmas.double().tolist(), scheduler.timesteps.tolist()
    if kind == "flow_prediction":
        train_steps = int(scheduler.config.num_train_timesteps)
        levels = [Level(t, 1 - s, s) for t, s in zip([*times, 0], sigmas, strict=True)]
        return Schedule(tuple(pairwise(levels)), kind, 1.0, lambda ratio: train_steps * ratio / (1 + ratio))
    continuous = scheduler.config.get("timestep_type") == "continuous" and kind == "v_prediction"
    time = log_time if continuous else discrete_time(scheduler.alphas_cumprod)
    clean = float(times[-1]) if continuous else 0.0
    levels = [
        Level(t, 1 / math.hypot(1, s), s / math.hypot(1, s)) for t, s in zip([*times, clean], sigmas, strict=True)
    ]
    euler = isinstance(scheduler, EulerDiscreteScheduler)
    start = float(scheduler.init_noise_sigma) * levels[0].alpha if euler else 1.0
    return Schedule(tuple(pairwise(levels)), kind, start, time)


def from_betas(ddim: Any, kind: str, steps: int) -> Schedule:  # noqa: ANN401
    """The levels of DDIM."""
    ddim.set_timesteps(steps)
    bar = ddim.alphas_cumprod.double()
    if int(ddim.timesteps.max()) >= len(bar):
        raise ValueError(
            f"steps must be below {steps}: with this scheduler's offset they begin beyond the training"
        )
    stride = int(ddim.config.num_train_timesteps) // steps

    def level(t: int) -> Level:
        signal = float(bar[t] if t >= 0 else ddim.final_alpha_cumprod)
        return Level(max(t, 0), signal**0.5, (1 - signal) ** 0.5)

    pairs = tuple((level(t), level(t - stride)) for t in ddim.timesteps.tolist())
    return Schedule(pairs, kind, 1.0, discrete_time(bar))


def log_time(ratio: float) -> float:
    """The continuous time of SVD's network."""
    return 0.25 * math.log(max(ratio, 1e-30))


def discrete_time(alphas_cumprod: Any) -> Callable[[float], float]:  # noqa: ANN401
    """σ/α → time, interpolated between training steps as the Euler scheduler does, in log σ/α."""
    bar = np.clip(alphas_cumprod.double().numpy(force=True), 1e-12, None)
    grid = 0.5 * np.log((1 - bar) / bar)
    times = np.arange(len(grid), dtype=np.float64)
    return lambda ratio: float(np.interp(math.log(max(ratio, 1e-30)), grid, times))

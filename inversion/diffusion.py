"""Sampling z_T → z_0 by a model's deterministic sampler, and the way back.

Both walk the same steps, z_s = P z_t + Q f(z_t, t), see :mod:`inversion.schedule`. Sampling knows f(z_t, t);
inversion does not know z_t yet, and its methods differ in what they take instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from inversion.chunks import concatenate, in_chunks
from inversion.dpm_solver import dpm_invert, dpm_sample
from inversion.exact import backward_euler, implicit
from inversion.explicit import ddim_sample, midpoint, naive, naive_next, warm_start
from inversion.fields import Field, Keep, Progress, forget, silent
from inversion.schedule import Schedule, coefficients
from inversion.shooting import Sampler, shooting
from inversion.solvers import Solution

if TYPE_CHECKING:
    from inversion.model import LatentDiffusionModel

SAMPLERS = {"ddim": ddim_sample, "dpm_solver": dpm_sample}
EXPLICIT: dict[str, Sampler] = {
    "naive": naive,
    "naive_next": naive_next,
    "warm_start": warm_start,
    "midpoint": midpoint,
}
METHODS = ("auto", *EXPLICIT, "implicit", "backward_euler", "dpm_solver", "shooting")


@torch.no_grad()
def sample(
    model: LatentDiffusionModel,
    z_T: Tensor,
    *,
    method: str = "auto",
    steps: int = 50,
    prompt: str | Sequence[str] | Tensor | None = None,
    guidance: float = 1.0,
    progress: Progress | None = None,
) -> Tensor:
    """Generate latents from noise as the model's own pipeline does with a deterministic sampler.

    Args:
        model: the latent diffusion model.
        z_T: (B, C, [F,] h, w) float32 noise of unit variance.
        method: ``ddim``, which for flow models is Euler's method, or ``dpm_solver``, DPM-Solver++(2M); ``auto`` is
            ``dpm_solver`` if that is the model's scheduler.
        steps: number of steps, one evaluation of the network each.
        prompt: one prompt for all, or one for each sample; None is what guidance has for no prompt, ∅. For a model
            that starts from a picture, pictures (B, 3, H, W) in [-1, 1].
        guidance: classifier-free guidance scale w, f = f(∅) + w (f(prompt) − f(∅)); 1 or less means none, as in the
            pipelines. For models that take the scale as an input, that.
        progress: called after every step with the steps done and their number.

    Returns:
        z_0, (B, C, [F,] h, w) float32.

    Raises:
        ValueError: if a shape or an argument does not fit the model.
    """
    z_T = model.check_latents(z_T)
    schedule = model.schedule(steps, z_T.shape)
    field = model.field(prompt, batch=len(z_T), guidance=guidance)
    return sampler(model, method)(field, schedule.start * z_T, schedule, progress or silent, forget)


def sampler(model: LatentDiffusionModel, method: str) -> Sampler:
    """The function behind the name of a sampling method."""
    if method == "auto":
        method = "dpm_solver" if is_second_order(model.scheduler) else "ddim"
    if method not in SAMPLERS:
        raise ValueError(f"method must be 'auto' or one of {', '.join(map(repr, SAMPLERS))}, got {method!r}")
    return SAMPLERS[method]


def is_second_order(scheduler: Any) -> bool:  # noqa: ANN401 - diffusers is untyped
    """Whether a scheduler is the DPM-Solver++(2M) that :mod:`inversion.dpm_solver` has."""
    config = scheduler.config
    return any(c.__name__ == "DPMSolverMultistepScheduler" for c in type(scheduler).__mro__) and (
        config.algorithm_type,
        config.solver_order,
        config.solver_type,
        config.final_sigmas_type,
    ) == ("dpmsolver++", 2, "midpoint", "zero")


@torch.no_grad()
def invert_diffusion(
    model: LatentDiffusionModel,
    z_0: Tensor,
    *,
    method: str = "auto",
    steps: int = 10,
    prompt: str | Sequence[str] | Tensor | None = None,
    guidance: float = 1.0,
    evaluations: int | None = None,
    progress: Progress | None = None,
) -> Solution:
    """Recover the noise that latents were generated from.

    Methods, of which the first four evaluate the network once a step:

    - ``naive``: DDIM inversion with f(z_s, s), the cleaner latent at its own time; ``naive_next``: with f(z_s, t).
    - ``warm_start``: f at the point where the previous prediction leads.
    - ``midpoint``: follows the ODE to second order, as FireFlow.
    - ``implicit``: every step of DDIM or Euler solved for z_t by Anderson acceleration.
    - ``backward_euler``: the same as published by Hong et al. 2023, Algorithm 1.
    - ``dpm_solver``: for pictures made by DPM-Solver++(2M), after their Algorithm 2, see
      :func:`inversion.dpm_solver.dpm_invert`.
    - ``shooting``: any sampler inverted as a whole.
    - ``auto``: ``midpoint``, or ``implicit`` for a single step, see :func:`choose`.

    Args:
        model: the latent diffusion model.
        z_0: (B, C, [F,] h, w) float32.
        method: see above.
        steps: number of steps.
        prompt: as for :func:`sample`. That of a suspect picture is rarely known, so the default is none.
        guidance: as for :func:`sample`; 1 unless the prompt and the scale are known. It amplifies errors of z_0:
            where that is recovered from a picture made under 7.5, a scale of 2 or 3 finds more on Sapling.
        evaluations: of the network for every step, at most, for the methods that iterate; None is 20 for
            ``implicit``, which rarely needs all of them, and 50 for ``backward_euler`` and ``dpm_solver``. For
            ``shooting`` the number of its iterations, 3, of two evaluations a step each.
        progress: called after every step with the steps done and their number. All samples go through the network
            together; where memory runs out, each half begins anew.

    Returns:
        A :class:`Solution` on the model's device. ``value`` is z_T (B, C, [F,] h, w), float32. ``evaluations``
        counts those of the network. Methods that iterate have a ``residual``, the largest of any step, for
        ``shooting`` that of the whole. The others do not test themselves: their ``residual`` and ``merit`` are NaN,
        ``converged`` is False, and ``history`` is empty.

    Raises:
        ValueError: if a shape or an argument does not fit the model.
    """
    z_0 = model.check_latents(z_0)
    schedule = model.schedule(steps, z_0.shape)
    method = checked(method, evaluations, schedule)
    field = model.field(prompt, batch=len(z_0), guidance=guidance)

    def invert(rows: Tensor) -> Solution:
        count = torch.zeros(len(rows), dtype=torch.int64, device=z_0.device)

        def counted(z: Tensor, t: float, r: Tensor) -> Tensor:
            count[r] += 1
            return field(z, t, rows[r])

        solution = run(model, counted, z_0[rows], schedule, method, evaluations, progress or silent)
        return replace(solution, value=solution.value / schedule.start, evaluations=count)

    return concatenate(list(in_chunks(invert, torch.arange(len(z_0), device=z_0.device), len(z_0))))


def checked(method: str, evaluations: int | None, schedule: Schedule) -> str:
    """The name of a method, that of the default in place of ``auto``; a ValueError if an argument is wrong."""
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(map(repr, METHODS))}, got {method!r}")
    if evaluations is not None and evaluations < 1:
        raise ValueError(f"evaluations must be at least 1, got {evaluations}")
    return choose(schedule) if method == "auto" else method


def run(
    model: LatentDiffusionModel,
    field: Field,
    z_0: Tensor,
    schedule: Schedule,
    method: str,
    evaluations: int | None,
    progress: Progress,
    keep: Keep = forget,
) -> Solution:
    """One method; z_T is that of the schedule, not yet of unit variance. ``shooting`` has no path to keep."""
    if method in EXPLICIT:
        return untested(EXPLICIT[method](field, z_0, schedule, progress, keep))
    if method == "shooting":
        return shooting(sampler(model, "auto"), field, z_0, schedule, evaluations or 3, progress)
    if method == "implicit":
        return implicit(field, z_0, schedule, evaluations or 20, progress, keep)
    if method == "backward_euler":
        return backward_euler(field, z_0, schedule, evaluations or 50, progress, keep)
    return dpm_invert(field, z_0, schedule, evaluations or 50, progress=progress, keep=keep)


def untested(value: Tensor) -> Solution:
    """What a method returns that does not test itself."""
    unknown = torch.full((len(value),), torch.nan, device=value.device)
    no = torch.zeros(len(value), dtype=torch.int64, device=value.device)
    return Solution(value, unknown, unknown, no, torch.zeros_like(no, dtype=torch.bool), unknown[None][:0])


def choose(schedule: Schedule) -> str:
    """The default method: ``midpoint``, or ``implicit`` for a single step.

    A latent that was recovered from a picture has errors. On Sapling, by
    ``benchmarks/diffusion_inversion.py``, undoing the sampler exactly in 10 steps amplifies them more than it gains
    where the prompt is known under guidance; where it is not, 2 decades of p in 74 are gained at 7 times the
    cost. 50 steps along the ODE gain 1 decade over 10. A one-step model is another matter: it is defined by its
    step, which is solved. For latents that are known exactly, along with prompt, guidance and steps, choose
    ``implicit`` yourself.
    """
    if len(schedule.steps) == 1 and abs(coefficients(schedule.kind, *schedule.steps[0])[0]) > 1e-6:
        return "implicit"
    return "midpoint"

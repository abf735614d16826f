"""DPM-Solver++(2M), a sampler of second order, and its inversion.

https://arxiv.org/abs/2211.01095, Algorithm 2: with λ = ln α/σ, h = λ_s − λ_t, ω = h / (2 h_before), and the samples
z_0 that the network predicts at t, D, and at the step before, D',

    z_s = DDIM step to s − α_s (e^{−h} − 1) ω (D − D'),

the first and the last step, which ends at σ = 0, being plain DDIM, as in diffusers.
"""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor

from inversion.exact import joined, solve_step, step_residual
from inversion.explicit import divisible, naive
from inversion.fields import Field, Keep, Progress, all_rows, forget, silent
from inversion.schedule import Level, Schedule, coefficients
from inversion.solvers import Solution

CLEAN = Level(0, 1.0, 0.0)


def dpm_sample(
    field: Field, z_T: Tensor, schedule: Schedule, progress: Progress = silent, keep: Keep = forget
) -> Tensor:
    """From z at the first level (B, ...) to z_0 (B, ...), one evaluation a step."""
    z, rows, before = z_T, all_rows(z_T), z_T  # what is before the first step is not looked at
    for k, (t, s) in enumerate(schedule.steps, 1):
        f = field(z, t.t, rows)
        sample = predicted_sample(schedule.kind, t, z, f)
        p, q = coefficients(schedule.kind, t, s)
        z = p * z + q * f
        weight = second_order(schedule, k - 1)
        if weight:
            z = z + weight * (sample - before)
        before = sample
        keep(z)
        progress(k, len(schedule.steps))
    return z


def predicted_sample(kind: str, t: Level, z: Tensor, f: Tensor) -> Tensor:
    """D, the z_0 that the network predicts from z at t."""
    p, q = coefficients(kind, t, CLEAN)
    return p * z + q * f


def second_order(schedule: Schedule, k: int) -> float:
    """−α_s (e^{−h} − 1) ω of step k, zero where the step is of first order."""
    if k == 0 or k == len(schedule.steps) - 1:
        return 0.0
    (before, _), (t, s) = schedule.steps[k - 1], schedule.steps[k]
    h, h_before = log_snr(s) - log_snr(t), log_snr(t) - log_snr(before)
    return -s.alpha * math.expm1(-h) * h / (2 * h_before) if h_before else 0.0


def log_snr(level: Level) -> float:
    """λ = ln α/σ, finite where α = 0."""
    return math.log(max(level.alpha, 1e-12)) - math.log(level.sigma)


def dpm_invert(
    field: Field,
    z_0: Tensor,
    schedule: Schedule,
    evaluations: int = 50,
    fine: int = 5,
    progress: Progress = silent,
    keep: Keep = forget,
) -> Solution:
    """Invert the sampler step by step, after Hong et al. 2023, Algorithm 2, https://arxiv.org/abs/2311.18387.

    A step of second order also needs the sample predicted before z_t, which lies ahead on the way back. It is
    estimated by naive inversion in fine steps, and then the step is solved for z_t. Different from their code, the
    fine steps are as many in every step and ask the network at the cleaner time, D is solved for rather than
    estimated, too, and the solver is that of :func:`inversion.exact.implicit` instead of forward steps.

    Args:
        field: the network.
        z_0: (B, ...) latents.
        schedule: the sampler's.
        evaluations: of the network, at most, for every step and sample; the estimate and one more are made in any
            case, 2 · ``fine`` + 2 for a step of second order, ``fine`` + 1 for one of first.
        fine: naive steps for each step of the sampler.
        progress: called after every step.
        keep: given z after every step.

    Returns:
        A :class:`Solution` as that of :func:`inversion.exact.implicit`; its residual knows nothing of the error of
        the estimate.
    """
    z, rows = z_0, all_rows(z_0)
    parts = []
    for k, (t, s) in reversed(list(enumerate(schedule.steps))):
        weight = second_order(schedule, k)
        p, q = coefficients(schedule.kind, t, s)
        p_clean, q_clean = coefficients(schedule.kind, t, CLEAN)
        p, q = divisible(p + weight * p_clean), q + weight * q_clean
        start = fine_naive(field, z, schedule, s, t, fine)
        offset, spent = torch.zeros_like(z), fine
        if weight:
            before = schedule.steps[k - 1][0]
            earlier = fine_naive(field, start, schedule, t, before, fine)
            f = field(earlier, before.t, rows)
            offset, spent = weight * predicted_sample(schedule.kind, before, earlier, f), 2 * fine + 1
        residual = step_residual(field, t.t, p, q, z + offset)
        part = solve_step(residual, start, max(evaluations - spent, 1))
        parts.append(replace(part, evaluations=part.evaluations + spent))
        z = part.value
        keep(z)
        progress(len(parts), len(schedule.steps))
    return joined(z, parts)


def fine_naive(field: Field, z: Tensor, schedule: Schedule, s: Level, t: Level, fine: int) -> Tensor:
    """From level s up to t in a few naive steps."""
    levels = [t, *(schedule.between(s, t, i / fine) for i in range(fine - 1, 0, -1)), s]
    return naive(field, z, replace(schedule, steps=tuple(pairwise(levels))))

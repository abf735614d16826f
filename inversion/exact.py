"""Exact inversion of a sampler: every step z_s = P z_t + Q f(z_t, t) is solved for z_t.

With T(z) = (P z + Q f(z, t) − z_s) / P a step is a fixed-point problem like that of decoder inversion, and the same
solvers take it. Where the network changes little with z, T is nearly z − z_t, and a few evaluations suffice. With
strong guidance, or few large steps, T is not even cocoercive; the samples whose residual is hardly reduced then get
damped forward steps, and in any case the iterate of the smallest residual.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from inversion.anderson import anderson
from inversion.explicit import invertible
from inversion.fields import Field, Keep, Progress, all_rows, forget, silent
from inversion.schedule import Schedule
from inversion.solvers import Residual, Solution, State, Stop, forward_step, rms, solve

MEMORY = 8
TOLERANCE = 1e-5
"""Residual of a step at which it counts as solved, RMS; latents have unit variance. Errors of early steps grow on
the way to the noise."""


def step_residual(field: Field, t: float, p: float, q: float, target: Tensor, scale: float = 1.0) -> Residual:
    """T of a step P z + Q f(z, t) = target, which is its own error, times a scale."""

    def residual(z: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        error = scale * (z + (q * field(z, t, rows) - target[rows]) / p)
        return error, error

    return residual


def implicit(
    field: Field,
    z_0: Tensor,
    schedule: Schedule,
    evaluations: int = 20,
    progress: Progress = silent,
    keep: Keep = forget,
) -> Solution:
    """Solve every step by Anderson acceleration from a warm start, with damped forward steps as a fallback.

    The start is where the prediction of the previous step leads. Most steps are solved within a few evaluations;
    the limit matters for those near z_0 where the network changes fast.

    Args:
        field: the network.
        z_0: (B, ...) latents.
        schedule: the sampler's.
        evaluations: of the network, at most, for every step and sample, ≥ 1.
        progress: called after every step.
        keep: given z after every step.

    Returns:
        A :class:`Solution`: ``residual`` and ``merit`` are the largest residual of any step, RMS of T; ``history``
        (steps, B) has that of every step, that next to z_0 first.
    """
    z, parts = z_0, []
    f: Tensor | None = None
    for k, (t, s) in enumerate(reversed(schedule.steps), 1):
        p, q = invertible(schedule.kind, t, s)
        start = z if f is None else (z - q * f) / p
        part = solve_step(step_residual(field, t.t, p, q, z), start, evaluations)
        if q:
            f = (z - p * part.value) / q
        z = part.value
        parts.append(part)
        keep(z)
        progress(k, len(schedule.steps))
    return joined(z, parts)


def solve_step(residual: Residual, start: Tensor, evaluations: int) -> Solution:
    """One step within a budget of evaluations; what Anderson leaves goes to the fallback where that is needed.

    Anderson gives up when three evaluations brought nothing, as they do at the precision of a 16-bit network. The
    fallback is for samples that it left above half the residual of the start.
    """
    part = anderson(residual, start, Stop(evaluations - 1, TOLERANCE, patience=3), memory=MEMORY)
    left = evaluations - part.evaluations
    bad = ~(part.merit <= 0.5 * part.history[0]) & (part.merit > 1e3 * TOLERANCE) & (left >= 2)
    if not bool(bad.any()):
        return part
    value, merit, counts = part.value.clone(), part.merit.clone(), part.evaluations.clone()
    for budget in left[bad].unique().tolist():
        chosen = (bad & (left == budget)).nonzero()[:, 0]

        def of_chosen(z: Tensor, rows: Tensor, chosen: Tensor = chosen) -> tuple[Tensor, Tensor]:
            return residual(z, chosen[rows])

        again = forward_step(of_chosen, part.value[chosen], Stop(budget - 1, TOLERANCE), step_size=0.5)
        value[chosen], merit[chosen] = again.value, again.merit
        counts[chosen] += again.evaluations
    return replace(part, value=value, residual=merit, merit=merit, evaluations=counts, converged=merit <= TOLERANCE)


def backward_euler(
    field: Field,
    z_0: Tensor,
    schedule: Schedule,
    evaluations: int = 50,
    progress: Progress = silent,
    keep: Keep = forget,
) -> Solution:
    """Exact inversion as published: Hong et al. 2023, Algorithm 1, https://arxiv.org/abs/2311.18387.

    Every step by y ← y − ρ (P y + Q f(y, t) − z_s) from y = naive inversion, with ρ = ½ after a linear warm-up of
    20 evaluations, halved when more than 20 evaluations brought nothing, until the summed squared error is below
    10⁻³. What counts is a relative improvement of that error by 10⁻⁴, as of PyTorch's ReduceLROnPlateau.

    Arguments and result are those of :func:`implicit`, but that the residual is one of z_s, not divided by P, and
    that at least two evaluations a step are made.
    """
    z, rows = z_0, all_rows(z_0)
    parts = []
    tolerance = (1e-3 / z_0[0].numel()) ** 0.5
    for k, (t, s) in enumerate(reversed(schedule.steps), 1):
        p, q = invertible(schedule.kind, t, s)
        start = (z - q * field(z, t.t, rows)) / p
        residual = step_residual(field, t.t, p, q, z, scale=p)
        part = solve(residual, start, plateau_step, Stop(max(evaluations - 2, 0), tolerance))
        parts.append(replace(part, evaluations=part.evaluations + 1))
        z = part.value
        keep(z)
        progress(k, len(schedule.steps))
    return joined(z, parts)


def plateau_step(k: int, y: Tensor, t: Tensor, error: Tensor, state: State) -> tuple[Tensor, State]:
    """The update y ← y − ρ T with the published rates, each sample with its own."""
    merit = rms(error)
    none = torch.full_like(merit, torch.inf)
    rate, best, waited = state if state else (torch.full_like(merit, 0.5), none, torch.zeros_like(merit))
    better = merit < best * (1 - 1e-4) ** 0.5
    best, waited = torch.where(better, merit, best), torch.where(better, 0.0, waited + 1)
    stuck = waited > 20
    rate, waited = torch.where(stuck, rate / 2, rate), torch.where(stuck, 0.0, waited)
    warm = min((k + 1) / 20, 1.0)
    return y - (warm * rate).reshape(-1, *[1] * (y.ndim - 1)) * t, (rate, best, waited)


def joined(z: Tensor, parts: list[Solution]) -> Solution:
    """All steps in one: the largest residual of any, the sum of evaluations, NaN where a step went wrong."""
    history = torch.stack([p.merit for p in parts])
    worst = history.amax(0)
    sound = torch.isfinite(worst).reshape(-1, *[1] * (z.ndim - 1))
    return Solution(
        value=torch.where(sound, z, torch.nan),
        residual=worst,
        merit=worst,
        evaluations=torch.stack([p.evaluations for p in parts]).sum(0),
        converged=torch.stack([p.converged for p in parts]).all(0),
        history=history,
    )

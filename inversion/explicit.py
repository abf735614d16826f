"""DDIM sampling, and the inversions that take one evaluation of the network a step.

A sampling step is z_s = P z_t + Q f(z_t, t), see :mod:`inversion.schedule`, with the field f of
:mod:`inversion.fields`. Its inverse, z_t = (z_s − Q f(z_t, t)) / P, needs f where z_t is not known yet.
"""

from __future__ import annotations

from torch import Tensor

from inversion.fields import Field, Keep, Progress, all_rows, forget, silent
from inversion.schedule import Level, Schedule, coefficients, position


def ddim_sample(
    field: Field, z_T: Tensor, schedule: Schedule, progress: Progress = silent, keep: Keep = forget
) -> Tensor:
    """From z at the first level (B, ...) to z_0 (B, ...): DDIM, and Euler's method for flows."""
    z, rows = z_T, all_rows(z_T)
    for k, (t, s) in enumerate(schedule.steps, 1):
        p, q = coefficients(schedule.kind, t, s)
        z = p * z + q * field(z, t.t, rows)
        keep(z)
        progress(k, len(schedule.steps))
    return z


def naive(
    field: Field, z_0: Tensor, schedule: Schedule, progress: Progress = silent, keep: Keep = forget
) -> Tensor:
    """Naive DDIM inversion that takes f(z_s, s): the cleaner latent at its own time.

    Each step is DDIM the other way, from s to t; the usual "DDIM inversion" of https://arxiv.org/abs/2105.05233.
    Where the network predicts z_0, its prediction from z_0 says nothing about ε: the first step then only scales.
    """
    z, rows = z_0, all_rows(z_0)
    for k, (t, s) in enumerate(reversed(schedule.steps), 1):
        if schedule.kind == "sample" and s.sigma == 0:
            z = t.alpha / s.alpha * z
        else:
            p, q = coefficients(schedule.kind, s, t)
            z = p * z + q * field(z, s.t, rows)
        keep(z)
        progress(k, len(schedule.steps))
    return z


def naive_next(
    field: Field, z_0: Tensor, schedule: Schedule, progress: Progress = silent, keep: Keep = forget
) -> Tensor:
    """Naive DDIM inversion that takes f(z_s, t): the cleaner latent at the noisier time, as Hong et al. 2024 do.

    Held fixed over the step is what the network predicts: of a model that predicts ε that is ε, as in their code,
    of one that predicts v it is v, where code that works out ε = σ z + α v first would hold that.
    """
    z, rows = z_0, all_rows(z_0)
    for k, (t, s) in enumerate(reversed(schedule.steps), 1):
        p, q = invertible(schedule.kind, t, s)
        z = (z - q * field(z, t.t, rows)) / p
        keep(z)
        progress(k, len(schedule.steps))
    return z


def warm_start(
    field: Field, z_0: Tensor, schedule: Schedule, progress: Progress = silent, keep: Keep = forget
) -> Tensor:
    """Like :func:`naive_next`, at a guess of z_t instead of z_s: where the previous prediction would lead."""
    z, rows, f = z_0, all_rows(z_0), None
    for k, (t, s) in enumerate(reversed(schedule.steps), 1):
        p, q = invertible(schedule.kind, t, s)
        guess = z if f is None else (z - q * f) / p
        f = field(guess, t.t, rows)
        z = (z - q * f) / p
        keep(z)
        progress(k, len(schedule.steps))
    return z


def midpoint(
    field: Field, z_0: Tensor, schedule: Schedule, progress: Progress = silent, keep: Keep = forget
) -> Tensor:
    """The midpoint rule with the half step taken along the previous velocity, so one evaluation a step.

    FireFlow, https://arxiv.org/abs/2412.07517, for flows; here also for diffusions, whose ODE is dz/dφ = v in the
    angle φ = arctan σ/α. It follows the ODE to second order and does not undo the sampler's own error.
    """
    z, rows, v = z_0, all_rows(z_0), None
    for k, (t, s) in enumerate(reversed(schedule.steps), 1):
        half = schedule.between(s, t)
        start, middle, end = (position(schedule.kind, level) for level in (s, half, t))
        at, z_half = half, z
        if v is not None:
            z_half = z + (middle - start) * v
        elif s.sigma > 0 or schedule.kind != "sample":
            at = s
        v = velocity(schedule.kind, at, z_half, field(z_half, at.t, rows))
        z = z + (end - start) * v
        keep(z)
        progress(k, len(schedule.steps))
    return z


def velocity(kind: str, at: Level, z: Tensor, f: Tensor) -> Tensor:
    """How z moves along :func:`inversion.schedule.position`, from what the network predicts."""
    if kind == "epsilon":
        return (f - at.sigma * z) / at.alpha
    return (at.alpha * z - f) / at.sigma if kind == "sample" else f


def invertible(kind: str, t: Level, s: Level) -> tuple[float, float]:
    """P and Q of the sampling step t → s, or a ValueError if it cannot be divided by P."""
    p, q = coefficients(kind, t, s)
    return divisible(p), q


def divisible(p: float) -> float:
    """P, or a ValueError if it is zero, so that z_s depends on z_t through the network alone."""
    if abs(p) < 1e-6:
        raise ValueError(
            "the sampler's step returns the network's prediction of z_0 alone, so that it cannot be undone: only "
            "methods 'naive', 'midpoint' and 'shooting' go back over it"
        )
    return p

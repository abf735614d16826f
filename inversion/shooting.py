"""Exact inversion of any deterministic sampler as a whole: find z_T with S(z_T) = z_0.

What the encoder is to the decoder, naive inversion I is to the sampler S: cheap, and nearly its inverse. So

    T(z) = I(S(z)) − I(z_0),

solved by Anderson acceleration that mixes by the error S(z) − z_0, is decoder inversion once more, with forward
passes only (Hong et al. 2024, https://arxiv.org/abs/2409.18442). Unlike inversion step by step it needs nothing of
the sampler but its output, so that it also inverts samplers with a memory, such as DPM-Solver++(2M).
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from inversion.anderson import anderson
from inversion.explicit import naive
from inversion.fields import Field, Keep, Progress, forget, silent
from inversion.schedule import Schedule
from inversion.solvers import Solution, Stop

Sampler = Callable[[Field, Tensor, Schedule, Progress, Keep], Tensor]


def shooting(
    sampler: Sampler,
    field: Field,
    z_0: Tensor,
    schedule: Schedule,
    iterations: int = 3,
    progress: Progress = silent,
) -> Solution:
    """Find z_T with S(z_T) = z_0.

    Args:
        sampler: S, e.g. :func:`inversion.dpm_solver.dpm_sample`.
        field: the network.
        z_0: (B, ...) latents.
        schedule: the sampler's.
        iterations: each samples and inverts once, 2 evaluations of the network a step; the start costs 3.
        progress: called after every iteration.

    Returns:
        A :class:`Solution` whose ``merit`` is the error of z_0, RMS; ``evaluations`` counts samplings.
    """
    b = naive(field, z_0, schedule)
    done = 0

    def residual(z: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        nonlocal done

        def of_rows(z: Tensor, t: float, r: Tensor) -> Tensor:
            return field(z, t, rows[r])

        found = sampler(of_rows, z, schedule, silent, forget)
        t = naive(of_rows, found, schedule) - b[rows]
        done += 1
        progress(done, iterations + 1)
        return t, found - z_0[rows]

    return anderson(residual, b, Stop(iterations, tolerance=1e-5))

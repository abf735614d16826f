"""Solvers of T(z) = 0 that never differentiate T.

Every solver has the same contract. It takes ``residual(z, rows)``, which maps iterates z (n, ...) of the samples
with the given row numbers (n,) to T(z) (n, ...) and to a merit (n,) that says how bad each iterate is (for
decoder inversion: the distance between pictures). It returns a :class:`Solution` that holds, sample by sample,
the iterate of the lowest merit, the start included: where T is not cocoercive, the iterates may run away, and what
is returned is then no worse than the start. Not converging is data, not an error.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Residual = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
Callback = Callable[[int, int], None]


@dataclass(frozen=True)
class Solution:
    """What a solver found.

    Attributes:
        value: (B, ...) the best iterate of every sample.
        residual: (B,) root mean square of T there.
        merit: (B,) merit there; for decoder inversion the RMS pixel error of D(z), pictures being in [-1, 1].
        evaluations: (B,) int64, how often T was evaluated for the sample.
        converged: (B,) bool, whether the merit came down to the tolerance.
    """

    value: Tensor
    residual: Tensor
    merit: Tensor
    evaluations: Tensor
    converged: Tensor


def rms(a: Tensor) -> Tensor:
    """Root mean square of every sample: (B, ...) → (B,)."""
    return a.flatten(1).square().mean(1).sqrt()


def forward_step(
    residual: Residual,
    z0: Tensor,
    *,
    step_size: float = 1.0,
    steps: int = 10,
    tolerance: float = 0.0,
    callback: Callback | None = None,
) -> Solution:
    """Forward step method, z ← z − ρ T(z) (Hong et al. 2024, Theorem 1, https://arxiv.org/abs/2409.18442).

    Converges for 0 < ρ < 2β where T is β-cocoercive along the path. A sample whose merit is at most
    ``tolerance`` leaves the batch.

    Args:
        residual: see the module; T is evaluated ``steps + 1`` times at most, the start included.
        z0: (B, ...) starting points.
        step_size: ρ > 0.
        steps: number of updates, ≥ 0; with 0 the start is returned together with its residual.
        tolerance: merit at which a sample is finished, ≥ 0.
        callback: called after every evaluation with its number and the number of samples still open.

    Raises:
        ValueError: if an argument is out of its range.
    """
    if not step_size > 0:
        raise ValueError(f"step_size must be positive, got {step_size}")
    if steps < 0:
        raise ValueError(f"steps must be at least 0, got {steps}")
    if not tolerance >= 0:
        raise ValueError(f"tolerance must be at least 0, got {tolerance}")
    rows = torch.arange(len(z0), device=z0.device)
    z = z0.clone()
    value = z0.clone()
    best = torch.full((len(z0),), torch.inf, device=z0.device, dtype=z0.dtype)
    best_residual = best.clone()
    evaluations = torch.zeros(len(z0), dtype=torch.int64, device=z0.device)
    for k in range(steps + 1):
        t, merit = residual(z, rows)
        evaluations[rows] += 1
        better = merit < best[rows]
        value[rows[better]] = z[better]
        best[rows[better]] = merit[better]
        best_residual[rows[better]] = rms(t[better])
        still_open = (merit > tolerance) & torch.isfinite(merit)
        z, rows = (z - step_size * t)[still_open], rows[still_open]
        if callback is not None:
            callback(k, len(rows))
        if not len(rows):
            break
    return Solution(value, best_residual, best, evaluations, best <= tolerance)

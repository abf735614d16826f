"""Solvers of T(z) = 0 that never differentiate T.

Every solver has the same contract. It takes ``residual(z, rows)``, which maps iterates z (n, ...) of the samples
with the given row numbers (n,) to T(z) (n, ...), which says where to go, and to an error (n, ...) of any shape,
whose root mean square, the *merit*, says how bad each iterate is; for decoder inversion it is D(z) − x, in pixels.
A problem without such an error passes T twice. A solver returns a :class:`Solution` that holds, sample by sample,
the iterate of the lowest merit, the start included: where T is not cocoercive, iterates may run away, and what is
returned is then no worse than the start. Samples never influence each other, and those that are finished leave the
batch. Not converging is data, not an error; an argument out of its range is a ValueError that names it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Residual = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Iterate:
    """One evaluation of T, as callbacks see it.

    Attributes:
        number: of the evaluation, 0 for the start.
        rows: (n,) the samples that were still open.
        z: (n, ...) where T was evaluated.
        t: (n, ...) T(z).
        merit: (n,) merit of z.
    """

    number: int
    rows: Tensor
    z: Tensor
    t: Tensor
    merit: Tensor


Callback = Callable[[Iterate], None]


@dataclass(frozen=True)
class Solution:
    """What a solver found.

    Attributes:
        value: (B, ...) the best iterate of every sample.
        residual: (B,) root mean square of T there.
        merit: (B,) merit there; for decoder inversion the RMS pixel error of D(z), pictures being in [-1, 1].
            Infinite if no iterate was finite.
        evaluations: (B,) int64, how often T was evaluated for the sample.
        converged: (B,) bool, whether the merit came down to the tolerance.
        history: (iterates, B) merit of every iterate, NaN once a sample has left the batch.
    """

    value: Tensor
    residual: Tensor
    merit: Tensor
    evaluations: Tensor
    converged: Tensor
    history: Tensor


@dataclass(frozen=True)
class Stop:
    """When a sample leaves the batch.

    Args:
        steps: at most this many updates, so at most ``steps + 1`` evaluations, the start included.
        tolerance: as soon as its merit is at most this.
        patience: once its best merit has not improved by the fraction ``gain`` in this many evaluations; 0 never.
        gain: see ``patience``.
    """

    steps: int
    tolerance: float = 0.0
    patience: int = 0
    gain: float = 0.02

    def __post_init__(self) -> None:
        for name in ("steps", "tolerance", "patience"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")
        if not 0 <= self.gain < 1:
            raise ValueError(f"gain must be at least 0 and below 1, got {self.gain}")


State = tuple[Tensor, ...]
Update = Callable[[int, Tensor, Tensor, Tensor, State], tuple[Tensor, State]]
"""(k, z, T(z), error, state) → the next z and state; every tensor of the state has the samples in front."""


def rms(a: Tensor) -> Tensor:
    """Root mean square of every sample: (B, ...) → (B,)."""
    return a.flatten(1).square().mean(1).sqrt()


def solve(residual: Residual, z0: Tensor, update: Update, stop: Stop, callback: Callback | None = None) -> Solution:
    """Evaluate, keep the best, drop what is finished, update; what all solvers share."""
    rows = torch.arange(len(z0), device=z0.device)
    z, value = z0, z0.clone()
    state: State = ()
    best = torch.full((len(z0),), torch.inf, device=z0.device, dtype=z0.dtype)
    best_residual, reference = best.clone(), best.clone()
    evaluations = torch.zeros(len(z0), dtype=torch.int64, device=z0.device)
    waited = evaluations.clone()
    history = []
    for k in range(stop.steps + 1):
        t, error = residual(z, rows)
        merit = rms(error)
        evaluations[rows] += 1
        history.append(torch.full_like(best, torch.nan).index_copy(0, rows, merit.to(best.dtype)))
        better = merit < best[rows]
        value[rows[better]] = z[better]
        best[rows[better]] = merit[better].to(best.dtype)
        best_residual[rows[better]] = rms(t[better]).to(best.dtype)
        gained = best[rows] < (1 - stop.gain) * reference[rows]
        reference[rows] = torch.where(gained, best[rows], reference[rows])
        waited[rows] = torch.where(gained, 0, waited[rows] + 1)
        if callback is not None:
            callback(Iterate(k, rows, z, t, merit))
        going = (merit > stop.tolerance) & torch.isfinite(merit) & torch.isfinite(rms(t))
        if stop.patience:
            going &= waited[rows] < stop.patience
        if not bool(going.any()) or k == stop.steps:
            break
        if not bool(going.all()):
            rows, z, t, error = rows[going], z[going], t[going], error[going]
            state = tuple(a[going] for a in state)
        z, state = update(k, z, t, error, state)
        del t, error  # pictures, for decoder inversion: not to be held while the next one is decoded
    return Solution(value, best_residual, best, evaluations, best <= stop.tolerance, torch.stack(history))


def forward_step(
    residual: Residual, z0: Tensor, stop: Stop, *, step_size: float = 1.0, callback: Callback | None = None
) -> Solution:
    """Forward step method, z ← z − ρ T(z) (Hong et al. 2024, Theorem 1, https://arxiv.org/abs/2409.18442).

    Converges for 0 < ρ < 2β where T is β-cocoercive along the path.

    Args:
        residual: see the module.
        z0: (B, ...) starting points.
        stop: when to stop.
        step_size: ρ > 0.
        callback: called after every evaluation.
    """
    if not step_size > 0:
        raise ValueError(f"step_size must be positive, got {step_size}")
    return solve(residual, z0, lambda k, z, t, error, state: (z - step_size * t, state), stop, callback)


def inertial_km(
    residual: Residual,
    z0: Tensor,
    stop: Stop,
    *,
    inertia: float = 0.9,
    step_size: float | None = None,
    beta: float = 0.5,
    callback: Callback | None = None,
) -> Solution:
    """Inertial Krasnoselskii–Mann, y = z_k + α (z_k − z_{k−1}), z_{k+1} = y − 2λβ T(y).

    Hong et al. 2024, Theorem 2, https://arxiv.org/abs/2409.18442: guaranteed where T is β-cocoercive and
    λ (1 − α + 2α²) < (1 − α)². The iterates evaluated, and so returned, are the points y.

    Args:
        residual: see the module.
        z0: (B, ...) starting points.
        stop: when to stop.
        inertia: 0 ≤ α < 1. The paper uses .9, which forces steps of 2λβ < .0058 for β = ½.
        step_size: ρ = 2λβ > 0; None takes 99 % of what the condition allows.
        beta: the cocoercivity β > 0 that is assumed.
        callback: called after every evaluation.

    Raises:
        ValueError: also if α, ρ and β violate the condition.
    """
    if not 0 <= inertia < 1:
        raise ValueError(f"inertia must be at least 0 and below 1, got {inertia}")
    if not beta > 0:
        raise ValueError(f"beta must be positive, got {beta}")
    bound = 2 * beta * (1 - inertia) ** 2 / (1 - inertia + 2 * inertia**2)
    rho = 0.99 * bound if step_size is None else step_size
    if not 0 < rho < bound:
        raise ValueError(
            f"step_size must be positive and below 2β(1 − α)²/(1 − α + 2α²) = {bound:.4g} for inertia {inertia} "
            f"and beta {beta} (Theorem 2), got {rho}"
        )

    def update(k: int, y: Tensor, t: Tensor, error: Tensor, state: State) -> tuple[Tensor, State]:
        z = y - rho * t
        (before,) = state if state else (y,)
        return z + inertia * (z - before), (z,)

    return solve(residual, z0, update, stop, callback)


def adam_rate(k: int, steps: int, peak: float, *, frozen: bool = True) -> float:
    """The published schedules of :func:`adam`: warm-up over a tenth of the iterations, then a cosine.

    That of the gradient-free method counts N' = min(steps, 100) iterations, and those from .8 N' on keep the last
    rate before. That of gradient descent falls to zero over all of them; the original's first rate, zero, is left
    out because it would waste an iteration.
    """
    total = min(steps, 100) if frozen else steps
    warm = total // 10
    k = min(k, math.ceil(0.8 * total) - 1) if frozen else k
    return peak * (k + 1) / warm if k < warm else peak * (1 + math.cos(math.pi * (k - warm) / (total - warm))) / 2


def adam(
    residual: Residual,
    z0: Tensor,
    stop: Stop,
    *,
    learning_rate: float = 0.01,
    scheduled: bool = True,
    frozen: bool = True,
    eps: float = 1e-8,
    callback: Callback | None = None,
) -> Solution:
    """Adam with T(z) in place of a gradient, as in the code of Hong et al. 2024 (https://arxiv.org/abs/2409.18442).

    β = (.9, .999), bias-corrected. Each coordinate travels about the sum of the rates or less, so the rate is
    multiplied by the root mean square of every sample's start, unless that is zero: it has the same meaning at any
    scale of the latents.

    Args:
        residual: see the module.
        z0: (B, ...) starting points.
        stop: when to stop.
        learning_rate: the highest rate, relative to the root mean square of the start.
        scheduled: warm-up and cosine, see :func:`adam_rate`, or the same rate throughout.
        frozen: which of the two schedules.
        eps: added to the denominator; the paper's code has 1e-8, and 1e-4 for 16-bit networks.
        callback: called after every evaluation.
    """
    if not learning_rate > 0:
        raise ValueError(f"learning_rate must be positive, got {learning_rate}")

    def update(k: int, z: Tensor, t: Tensor, error: Tensor, state: State) -> tuple[Tensor, State]:
        if not state:
            scale = rms(z).reshape(-1, *[1] * (z.ndim - 1))
            scale = torch.where(scale > 0, scale, 1.0)
            state = (torch.zeros_like(z), torch.zeros_like(z), scale)
        m, v, scale = state
        m, v = 0.9 * m + 0.1 * t, 0.999 * v + 0.001 * t.square()
        rate = adam_rate(k, stop.steps, learning_rate, frozen=frozen) if scheduled else learning_rate
        direction = m / (1 - 0.9 ** (k + 1)) / ((v / (1 - 0.999 ** (k + 1))).sqrt() + eps)
        return z - rate * scale * direction, (m, v, scale)

    return solve(residual, z0, update, stop, callback)

"""Does the theory apply? Cocoercivity along the path that a solver took.

The forward step method converges for 0 < ρ < 2β if ⟨T(z*) − T(z_k), z* − z_k⟩ ≥ β ‖T(z*) − T(z_k)‖² for all k
(Hong et al. 2024, Theorem 1, https://arxiv.org/abs/2409.18442). Here z* is the last point of a path.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from inversion.solvers import Iterate, rms


@dataclass(frozen=True)
class Cocoercivity:
    """What a path says about T.

    Attributes:
        beta: (B,) the largest β that the path is consistent with: the minimum of ⟨ΔT, Δz⟩ / ‖ΔT‖² over k against
            the last point. Negative where T is not even monotone along the path.
        local: (K − 1, B) the same ratio between neighbouring points of the path.
        distance: (B,) ‖z_k − z*‖ at the last k that was compared with z*.
    """

    beta: Tensor
    local: Tensor
    distance: Tensor

    def allows(self, step_size: float) -> Tensor:
        """(B,) bool: whether 0 < ρ < 2β, so that Theorem 1 promises convergence."""
        return (2 * self.beta > step_size) & (step_size > 0)


class Path:
    """Collects what one solver evaluates: pass it as the ``callback``. No sample may leave the batch on the way."""

    def __init__(self) -> None:
        self.z: list[Tensor] = []
        self.t: list[Tensor] = []

    def __call__(self, iterate: Iterate) -> None:
        """Keep one evaluation."""
        if iterate.number != len(self.z):
            raise ValueError("this is the path of another solver, or of another chunk of samples")
        if self.z and len(iterate.z) != len(self.z[0]):
            raise ValueError("a sample left the batch; solve with tolerance=0 and patience=0 for diagnostics")
        self.z.append(iterate.z.detach().clone())
        self.t.append(iterate.t.detach().clone())


def cocoercivity(path: Path, *, compare: int | None = None, step_size: float | None = None) -> Cocoercivity:
    """Estimate the cocoercivity of T along a path (the paper's Figs. 2 and 4).

    Args:
        path: of at least two points; its last is taken for the solution z*.
        compare: z⁰ … z^compare are compared with the last, as in the paper (k ≤ 100 of 300); None is all.
        step_size: if given, a warning tells when 2β is below it for some sample.

    Raises:
        ValueError: if the path or ``compare`` is too short.
    """
    if len(path.z) < 2:
        raise ValueError(f"path must have at least 2 points, got {len(path.z)}")
    last = len(path.z) - 2 if compare is None else compare
    if not 0 <= last <= len(path.z) - 2:
        raise ValueError(f"compare must be between 0 and {len(path.z) - 2}, got {compare}")

    beta = torch.stack([ratio(path.z[-1] - path.z[k], path.t[-1] - path.t[k]) for k in range(last + 1)])
    local = torch.stack(
        [ratio(path.z[k + 1] - path.z[k], path.t[k + 1] - path.t[k]) for k in range(len(path.z) - 1)]
    )
    size = path.z[0][0].numel() ** 0.5
    found = Cocoercivity(beta.amin(0), local, rms(path.z[-1] - path.z[last]) * size)
    if step_size is not None and not bool(found.allows(step_size).all()):
        outside = int((~found.allows(step_size)).sum())
        warnings.warn(
            f"T is not cocoercive enough for a step of {step_size} along {outside} of {len(found.beta)} paths "
            f"(smallest β {float(found.beta.min()):.3g}): Theorem 1 does not promise convergence there",
            stacklevel=2,
        )
    return found


def ratio(dz: Tensor, dt: Tensor) -> Tensor:
    """⟨ΔT, Δz⟩ / ‖ΔT‖² of every sample; infinite where T did not change, NaN where it is not finite."""
    product = (dz * dt).flatten(1).double().sum(1)
    square = dt.flatten(1).double().square().sum(1)
    return torch.where(square == 0, torch.inf, product / square)

"""How far E∘D is from the identity near a latent: extremes of its Jacobian J, without ever forming it.

Decoder inversion by forward steps z ← z − ρ (E(D(z)) − E(x)) contracts near a solution if ‖I − ρ J‖ < 1, and is
promised to converge if J is monotone: no negative eigenvalue of its symmetric part.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

Map = Callable[[Tensor], Tensor]
"""Latents (B, C, h, w) → latents like them, each sample on its own."""


def jacobian(f: Map, z: Tensor) -> tuple[Map, Map]:
    """V → J v and w → Jᵀ w at z (B, C, h, w), by forward and by backward differentiation."""
    backward = torch.func.vjp(f, z)[1]

    def forward(v: Tensor) -> Tensor:
        with sdpa_kernel(SDPBackend.MATH):  # the others have no forward derivative
            product: Tensor = torch.func.jvp(f, (z,), (v,))[1]
        return product.detach()

    return forward, lambda w: backward(w)[0].detach()


@torch.no_grad()
def lanczos(symmetric: Map, like: Tensor, steps: int, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Smallest and largest Ritz value (B,) of a symmetric linear map, of every sample.

    The largest eigenvalue is at least the largest Ritz value, and the smallest at most the smallest. Vectors are
    made orthogonal to all before, twice, so that none comes up again.
    """

    def dot(a: Tensor, b: Tensor) -> Tensor:
        return (a.double() * b.double()).flatten(1).sum(1)

    def times(a: Tensor, s: Tensor) -> Tensor:
        return a * s.to(a.dtype)[:, None, None, None]

    v = torch.randn(like.shape, generator=torch.Generator().manual_seed(seed))
    basis = [times(v, 1 / dot(v, v).sqrt())]
    diagonal, beside = [], []
    for k in range(steps):
        w = symmetric(basis[-1])
        diagonal.append(dot(basis[-1], w))
        for _ in range(2):
            for b in basis:
                w = w - times(b, dot(b, w))
        norm = dot(w, w).sqrt()
        if k + 1 < steps:
            beside.append(norm)
            basis.append(times(w, 1 / norm.clamp(min=1e-12)))
    matrix = torch.diag_embed(torch.stack(diagonal, 1))
    if beside:
        off = torch.diag_embed(torch.stack(beside, 1), offset=1)
        matrix = matrix + off + off.transpose(1, 2)
    values = torch.linalg.eigvalsh(matrix)
    return values[:, 0], values[:, -1]


def extremes(f: Map, z: Tensor, steps: int = 40) -> dict[str, Tensor]:
    """What the Jacobian J of f at z (B, C, h, w) does, each (B,), by so many Lanczos steps.

    ``largest`` and ``smallest singular value`` of J; ``monotone``, the smallest eigenvalue of (J + Jᵀ) / 2; and
    ``distance from identity``, ‖I − J‖, the largest singular value of I − J. The smallest ones are upper bounds,
    the largest ones lower bounds, which more steps bring closer to the truth.
    """
    forward, backward = jacobian(f, z)
    small, large = lanczos(lambda v: backward(forward(v)), z, steps)
    monotone, _ = lanczos(lambda v: (forward(v) + backward(v)) / 2, z, steps)

    def square_of_difference(v: Tensor) -> Tensor:
        d = v - forward(v)
        return d - backward(d)

    _, far = lanczos(square_of_difference, z, steps)
    return {
        "largest singular value": large.clamp(min=0).sqrt(),
        "smallest singular value": small.clamp(min=0).sqrt(),
        "monotone": monotone,
        "distance from identity": far.clamp(min=0).sqrt(),
    }

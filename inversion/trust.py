"""How far to trust a solution of decoder inversion: the way from the encoder's estimate, cut or shortened."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from inversion.solvers import Residual, Solution, rms

EIGHT_BIT = (2 / 255) / 12**0.5
"""RMS of rounding to 8 bits, in pixels on [-1, 1]: no iterate can be told from the truth below it."""

RADIUS = 0.15
"""How far the default may move a latent from the encoder's, RMS over its channels (diffusion latents have unit
variance). Where two latents give nearly the same pixels, the encoder's estimate may lie between them, and the
solver can run to the wrong one."""

DOUBT = 2.0
"""How much weight :func:`shrink` gives to pixel error that remains, chosen on other pictures, and mostly for other
changes, than ``benchmarks/robustness.py`` has. From 1 to 5 it makes little difference."""


def trust(solution: Solution, b: Tensor, residual: Residual, radius: float = RADIUS) -> Solution:
    """Shorten every latent's way from the encoder's estimate b to at most ``radius``, RMS over its channels.

    Needs one more evaluation for the samples that change. Those whose pixel error then is above that of b get b.
    """
    way = solution.value - b
    length = way.square().mean(1, keepdim=True).sqrt()
    rows = (length > radius).flatten(1).any(1).nonzero()[:, 0]
    return moved(solution, b, residual, rows, b + way * (radius / length.clamp(min=radius)))


def shrink(solution: Solution, b: Tensor, residual: Residual) -> Solution:
    """Go back towards the encoder's estimate b, the more so the more of its pixel error remains.

    A picture that a decoder made can be reproduced nearly. One that was changed afterwards cannot, and the solution
    follows the change as far as it can, while the encoder smooths it away. With e the mean squared pixel error of
    the solution and e_b that of b, e / (e_b − e) compares what nothing explains with what the solution explains.
    The way from b becomes λ = 1 / (1 + 2 (e / (e_b − e))²) of what it was: all of it if e is 0, none if nothing is
    gained. Measured in ``benchmarks/robustness.py``.

    Needs one more evaluation of the samples that have not converged. Those whose pixel error then is above that of
    b get b.
    """
    before, after = solution.history[0].square(), solution.merit.square()
    gained = before - after
    share = torch.where(gained > 0, 1 / (1 + DOUBT * (after / gained) ** 2), 0.0)
    share = share.view(-1, *[1] * (b.ndim - 1)).to(b)
    rows = (~solution.converged & torch.isfinite(solution.merit)).nonzero()[:, 0]
    return moved(solution, b, residual, rows, b + share * (solution.value - b))


def moved(solution: Solution, b: Tensor, residual: Residual, rows: Tensor, z: Tensor) -> Solution:
    """The solution with other latents z in some rows, or with b where that reproduces the picture better."""
    if not len(rows):
        return solution
    value, residual_rms, merit = solution.value.clone(), solution.residual.clone(), solution.merit.clone()
    evaluations = solution.evaluations.clone()
    t, error = residual(z[rows], rows)
    value[rows], residual_rms[rows], merit[rows] = z[rows], rms(t), rms(error)
    evaluations[rows] += 1
    worse = rows[~(merit[rows] <= solution.history[0, rows])]
    if len(worse):
        t, error = residual(b[worse], worse)
        value[worse], residual_rms[worse], merit[worse] = b[worse], rms(t), rms(error)
        evaluations[worse] += 1
    return replace(
        solution,
        value=value,
        residual=residual_rms,
        merit=merit,
        evaluations=evaluations,
        converged=merit <= 1.05 * EIGHT_BIT,
    )

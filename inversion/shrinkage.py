"""Decoder inversion shrunk towards the encoder's estimate, and the pixel error that cannot be told from none."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from inversion.solvers import Residual, Solution, rms

EIGHT_BIT = (2 / 255) / 12**0.5
"""RMS of rounding to 8 bits, in pixels on [-1, 1]: below it no iterate can be told from the truth. Where many
pixels are clamped, which are exact in 8 bits, the truth itself is below."""

TOLERANCE = 1.05 * EIGHT_BIT
"""Pixel error at which an iterate counts as the truth."""

DOUBT = 0.4
"""c of :func:`shrink`, chosen in trials on pictures of Sapling and changes of them; ``benchmarks/robustness.py``
measures it on others, of the same prompts. For its first weights it was 0.7, chosen likewise."""


def shrink(solution: Solution, b: Tensor, residual: Residual) -> Solution:
    """Go back towards the encoder's estimate b, the more so the more of its pixel error remains.

    A picture that a decoder made can be reproduced nearly. One that was changed afterwards often cannot, and the
    solution follows the change as far as the decoder can, while the encoder smooths some of it away. With the mean
    squared pixel error e_b at b and e at the solution z, the result is b + λ (z − b) with λ = max(0, 1 − c e /
    (e_b − e)). Samples that have converged stay as they are, λ = 1.

    That has the form of the estimator of James and Stein, its positive part: e_b − e is what the way explains of
    the picture, and c e an estimate of how much of that is the change and not the encoder's bias. c is chosen, not
    derived: the best one depends on the change, and is smaller for what decoders cannot make, as white noise.

    Needs one more evaluation of the samples that have not converged and are not at b, and a second of those whose
    pixel error then is above that of b: these get b. Samples are those of solvers, (B,), not videos by frame.
    """
    before, after = solution.history[0].square(), solution.merit.square()
    gained = before - after
    share = torch.where(gained > 0, (1 - DOUBT * after / gained).clamp(min=0), 0.0)
    share = share.view(-1, *[1] * (b.ndim - 1)).to(b)
    elsewhere = (solution.value != b).flatten(1).any(1)
    rows = (elsewhere & ~solution.converged & torch.isfinite(solution.merit)).nonzero()[:, 0]
    return moved(solution, b, residual, rows, b + share * (solution.value - b))


def moved(solution: Solution, b: Tensor, residual: Residual, rows: Tensor, z: Tensor) -> Solution:
    """The solution with other latents z in some rows, or with b where that reproduces the picture better."""
    if not len(rows):
        return solution
    value, residual_rms, merit = solution.value.clone(), solution.residual.clone(), solution.merit.clone()
    evaluations, converged = solution.evaluations.clone(), solution.converged.clone()
    t, error = residual(z[rows], rows)
    value[rows], residual_rms[rows], merit[rows] = z[rows], rms(t), rms(error)
    evaluations[rows] += 1
    worse = rows[~(merit[rows] <= solution.history[0, rows])]
    if len(worse):
        t, error = residual(b[worse], worse)
        value[worse], residual_rms[worse], merit[worse] = b[worse], rms(t), rms(error)
        evaluations[worse] += 1
    converged[rows] = merit[rows] <= TOLERANCE
    return replace(
        solution,
        value=value,
        residual=residual_rms,
        merit=merit,
        evaluations=evaluations,
        converged=converged,
    )

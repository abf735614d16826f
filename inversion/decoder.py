"""Decoder inversion: the latent z with D(z) = x, without differentiating the decoder.

The encoder is not the inverse of the decoder. Hong et al. 2024 (https://arxiv.org/abs/2409.18442) solve
E(D(z)) = E(x) instead, by T(z) = E(D(z)) − E(x), starting from z = E(x). The pixel error ‖D(z) − x‖ comes free
with every evaluation of T and decides which iterate is returned.
"""

from __future__ import annotations

import math

from torch import Tensor

from inversion.autoencoder import Autoencoder
from inversion.solvers import Callback, Residual, Solution, forward_step, rms

EIGHT_BIT = (2 / 255) / math.sqrt(12)
"""RMS of rounding to 8 bits, in pixels on [-1, 1]: no iterate can be told from the truth below it."""


def decoder_residual(autoencoder: Autoencoder, x: Tensor) -> tuple[Tensor, Residual]:
    """E(x), and T(z) = E(D(z)) − E(x) with the RMS pixel error of D(z) as its merit."""
    b = autoencoder.encode(x)

    def residual(z: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        y = autoencoder.decode(z)
        return autoencoder.encode(y) - b[rows], rms(y - x[rows])

    return b, residual


def invert_decoder(
    autoencoder: Autoencoder,
    x: Tensor,
    *,
    method: str = "forward_step",
    steps: int = 10,
    step_size: float = 0.5,
    callback: Callback | None = None,
) -> Solution:
    """Find latents z whose decoding is x.

    Args:
        autoencoder: E and D.
        x: (B, 3, H, W) float32 pictures in [-1, 1].
        method: ``"forward_step"``, or ``"encoder"`` for z = E(x), the baseline that everybody uses.
        steps: number of updates of the forward step method.
        step_size: its ρ. ρ = 1 is faster where E∘D is near the identity, and diverges more often.
        callback: called after every evaluation of E∘D with its number and the number of samples still open.

    Returns:
        A :class:`Solution`: ``value`` (B, C, h, w) has the lowest pixel error of all iterates, E(x) among them;
        ``merit`` is that error (RMS on [-1, 1]); ``converged`` says that it is down to 8-bit rounding.

    Raises:
        ValueError: if the shape, a value of x or an argument is out of range, or the method is unknown.
    """
    if x.ndim != 4 or x.shape[1] != 3 or any(n % autoencoder.factor for n in x.shape[2:]):
        raise ValueError(
            f"x must have shape (B, 3, H, W) with H and W multiples of {autoencoder.factor}, got {tuple(x.shape)}"
        )
    if not bool((x.abs() <= 1).all()):
        raise ValueError("x must be finite and within [-1, 1]")
    if method not in {"forward_step", "encoder"}:
        raise ValueError(f"method must be 'forward_step' or 'encoder', got {method!r}")
    b, residual = decoder_residual(autoencoder, x)
    steps = 0 if method == "encoder" else steps
    return forward_step(
        residual, b, step_size=step_size, steps=steps, tolerance=1.05 * EIGHT_BIT, callback=callback
    )

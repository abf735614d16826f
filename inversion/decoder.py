"""Decoder inversion: the latent z with D(z) = x, without differentiating the decoder.

The encoder is not the inverse of the decoder. Hong et al. 2024 (https://arxiv.org/abs/2409.18442) solve
E(D(z)) = E(x) instead, by T(z) = E(D(z)) − E(x), starting from z = E(x). The pixel error D(z) − x comes free with
every evaluation of T: it decides which iterate is returned, and the default solver minimises it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from torch import Tensor

from inversion import solvers
from inversion.anderson import anderson
from inversion.autoencoder import Autoencoder
from inversion.chunks import concatenate, in_chunks
from inversion.conventions import unfold_frames
from inversion.gradient import decoder_gradient
from inversion.shrinkage import TOLERANCE, shrink
from inversion.solvers import Callback, Residual, Solution, Stop

STEPS = {
    "anderson": 12,
    "shrinkage": 12,
    "forward_step": 10,
    "inertial_km": 100,
    "adam": 100,
    "gradient": 100,
    "encoder": 0,
}
"""The methods, and how many updates each makes unless told otherwise."""

PATIENCE = 5
"""How many evaluations without gain end ``anderson`` and ``shrinkage``."""

PUBLISHED: dict[str, Callable[..., Solution]] = {
    "forward_step": partial(solvers.forward_step, step_size=0.5),
    "inertial_km": solvers.inertial_km,
    "adam": solvers.adam,
    "gradient": partial(solvers.adam, learning_rate=0.1, frozen=False),
}
"""The solvers of others. Adam and gradient descent have their published rates; the steps of the forward step and KM
are ours."""


def decoder_residual(autoencoder: Autoencoder, x: Tensor) -> tuple[Tensor, Residual]:
    """E(x), and T(z) = E(D(z)) − E(x) together with the pixel error D(z) − x."""
    b = autoencoder.encode(x)
    x = x.detach().to(b)

    def residual(z: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        y = autoencoder.decode(z)
        return autoencoder.encode(y) - b[rows], y - x[rows]

    return b, residual


def invert_decoder(
    autoencoder: Autoencoder,
    x: Tensor,
    *,
    method: str = "anderson",
    steps: int | None = None,
    chunk_size: int = 8,
    callback: Callback | None = None,
) -> Solution:
    """Find latents z whose decoding is x.

    Methods:
    - ``anderson``: Anderson acceleration that mixes by pixel error; the default here, as measured in
      ``benchmarks/decoder_inversion.py``.
    - ``shrinkage``: ``anderson``, then :func:`inversion.shrinkage.shrink`: for pictures that may have been changed
      since they were decoded, where the latent that was decoded is wanted and not one that reproduces the change.
      The default of verification; ``benchmarks/robustness.py`` compares both.
    - ``forward_step`` (ρ = ½) and ``inertial_km`` (α = .9): published methods with steps of our choice.
    - ``adam``: as published (rate .01, frozen from .8 N' on, see :func:`inversion.solvers.adam_rate`) for float32;
      for 16-bit networks the published code has ``eps=1e-4``, which is to be given to the solver itself.
    - ``gradient``: Adam on ‖D(z) − x‖² (rate .1, falling to zero), which back-propagates: slow and memory-hungry.
    - ``encoder``: z = E(x), the baseline that everybody uses; one evaluation of E∘D says how good it is.

    For other parameters, call the solvers of :mod:`inversion.solvers` on :func:`decoder_residual`.

    Args:
        autoencoder: E and D.
        x: (B, 3, H, W) float32 pictures in [-1, 1], or (B, 3, F, H, W) videos. A picture autoencoder takes the
            frames of a video one by one, as AnimateDiff and LaVie do.
        method: see above.
        steps: number of updates, at most; None is 12 for ``anderson`` and ``shrinkage``, 10 for ``forward_step``,
            100 for the others but the encoder, which has none. All end within 5 % of 8-bit rounding,
            ``anderson`` and ``shrinkage`` also once five evaluations brought less than 2 %: a start that gets much
            worse before it gets better needs a solver of its own. ``shrink`` may need one or two evaluations more.
        chunk_size: pictures, frames, or videos of a video autoencoder, that go through the networks together, ≥ 1.
            Memory grows with it, not with B nor, where frames are independent, with F. It is halved when memory
            runs out.
        callback: called after every evaluation that the solver makes, chunk after chunk; its rows count within the
            chunk. A chunk that memory did not suffice for starts again.

    Returns:
        A :class:`Solution`. ``value`` (B, C, [F',] h, w) is the iterate with the lowest pixel error, E(x) among
        them, or what ``shrink`` makes of it: its pixel error is never above that of E(x). ``merit`` is
        the pixel error (RMS on [-1, 1]); ``converged`` says that it is within 5 % of 8-bit rounding. The numbers
        are those of each picture or video, (B,), or of each frame where frames are independent, (B, F); a sample
        that is not finite to begin with has an infinite merit. All lie on the network's device.

    Raises:
        ValueError: if the shape, a value of x or an argument is out of range, or the method is unknown.
    """
    x = x.detach()
    check(autoencoder, x)
    if method not in STEPS:
        raise ValueError(f"method must be one of {', '.join(map(repr, STEPS))}, got {method!r}")
    if chunk_size < 1:
        raise ValueError(f"chunk_size must be at least 1, got {chunk_size}")
    stop = Stop(STEPS[method] if steps is None or method == "encoder" else steps, tolerance=TOLERANCE)
    frames = x.ndim == 5 and autoencoder.frame_factor is None
    samples = [frame for clip in x for frame in clip.unbind(1)] if frames else x

    def solve(chunk: Tensor) -> Solution:
        return solve_chunk(autoencoder, chunk, method, stop, callback)

    solution = concatenate(list(in_chunks(solve, samples, chunk_size)))
    return by_frame(solution, len(x)) if frames else solution


def solve_chunk(
    autoencoder: Autoencoder, x: Tensor, method: str, stop: Stop, callback: Callback | None
) -> Solution:
    """One chunk of samples by one method, with its published or measured parameters."""
    b, residual = (decoder_gradient if method == "gradient" else decoder_residual)(autoencoder, x)
    if method in ("anderson", "shrinkage"):
        solution = anderson(residual, b, replace(stop, patience=PATIENCE), callback=callback)
        return shrink(solution, b, residual) if method == "shrinkage" else solution
    solver = PUBLISHED["forward_step" if method == "encoder" else method]  # of the former no step is made
    return solver(residual, b, stop, callback=callback)


def by_frame(solution: Solution, batch: int) -> Solution:
    """A solution for (B · F) frames as one for B videos."""
    return Solution(
        value=unfold_frames(solution.value, batch).contiguous(),
        residual=solution.residual.unflatten(0, (batch, -1)),
        merit=solution.merit.unflatten(0, (batch, -1)),
        evaluations=solution.evaluations.unflatten(0, (batch, -1)),
        converged=solution.converged.unflatten(0, (batch, -1)),
        history=solution.history.unflatten(1, (batch, -1)),
    )


def check(autoencoder: Autoencoder, x: Tensor) -> None:
    """A ValueError that says why E cannot take x, or nothing."""
    f, n = autoencoder.factor, autoencoder.frame_factor
    shapes = "(B, 3, F, H, W)" if n is not None else "(B, 3, H, W) or (B, 3, F, H, W)"
    if x.ndim not in ((5,) if n is not None else (4, 5)) or x.shape[1] != 3:
        raise ValueError(f"x must have shape {shapes}, got {tuple(x.shape)}")
    if 0 in x.shape or any(side % f for side in x.shape[-2:]):
        raise ValueError(
            f"x must have shape {shapes} with H and W multiples of {f}, and not be empty, got {tuple(x.shape)}"
        )
    step = autoencoder.frame_step or n
    if step is not None and (x.shape[2] - 1) % step:
        raise ValueError(f"x must have 1 + {step} k frames, got {x.shape[2]}")
    if not (float(x.amin()) >= -1 and float(x.amax()) <= 1):  # without a copy; NaN fails both
        raise ValueError("x must be finite and within [-1, 1]")

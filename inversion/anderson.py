"""Anderson acceleration that mixes iterates by an error of the caller's choice, as pixels: the default solver."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from inversion.solvers import Callback, Residual, Solution, State, Stop, solve

SKETCH = 4096
"""Numbers that Anderson keeps of an error: enough for a least-squares problem in a few unknowns."""


def anderson(
    residual: Residual,
    z0: Tensor,
    stop: Stop,
    *,
    memory: int = 8,
    step_size: float = 1.0,
    ridge: float = 1e-9,
    callback: Callback | None = None,
) -> Solution:
    """Anderson acceleration of z ← z − ρ T(z) that mixes past iterates by their error.

    With the columns of S, F and R the last differences of z, T(z) and the error e,

        γ = argmin ‖e − R γ‖² + ridge ‖γ‖²  (columns scaled to one),   z ← z − S γ − ρ (T(z) − F γ).

    Where the error is T itself this is type II, https://arxiv.org/abs/1810.08455. Where it is the pixel error of a
    decoder, the subspace is searched for the best picture, which also holds what T, an encoder's view, cannot see:
    a flexible GMRES with the encoder for a preconditioner. An error of more than twice ``SKETCH`` numbers is summed
    with random signs to about that many, so that the memory costs little beside the network.

    Args:
        residual: see the module.
        z0: (B, ...) starting points.
        stop: when to stop.
        memory: how many differences are kept, ≥ 1.
        step_size: ρ > 0.
        ridge: ≥ 0, keeps γ small where the differences are nearly dependent.
        callback: called after every evaluation.
    """
    if memory < 1:
        raise ValueError(f"memory must be at least 1, got {memory}")
    if not step_size > 0:
        raise ValueError(f"step_size must be positive, got {step_size}")
    if not ridge >= 0:
        raise ValueError(f"ridge must be at least 0, got {ridge}")

    def update(k: int, z: Tensor, t: Tensor, error: Tensor, state: State) -> tuple[Tensor, State]:
        e = sketch(error)
        if not state:
            return z - step_size * t, (z, t, e, z[:, None][:, :0], t[:, None][:, :0], e[:, None][:, :0])
        newest = [(a - b)[:, None] for a, b in zip((z, t, e), state[:3], strict=True)]
        s, f, r = (torch.cat([old, new], 1)[:, -memory:] for old, new in zip(state[3:], newest, strict=True))
        gamma = mixing(r, e, ridge).to(z.dtype).to(z.device).reshape(*r.shape[:2], *[1] * (z.ndim - 1))
        mixed_z, mixed_t = z - (gamma * s).sum(1), t - (gamma * f).sum(1)
        return mixed_z - step_size * mixed_t, (z, t, e, s, f, r)

    return solve(residual, z0, update, stop, callback)


def mixing(r: Tensor, e: Tensor, ridge: float) -> Tensor:
    """γ (n, m) of least squares, e ≈ Σ γ_j r_j, for differences r (n, m, P) and errors e (n, P), in float64.

    The m × m systems are solved on the CPU, whose solver survives dependent differences, and where float64 exists.
    """
    home = torch.device("cpu") if r.device.type == "mps" else r.device
    r, e = r.to(home).double(), e.to(home).double()
    norm = r.norm(dim=-1)
    scale = torch.where(norm > 0, norm, 1.0)
    unit = r / scale[..., None]
    gram = (unit @ unit.mT).cpu() + ridge * torch.eye(r.shape[1], dtype=torch.float64, device="cpu")
    solution = torch.linalg.lstsq(gram, (unit @ e[..., None]).cpu()).solution[..., 0]
    return solution / scale.cpu()


def sketch(error: Tensor) -> Tensor:
    """(n, ...) → (n, about ``SKETCH``): sums of distant pixels with fixed random signs, which keep inner products.

    Pixels about ``SKETCH`` apart go into one sum, so that an error in a small part of a picture fills many sums.
    """
    flat = error.flatten(1)
    group = flat.shape[1] // SKETCH
    if group < 2:
        return flat
    signed = flat * signs(flat.shape[1], flat.device)
    return torch.nn.functional.pad(signed, (0, -flat.shape[1] % group)).unflatten(1, (group, -1)).sum(1)


@lru_cache(maxsize=1)
def signs(length: int, device: torch.device) -> Tensor:
    """±1 at random, int8 (length,), always the same."""
    generator = torch.Generator().manual_seed(0)
    with torch.inference_mode(False):  # it is kept for callers in any mode
        drawn = torch.randint(0, 2, (length,), generator=generator, dtype=torch.int8, device="cpu")
        return (2 * drawn - 1).to(device)

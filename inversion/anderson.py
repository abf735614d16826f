"""Anderson acceleration that looks at the picture: the default solver of decoder inversion."""

from __future__ import annotations

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
        exact = torch.float64 if r.device.type != "mps" else torch.float32
        scale = r.norm(dim=-1).clamp(min=torch.finfo(r.dtype).tiny).to(exact)
        unit = r.to(exact) / scale[..., None]
        gram = unit @ unit.mT + ridge * torch.eye(r.shape[1], dtype=exact, device=r.device)
        gamma = torch.linalg.lstsq(gram, unit @ e.to(exact)[..., None]).solution[..., 0] / scale
        gamma = gamma.to(z.dtype)
        mixed_z = z - torch.einsum("nm,nm...->n...", gamma, s)
        mixed_t = t - torch.einsum("nm,nm...->n...", gamma, f)
        return mixed_z - step_size * mixed_t, (z, t, e, s, f, r)

    return solve(residual, z0, update, stop, callback)


def sketch(error: Tensor) -> Tensor:
    """(n, ...) → (n, about ``SKETCH``): sums of neighbours with fixed random signs, which keep inner products."""
    flat = error.flatten(1)
    group = flat.shape[1] // SKETCH
    if group < 2:
        return flat
    signs = torch.randint(0, 2, (flat.shape[1],), generator=torch.Generator().manual_seed(0))
    signed = flat * (2 * signs - 1).to(flat)
    return torch.nn.functional.pad(signed, (0, -flat.shape[1] % group)).unflatten(1, (-1, group)).sum(-1)

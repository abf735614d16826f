"""How a number that depends on the recovered noise changes with the latent: J^T g of diffusion inversion z_0 → z_T.

Decoder inversion does without gradients because the encoder is nearly the decoder's inverse. The diffusion network
has no such partner: a change of the noise, carried back by sampling, moves the latent along J^-1, which is far
from the smallest change with the wanted effect, J^T; ``benchmarks/marking.py`` measures by how much. So here the
network is differentiated, and the autoencoder is not.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from inversion.chunks import in_chunks
from inversion.explicit import midpoint
from inversion.model import LatentDiffusionModel


def pull_back(
    model: LatentDiffusionModel,
    z_0: Tensor,
    objective: Callable[[Tensor], Tensor],
    *,
    steps: int = 10,
    chunk_size: int = 8,
) -> tuple[Tensor, Tensor]:
    """An objective of the recovered noise, and its gradient with respect to the latents it is recovered from.

    The noise is recovered by ``midpoint`` without a prompt, see :func:`inversion.invert_diffusion`. Every
    evaluation of the network is made again on the way back (https://arxiv.org/abs/1604.06174), so that memory holds
    the graph of one evaluation, and one latent a step.

    Args:
        model: the latent diffusion model; its network must be differentiable.
        z_0: (B, C, [F,] h, w) float32 latents.
        objective: noise (B, C, [F,] h, w) of unit variance → a number for each sample (B,), of that sample alone.
        steps: of the inversion, ≥ 1.
        chunk_size: samples that go through the network together, ≥ 1; halved when memory runs out.

    Returns:
        The objective (B,), and its gradient, like z_0; both on the model's device.

    Raises:
        ValueError: if the shape or steps do not fit the model.
    """
    if chunk_size < 1:
        raise ValueError(f"chunk_size must be at least 1, got {chunk_size}")
    z_0 = model.check_latents(z_0).detach()
    schedule = model.schedule(steps, z_0.shape)
    with torch.no_grad():  # what conditions the network, as a text encoder does, is not differentiated
        field = model.field(None, batch=len(z_0), guidance=1.0)

    def kept_small(z: Tensor, t: float, rows: Tensor) -> Tensor:
        found: Tensor = checkpoint(field, z, t, rows, use_reentrant=False)
        return found

    def solve(rows: Tensor) -> tuple[Tensor, Tensor]:
        with torch.inference_mode(False), torch.enable_grad():
            z = z_0[rows].clone().requires_grad_()
            noise = midpoint(lambda at, t, r: kept_small(at, t, rows[r]), z, schedule) / schedule.start
            value = objective(noise)
            (g,) = torch.autograd.grad(value.sum(), noise)
            # 16-bit networks underflow where gradients are small, so that they get one of unit size
            size = g.flatten(1).square().mean(1).sqrt().clamp(min=1e-30).reshape(-1, *[1] * (g.ndim - 1))
            (gradient,) = torch.autograd.grad(noise, z, g / size)
        return value.detach(), gradient * size

    values, gradients = zip(*in_chunks(solve, torch.arange(len(z_0), device=z_0.device), chunk_size), strict=True)
    return torch.cat(values), torch.cat(gradients)

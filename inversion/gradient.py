"""The gradient of the pixel error through the decoder: the baseline that gradient-free inversion replaces.

It needs back-propagation, hence several times the memory of a forward pass, and its gradients have the precision of
the network: those of float16 may underflow, those of bfloat16 are rough.
"""

from __future__ import annotations

import torch
from torch import Tensor

from inversion.autoencoder import Autoencoder
from inversion.solvers import Residual


def decoder_gradient(autoencoder: Autoencoder, x: Tensor, *, clamp: bool = False) -> tuple[Tensor, Residual]:
    """E(x), and ∇‖D(z) − x‖², a sum over pixels, together with the pixel error of the clamped D(z).

    Adam on it is the gradient-based decoder inversion of Hong et al. 2024 (https://arxiv.org/abs/2409.18442, §5).

    Args:
        autoencoder: must have ``decode_with_grad``. The weights are frozen: only z gets a gradient.
        x: (B, 3, [F,] H, W) float32 in [-1, 1].
        clamp: whether D(z) is clamped to the pixel range within the loss, too. Published methods do not; where a
            picture is saturated, the loss then pulls D(z) back to ±1, away from the truth.

    Raises:
        ValueError: if the autoencoder cannot be differentiated.
    """
    differentiable = autoencoder.decode_with_grad
    if differentiable is None:
        raise ValueError("autoencoder has no decode_with_grad, which gradient descent needs")
    b = autoencoder.encode(x)
    x = x.detach().to(b)

    def residual(z: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        with torch.inference_mode(False), torch.enable_grad():
            z = z.detach().clone().requires_grad_()
            y = differentiable(z)
            inside = y.clamp(-1, 1)
            loss = ((inside if clamp else y) - x[rows]).square().sum()
            (gradient,) = torch.autograd.grad(loss, z)
        return gradient, inside.detach() - x[rows]

    return b, residual

"""Muon for the kernels and matrices inside networks, AdamW for everything else.

Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/) makes every step of a matrix orthogonal. The
kernel of a convolution is the matrix of its output channels against all else. Its steps are as large as AdamW's are
in the root mean square (Liu et al. 2025, https://arxiv.org/abs/2502.16982), so that both take the same rate.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click
import torch
from torch import nn

DECAY = 0.01
"""Of weights, times the rate, in every step."""

OUTER = ("conv_in", "conv_out", "embeddings")
"""Muon is not for the first and last layers, nor for those of words."""


def require_muon() -> None:
    """Raise click.ClickException if PyTorch has no Muon."""
    if not hasattr(torch.optim, "Muon"):
        raise click.ClickException(f"training needs PyTorch 2.9 or newer for its Muon; this is {torch.__version__}")


class MuonAndAdamW:
    """Both optimisers as one.

    Args:
        networks: name → network. Parameters that require no gradient are left alone; the others keep their memory.
        rate: learning rate of both.

    Raises:
        click.ClickException: if PyTorch has no Muon.
    """

    def __init__(self, networks: Mapping[str, nn.Module], rate: float) -> None:
        require_muon()
        self.inner: list[nn.Parameter] = []
        others: list[nn.Parameter] = []
        for network in networks.values():
            for name, parameter in network.named_parameters():
                if parameter.requires_grad:
                    outer = parameter.ndim < 2 or any(part in OUTER for part in name.split("."))
                    (others if outer else self.inner).append(parameter)
        self.matrices = [nn.Parameter(p.detach().view(len(p), -1)) for p in self.inner]
        self.parts: list[torch.optim.Optimizer] = [
            torch.optim.Muon(self.matrices, lr=rate, weight_decay=DECAY, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(others, lr=rate, betas=(0.9, 0.99), weight_decay=DECAY),
        ]

    def step(self, rate: float) -> None:
        """Change the parameters by their gradients, which are taken away."""
        for matrix, parameter in zip(self.matrices, self.inner, strict=True):
            matrix.grad = None if parameter.grad is None else parameter.grad.reshape(len(parameter), -1)
            parameter.grad = None
        for part in self.parts:
            for group in part.param_groups:
                group["lr"] = rate
            part.step()
            part.zero_grad(set_to_none=True)

    def state_dict(self) -> list[dict[str, Any]]:
        """For a checkpoint."""
        return [part.state_dict() for part in self.parts]

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        """From a checkpoint of the same networks."""
        for part, state in zip(self.parts, states, strict=True):
            part.load_state_dict(state)

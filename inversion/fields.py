"""The network as samplers and inversions see it, and what they report on their way."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Field = Callable[[Tensor, float, Tensor], Tensor]
"""Latents z (n, ...) of the samples with the numbers rows (n,), and a time t → the prediction (n, ...), guidance
included."""
Progress = Callable[[int, int], None]
"""Is given the number of steps that are done, and that of all."""
Keep = Callable[[Tensor], None]
"""Is given z at the end of every step, in the order of the steps."""


def silent(done: int, total: int) -> None:
    """A progress callback that does nothing."""


def forget(z: Tensor) -> None:
    """A keep callback that discards z."""


def all_rows(z: Tensor) -> Tensor:
    """The numbers of all samples."""
    return torch.arange(len(z), device=z.device)

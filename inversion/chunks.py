"""Many samples a few at a time, and fewer when memory runs out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from inversion.solvers import Solution

T = TypeVar("T")


def in_chunks(solve: Callable[[Tensor], T], samples: Tensor | list[Tensor], size: int) -> Iterator[T]:
    """Solve samples ``size`` at a time; a chunk that memory does not suffice for is halved, and so are the next."""
    start = 0
    while start < len(samples):
        solution = None
        try:
            chunk = samples[start : start + size]
            solution = solve(torch.stack(chunk) if isinstance(chunk, list) else chunk)
        except (RuntimeError, MemoryError) as error:
            smaller = min(size, len(samples) - start) // 2
            if smaller == 0 or not out_of_memory(error):
                raise
        if solution is not None:
            yield solution
            start += size
        else:
            size = smaller
            if torch.cuda.is_available():  # here, because above the error still holds tensors
                torch.cuda.empty_cache()


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out: on a GPU, on Apple's, or in PyTorch's allocator for the CPU."""
    text = str(error).lower()
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(
        words in text for words in ("out of memory", "can't allocate memory", "not enough memory", "alloc_failed")
    )


def concatenate(parts: list[Solution]) -> Solution:
    """Solutions of several chunks as one; their histories are filled up with NaN."""
    if len(parts) == 1:
        return parts[0]
    longest = max(len(p.history) for p in parts)
    return Solution(
        value=torch.cat([p.value for p in parts]),
        residual=torch.cat([p.residual for p in parts]),
        merit=torch.cat([p.merit for p in parts]),
        evaluations=torch.cat([p.evaluations for p in parts]),
        converged=torch.cat([p.converged for p in parts]),
        history=torch.cat([pad(p.history, (0, 0, 0, longest - len(p.history)), value=torch.nan) for p in parts], 1),
    )

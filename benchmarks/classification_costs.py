"""What decoder inversion costs by every method of :mod:`benchmarks.classification`, in seconds and in memory."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.classification_latents import METHODS, PUBLISHED, Run
from benchmarks.record import peak_memory
from inversion import LatentDiffusionModel, invert_decoder


def seconds(model: LatentDiffusionModel, x: Tensor, run: Run, rounds: int) -> dict[str, Any]:
    """Seconds of decoder inversion a picture by every method, measured in turns, medians over rounds.

    The published methods are timed for 5 iterations; the others are taken to cost the same, and none to be saved.
    ``evaluations`` are of E∘D or its gradient, on average. Diffusion inversion, the same for all, is not in it.
    """
    few = min(5, run.iterations)

    def once(name: str) -> Tensor:
        if name == "encoder":
            return model.autoencoder.encode(x)
        steps = steps_of(name, few)
        found = invert_decoder(model.autoencoder, x, method=METHODS[name], steps=steps, chunk_size=len(x))
        evaluations[name] = float(found.evaluations.float().mean())
        return found.value

    evaluations: dict[str, float] = {}

    spent: dict[str, list[float]] = {name: [] for name in METHODS}
    for number in range(rounds + 1):
        for name, each in spent.items():
            start = time.perf_counter()
            once(name).cpu()
            if number:  # the first round warms up
                each.append((time.perf_counter() - start) / len(x))
    median = {name: statistics.median(each) for name, each in spent.items()}
    for name in PUBLISHED:
        evaluation = (median[name] - median["encoder"]) / (few + 1)
        median[name] += (run.iterations - few) * evaluation
        evaluations[name] += run.iterations - few
    return {
        "seconds": median,
        "evaluations": evaluations,
        "threads": torch.get_num_threads(),
        "of the gradient's": {name: t / median["gradient"] for name, t in median.items()},
    }


def steps_of(method: str, few: int) -> int | None:
    """So few iterations of a published method, which are alike; the default's own number, as it remembers them."""
    return few if method in PUBLISHED else None


def memory(model: LatentDiffusionModel, x: Tensor) -> dict[str, Any]:
    """Peak bytes of decoder inversion by every method, and as multiples of one decoding."""
    rise = peak_memory if model.device.type == "cpu" else partial(peak_on_gpu, model.device)
    base = rise(partial(model.autoencoder.decode, model.autoencoder.encode(x.to(model.device))))
    invert = partial(invert_decoder, model.autoencoder, x, chunk_size=len(x))
    runs: dict[str, Callable[[], object]] = {
        name: partial(invert, method=method, steps=steps_of(name, 2)) for name, method in METHODS.items()
    }
    runs["encoder"] = partial(model.autoencoder.encode, x.to(model.device))
    peaks = {name: rise(run) for name, run in runs.items()}
    return {name: {"bytes": n, "of one decode": n / base} for name, n in peaks.items()}


def peak_on_gpu(device: torch.device, run: Callable[[], object]) -> int:
    """By how many bytes allocations on a CUDA device rise while a function runs, at most."""
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    run()
    return torch.cuda.max_memory_allocated(device) - before

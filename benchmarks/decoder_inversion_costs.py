"""What the parts of decoder inversion cost, in seconds and bytes, for :mod:`benchmarks.decoder_inversion`."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from benchmarks.record import peak_memory
from inversion import Autoencoder, invert_decoder
from inversion.anderson import anderson
from inversion.decoder import STEPS, decoder_residual
from inversion.gradient import decoder_gradient
from inversion.solvers import Stop


def unit_costs(models: dict[str, Autoencoder], x: Tensor, rounds: int) -> dict[str, Any]:
    """Seconds per picture of the parts, in turns, and the median over rounds as multiples of fp32 evaluations."""
    parts: dict[str, Callable[[], object]] = {}
    for dtype, ae in models.items():
        b, residual = decoder_residual(ae, x)
        _, gradient = decoder_gradient(ae, x)
        rows = torch.arange(len(x))
        parts[f"{dtype} decode"] = partial(ae.decode, b)
        parts[f"{dtype} evaluation"] = partial(residual, b, rows)
        parts[f"{dtype} gradient"] = partial(gradient, b, rows)
        parts[f"{dtype} anderson"] = partial(anderson, residual, b, Stop(STEPS["anderson"]))
    seconds: dict[str, list[float]] = {name: [] for name in parts}
    for run in parts.values():
        run()
    for _ in track(range(rounds), "unit costs", console=Console(stderr=True)):
        for name, run in parts.items():
            start = time.perf_counter()
            run()
            seconds[name].append((time.perf_counter() - start) / len(x))
    for dtype in models:
        seconds[f"{dtype} anderson"] = [t / (STEPS["anderson"] + 1) for t in seconds[f"{dtype} anderson"]]
    unit = statistics.median(seconds["fp32 evaluation"])
    return {
        name: {"cost": statistics.median(all_of_them) / unit, "seconds": all_of_them}
        for name, all_of_them in seconds.items()
    }


def memory(models: dict[str, Autoencoder], x: Tensor, clip: Tensor) -> dict[str, Any]:
    """Peak bytes of allocations, and as multiples of one decoding of the same chunk."""
    out: dict[str, Any] = {}
    for dtype, ae in models.items():
        base = peak_memory(partial(ae.decode, ae.encode(x)))
        invert = partial(invert_decoder, ae, x, chunk_size=len(x))
        peaks = {m: peak_memory(partial(invert, method=m, steps=3)) for m in ("anderson", "adam", "gradient")}
        peaks["anderson, default steps"] = peak_memory(invert)
        out[dtype] = {"decode": base} | {name: {"bytes": n, "of one decode": n / base} for name, n in peaks.items()}
    base = out["fp32"]["decode"]
    for frames in (16, clip.shape[2]):
        peak = peak_memory(partial(invert_decoder, models["fp32"], clip[:, :, :frames], steps=2, chunk_size=len(x)))
        out[f"video of {frames} frames, {len(x)} at a time"] = {"bytes": peak, "of one decode": peak / base}
    return out

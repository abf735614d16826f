"""The ways of recovering latents that :mod:`benchmarks.editing` compares, and what they may do in equal time."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

from rich.console import Console
from rich.progress import track
from torch import Tensor

from benchmarks.rates import tidy
from inversion import LatentDiffusionModel, invert_decoder
from inversion.gradient import decoder_gradient
from inversion.shrinkage import TOLERANCE
from inversion.solvers import Stop, adam

Json = dict[str, Any]

ENCODER, DEFAULT = "encoder", "default"
FORWARD, ADAM, GRADIENT = "forward step, equal time", "Adam on T, equal time", "gradient, equal time"
CHOSEN = "gradient, D clamped, best rate, equal time"
LONG, CLAMPED = "gradient, 100 iterations", "gradient, D clamped, 100 iterations"
KINDS = {
    ENCODER: "encoder",
    DEFAULT: "anderson",
    FORWARD: "forward_step",
    ADAM: "adam",
    GRADIENT: "gradient",
}
"""Name → method of :func:`inversion.invert_decoder`."""
EQUAL_TIME = (FORWARD, ADAM, GRADIENT, CHOSEN)
RATES = (0.02, 0.05, 0.1, 0.2)
FEW = 4
"""Iterations of which the time of one is taken."""


def latents(model: LatentDiffusionModel, x: Tensor, way: str, counts: Json, long: int) -> Tensor:
    """The recovered latents (n, C, h, w) of pictures x (n, 3, H, W).

    Args:
        model: the model.
        x: pictures in [-1, 1].
        way: one of the names.
        counts: of :func:`equal_time`.
        long: iterations of the gradient descent that takes its time.
    """
    if way in (CHOSEN, CLAMPED):
        rate = counts[CHOSEN]["rate"] if way == CHOSEN else 0.1
        return clamped(model, x, counts[CHOSEN]["iterations"] if way == CHOSEN else long, rate)
    steps = long if way == LONG else counts.get(way, {}).get("iterations")
    return invert_decoder(model.autoencoder, x, method=KINDS.get(way, "gradient"), steps=steps).value


def clamped(model: LatentDiffusionModel, x: Tensor, steps: int, rate: float) -> Tensor:
    """Gradient descent, as published but that pixels are clamped inside its loss."""
    b, residual = decoder_gradient(model.autoencoder, x, clamp=True)
    return adam(residual, b, Stop(steps, tolerance=TOLERANCE), learning_rate=rate, frozen=False).value


def equal_time(model: LatentDiffusionModel, batches: Sequence[Tensor], rounds: int) -> Json:
    """How many iterations of every way take as long as the default, from CPU seconds measured in turns."""
    few: Json = {way: {"iterations": FEW, "rate": RATES[0]} for way in EQUAL_TIME}
    runs: dict[str, Callable[[Tensor], object]] = {
        DEFAULT: lambda x: latents(model, x, DEFAULT, {}, 0),
        ENCODER: model.autoencoder.encode,
        **{way: lambda x, way=way: latents(model, x, way, few, 0) for way in EQUAL_TIME},  # type: ignore[misc]
    }
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in track(range(rounds), "run times", console=Console(stderr=True)):
        for name, run in runs.items():
            start = time.process_time()
            for x in batches:
                run(x)
            seconds[name].append(time.process_time() - start)
    budget, encoding = (statistics.median(seconds[name]) for name in (DEFAULT, ENCODER))
    out: Json = {"default / encoder": tidy(budget / encoding)}
    for name in EQUAL_TIME:  # few iterations are few + 1 evaluations, and an encoding before
        each = (statistics.median(seconds[name]) - encoding) / (FEW + 1)
        count = max(math.ceil((budget - encoding) / each) - 1, 1)
        out[name] = {"iterations": count, "relative cost": tidy(each / budget)}
    return out


def best_rate(model: LatentDiffusionModel, x: Tensor, z: Tensor, steps: int) -> Json:
    """Of which rate the descent comes nearest to the true latents z of pictures x, by their mean error in dB."""

    def error(rate: float) -> float:
        off = (clamped(model, x, steps, rate).to(z) - z).square().sum((1, 2, 3)) / z.square().sum((1, 2, 3))
        return float((10 * off.log10()).mean())

    errors = {rate: error(rate) for rate in RATES}
    return {
        "rate": min(RATES, key=errors.__getitem__),
        "errors, dB": {f"{r:g}": tidy(e) for r, e in errors.items()},
    }

"""What every result file says of the run that made it, exact intervals for its rates, and peaks of memory."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable
from importlib import metadata
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from scipy import stats

RESULTS = Path(__file__).resolve().parent / "results"
PACKAGES = ("torch", "diffusers", "transformers", "numpy", "scipy", "scikit-learn", "Pillow")


def environment() -> dict[str, Any]:
    """Versions and the kind of machine, with what it has for bfloat16, on which the cost of that depends."""
    able: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # older PyTorch does not tell
    return {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "bfloat16": sorted(name for name, has in able.items() if "bf16" in name and has),
        "threads": torch.get_num_threads(),
    } | {name: metadata.version(name) for name in PACKAGES}


def rate(hits: int, trials: int) -> dict[str, Any]:
    """A rate with its 95 % Clopper–Pearson interval."""
    interval = stats.binomtest(hits, trials).proportion_ci(0.95, "exact")
    return {"hits": hits, "trials": trials, "rate": hits / trials, "ci95": [interval.low, interval.high]}


def peak_memory(run: Callable[[], object]) -> int:
    """By how many bytes PyTorch's allocations on the CPU rise while a function runs, at most.

    Counts tensors, and neither what the allocator holds back nor the scratch space of a convolution library.
    """
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        run()
    changes = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    changes.sort(key=lambda event: event.start_ns())
    return max(accumulate((event.nbytes() for event in changes), initial=0))


def resume(name: str, settings: dict[str, Any], folder: Path = RESULTS) -> dict[str, Any]:
    """What an earlier run with the same settings wrote, to go on from; else the settings alone."""
    path = folder / f"{name}.json"
    before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if before.get("settings") != settings:
        return {"settings": settings}
    return {key: value for key, value in before.items() if key != "environment"}


def write(name: str, result: dict[str, Any], folder: Path = RESULTS) -> Path:
    """Write a result with its environment as ``folder/name.json``, as a whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    part = path.with_suffix(f".{os.getpid()}.part")
    part.write_text(json.dumps(result | {"environment": environment()}, indent=1) + "\n", encoding="utf-8")
    part.replace(path)
    return path

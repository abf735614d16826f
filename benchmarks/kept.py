"""Arrays that benchmarks keep beside their results: a stopped run goes on, and an analysis can be done anew.

What arrays depend on is part of the file's name, so that a run with other settings takes nothing from them and
destroys nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from functools import lru_cache, partial
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inversion import LatentDiffusionModel
from inversion.anderson import anderson
from inversion.decoder import PATIENCE, PUBLISHED, STEPS
from inversion.diffusion import choose
from inversion.embedded import data_folder, sapling_folder
from inversion.shrinkage import DOUBT, TOLERANCE

Arrays = dict[str, NDArray[Any]]

MEASURED = {"calibration.safetensors", "evaluation.json", "speed.json"}
"""Files in a model's folder that say something of it and are no part of it."""


def kept_file(folder: Path, name: str, settings: Mapping[str, Any]) -> Path:
    """Where the arrays of a benchmark with such settings are."""
    text = json.dumps(settings, sort_keys=True)
    return folder / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:8]}.npz"


def kept(path: Path) -> Arrays:
    """What a file holds, nothing if there is none."""
    if not path.exists():
        return {}
    with np.load(path) as saved:
        return dict(saved)


def keep(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write a file as a whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}.part")
    try:
        with part.open("wb") as out:
            np.savez(out, **arrays)  # type: ignore[arg-type]
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


@lru_cache(maxsize=4)
def weights(model: str) -> str:
    """What tells a model from others of its name: a digest of its files if they are here, else its name."""
    folder = sapling_folder() if model == "sapling" else Path(model)
    kinds = (".safetensors", ".bin", ".json")
    files = [file for file in sorted(folder.rglob("*")) if file.suffix in kinds] if folder.is_dir() else []
    of_model = [file for file in files if file.name not in MEASURED]
    return digest_of(of_model) if folder.is_dir() else model


def prompts_digest(name: str) -> str:
    """A digest of a list of prompts of Sapling's."""
    return digest_of([data_folder() / "prompts" / f"{name}.txt"])


def made_of(model: str) -> dict[str, str]:
    """What pictures of Sapling's prompts depend on."""
    return {"weights": weights(model), "prompts": prompts_digest("sapling")}


def digest_of(files: Iterable[Path]) -> str:
    """A short digest of files' contents."""
    digest = hashlib.sha256()
    for file in files:
        own = hashlib.sha256()
        with file.open("rb") as content:
            while part := content.read(2**20):
                own.update(part)
        digest.update(own.digest())
    return digest.hexdigest()[:16]


def decoder_inversion(method: str) -> str:
    """A method of :func:`inversion.invert_decoder` with all that it depends on, in words."""
    if method == "encoder":
        return method
    steps = f"{method}, {STEPS[method]} updates, to {TOLERANCE:.4g}"
    if method in PUBLISHED:
        return f"{steps}, {described(PUBLISHED[method])}"
    ours = f"{steps}, patience {PATIENCE}, {described(anderson)}"
    return {"anderson": ours, "shrinkage": f"{ours}, c = {DOUBT:g}"}[method]


def diffusion_inversion(model: LatentDiffusionModel, steps: int) -> str:
    """The default of :func:`inversion.invert_diffusion` with its steps, in words."""
    return f"{choose(model.schedule(steps))}, {steps} steps"


def described(function: Any) -> str:  # noqa: ANN401 - a function or a partial one
    """A function with what its arguments are fixed to, in words: what it does may change, its name may not."""
    inner, given = (function.func, function.keywords) if isinstance(function, partial) else (function, {})
    usual = {k: p.default for k, p in signature(inner).parameters.items() if p.default is not p.empty}
    return f"{inner.__name__}({', '.join(f'{k}={v}' for k, v in sorted((usual | given).items()))})"

"""Arrays that benchmarks keep beside their results: a stopped run goes on, and an analysis can be done anew.

What arrays depend on is part of the file's name, so that a run with other settings takes nothing from them and
destroys nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inversion.model import sapling_folder

Arrays = dict[str, NDArray[Any]]


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
    """What tells a model from others of its name: a digest of its weights if they are here, else its name."""
    folder = sapling_folder() if model == "sapling" else Path(model)
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*.safetensors")) if folder.is_dir() else []:
        if file.name != "calibration.safetensors":
            with file.open("rb") as content:
                digest.update(hashlib.file_digest(content, "sha256").digest())
    return digest.hexdigest()[:16] if folder.is_dir() else model


def described(function: Any) -> str:  # noqa: ANN401 - a function or a partial one
    """A function with what its arguments are fixed to, in words: what it does may change, its name may not."""
    if isinstance(function, partial):
        return f"{function.func.__name__}({', '.join(f'{k}={v}' for k, v in function.keywords.items())})"
    return str(function.__name__)

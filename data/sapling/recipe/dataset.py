"""Pictures and captions as files: ``train.npy``, ``held_out.npy`` and their ``.json``."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from torch import Tensor

TRAIN, HELD_OUT = "train", "held_out"
EVERY = 500
"""After so many pictures what is done is noted, so that an interrupted run goes on there."""


@dataclass(frozen=True)
class Pictures:
    """Pixels (N, S, S, 3) uint8, read from the disk as they are needed, and N captions."""

    pixels: NDArray[np.uint8]
    captions: list[str]

    def __len__(self) -> int:
        return len(self.captions)


def load(folder: Path, name: str) -> Pictures:
    """A set that :func:`write` finished.

    Raises:
        click.ClickException: if it is not there or not finished.
    """
    if not (folder / f"{name}.json").is_file():
        raise click.ClickException(f"{folder} has no finished {name}.npy: run prepare, with the same --folder")
    captions = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    return Pictures(np.load(folder / f"{name}.npy", mmap_mode="r"), captions)


def write(
    folder: Path, name: str, count: int, size: int, make: Callable[[int], tuple[NDArray[np.uint8], str]]
) -> None:
    """Write ``count`` pictures, the i-th as ``make(i)`` makes it. Goes on where it was interrupted."""
    pixels, captions, done = folder / f"{name}.npy", folder / f"{name}.json", folder / f"{name}.part.json"
    if captions.exists():
        return
    told: list[str] = json.loads(done.read_text(encoding="utf-8")) if done.exists() and pixels.exists() else []
    mode = "r+" if told else "w+"
    array = np.lib.format.open_memmap(pixels, mode=mode, dtype=np.uint8, shape=(count, size, size, 3))
    for i in track(range(len(told), count), name, console=Console(stderr=True)):
        array[i], caption = make(i)
        told.append(caption)
        if len(told) % EVERY == 0:
            array.flush()
            replace(done, json.dumps(told))
    array.flush()
    replace(captions, json.dumps(told, indent=0))
    done.unlink(missing_ok=True)


def replace(file: Path, text: str) -> None:
    """Write a file so that it is there as a whole or not at all."""
    part = file.with_suffix(".tmp")
    part.write_text(text, encoding="utf-8")
    part.replace(file)


def as_tensor(pixels: NDArray[np.uint8]) -> Tensor:
    """Pixels (n, S, S, 3) → (n, 3, S, S) float32 in [-1, 1]."""
    return torch.from_numpy(np.array(pixels)).permute(0, 3, 1, 2).contiguous().float() / 127.5 - 1

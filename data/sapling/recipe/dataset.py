"""Pictures and captions as files: ``train.npy``, ``held_out.npy`` and their ``.json``."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray
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
    if not finished(folder, name):
        raise click.ClickException(f"{folder} has no finished {name}.npy: run prepare, with the same --folder")
    captions = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    return Pictures(np.load(folder / f"{name}.npy", mmap_mode="r"), captions)


def finished(folder: Path, name: str) -> bool:
    """Whether :func:`write` finished a set."""
    return all((folder / f"{name}.{end}").is_file() for end in ("npy", "json"))


def digest(folder: Path) -> str:
    """What tells the finished pictures in a folder from others.

    Raises:
        click.ClickException: if they are not finished.
    """
    about = folder / "sources.json"
    found = json.loads(about.read_text(encoding="utf-8")) if about.is_file() else {}
    if "sha256" not in found:
        raise click.ClickException(f"{folder} has no finished pictures: run prepare, with the same --folder")
    return str(found["sha256"][:16])


def array_file(file: Path, dtype: DTypeLike, shape: tuple[int, ...], *, anew: bool) -> np.memmap[Any, Any]:
    """An array in a file, with all of its room on the disk: a write to a full one would kill the process.

    Raises:
        click.ClickException: if there is not enough room, or the file is of another shape.
    """
    if anew:
        array = np.lib.format.open_memmap(file, mode="w+", dtype=dtype, shape=shape)
        try:
            with file.open("rb+") as opened:
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(opened.fileno(), 0, file.stat().st_size)
        except OSError as error:
            file.unlink()
            size = array.nbytes / 1e9
            raise click.ClickException(f"no room for {file}, {size:.2g} GB: {error.strerror}") from error
        return array
    array = np.lib.format.open_memmap(file, mode="r+")
    if array.shape != shape:
        raise click.ClickException(f"{file} has shape {array.shape}, not {shape}: remove it")
    return array


def write(
    folder: Path, name: str, count: int, size: int, make: Callable[[int], tuple[NDArray[np.uint8], str]]
) -> None:
    """Write ``count`` pictures, the i-th as ``make(i)`` makes it. Goes on where it was interrupted."""
    pixels, captions, done = folder / f"{name}.npy", folder / f"{name}.json", folder / f"{name}.part.json"
    if finished(folder, name):
        return
    told: list[str] = json.loads(done.read_text(encoding="utf-8")) if done.exists() and pixels.exists() else []
    array = array_file(pixels, np.uint8, (count, size, size, 3), anew=not told)
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

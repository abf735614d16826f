"""Image files → pictures, fitted to a model or whole, in processes of their own.

A decoder that hangs, crashes or fills the memory costs one image. The workers never import torch, and what they
send back to be tested is as small as the model's pictures.
"""

from __future__ import annotations

import atexit
import math
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, TimeoutError
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
from numpy.typing import NDArray
from pebble import ProcessExpired, ProcessPool
from PIL import Image

from watermark.reading.content import ImageError
from watermark.reading.fitting import fit, why_inconclusive
from watermark.reading.images import NO_MEMORY, from_image, read_picture
from watermark.verdict import INCONCLUSIVE, UNREADABLE

if sys.platform == "win32":
    from multiprocessing.context import SpawnContext as StartContext
    from multiprocessing.context import SpawnProcess as StartProcess
else:
    import resource
    from multiprocessing.context import ForkServerContext as StartContext
    from multiprocessing.context import ForkServerProcess as StartProcess

PATIENCE = 4  # seconds on the clock for each of computing: the machine may be busy
AHEAD = 4  # images a worker that are read before they are asked for
GRACE = 30.0  # seconds for a worker to start, on top of an image's own
LEAST_MEMORY = 512 * 2**20
IMAGES_A_WORKER = 1000  # then it is replaced, so that what decoders leak does not add up


@dataclass(frozen=True)
class Decoded:
    """An image that can be tested, or why it cannot.

    Attributes:
        name: the path as it was given, or ``image 3`` for one in memory.
        pixels: (h, w, 3) uint8, sRGB, fitted to the model or whole; None if there is nothing to test.
        sha256: of the file's bytes, hexadecimal; empty if there was no file, or if it was not read to its end.
        warnings: what was not plain about the file, how it was read, and how it was fitted.
        status: None if it can be tested, else ``unreadable`` or ``inconclusive``.
        reason: why it cannot; of an unreadable image ``code: sentence``, see
            :data:`watermark.reading.content.CODES`.
    """

    name: str
    pixels: NDArray[np.uint8] | None = None
    sha256: str = ""
    warnings: tuple[str, ...] = ()
    status: str | None = None
    reason: str | None = None


Read = Callable[[str | Path | Image.Image, str, tuple[int, int]], Decoded]


def decoded(
    images: Iterable[str | Path | Image.Image],
    size: tuple[int, int],
    *,
    workers: int = 0,
    timeout: float = 20.0,
    memory: int = 2 * 2**30,
) -> Generator[Decoded, None, None]:
    """Read images and fit them to a model, in order, a few ahead of what was asked for if there are workers.

    Closing the generator ends the workers; so do its end, an error, and the end of the program.

    Args:
        images: files, or Pillow images, which are always converted in the calling process.
        size: (height, width) of the model's pictures.
        workers: processes that read files; with 0 the calling process does, without bounds on time and memory.
        timeout: CPU seconds for each file, not limited on Windows; four times as many may pass on the clock.
        memory: bytes of address space of each worker, at least 512 MiB; not bounded on Windows.

    Raises:
        ValueError: if workers, timeout or memory is out of range.
        OSError: if no worker can be started.
    """
    return _decoded(images, size, read_fitted, workers, timeout, memory)


def read_fitted(image: str | Path | Image.Image, name: str, size: tuple[int, int]) -> Decoded:
    """Read an image and fit it to a model's (height, width), in the calling process."""
    try:
        picture = from_image(image) if isinstance(image, Image.Image) else read_picture(image)
        reason = why_inconclusive(picture, size)
        if reason is not None:
            return Decoded(name, None, picture.sha256, picture.warnings, INCONCLUSIVE, reason)
        pixels, notes = fit(picture, size)
    except ImageError as error:
        return _refused(name, error)
    except MemoryError:
        return _refused(name, ImageError("too_large", NO_MEMORY))
    return Decoded(name, pixels, picture.sha256, picture.warnings + notes)


def whole(
    images: Iterable[str | Path], *, timeout: float = 20.0, memory: int = 2 * 2**30
) -> Generator[Decoded, None, None]:
    """Read files as they are, in order, in a process of its own; the arguments are those of :func:`decoded`."""
    return _decoded(images, (0, 0), read_whole, 1, timeout, memory)


def read_whole(image: str | Path | Image.Image, name: str, size: tuple[int, int]) -> Decoded:
    """Read a file and fit it to nothing, whatever the size, in the calling process."""
    try:
        picture = from_image(image) if isinstance(image, Image.Image) else read_picture(image)
    except ImageError as error:
        return _refused(name, error)
    return Decoded(name, picture.pixels, picture.sha256, picture.warnings)


def _refused(name: str, error: ImageError) -> Decoded:
    return Decoded(name, None, error.sha256, (), UNREADABLE, f"{error.code}: {error}")


def _decoded(
    images: Iterable[str | Path | Image.Image],
    size: tuple[int, int],
    read: Read,
    workers: int,
    timeout: float,
    memory: int,
) -> Generator[Decoded, None, None]:
    """:func:`decoded` with any function that reads an image; one of a module, so that workers find it."""
    if workers < 0:
        raise ValueError(f"workers must be at least 0, got {workers}")
    if not 0 < timeout < math.inf:
        raise ValueError(f"timeout must be positive and finite, got {timeout}")
    if memory < LEAST_MEMORY:
        raise ValueError(f"memory must be at least {LEAST_MEMORY} bytes, got {memory}")
    if workers == 0:
        return (read(image, _name(i, image), size) for i, image in enumerate(images))
    return _ahead(images, size, Workers(size, read, workers, timeout, memory))


def _name(number: int, image: str | Path | Image.Image) -> str:
    return f"image {number}" if isinstance(image, Image.Image) else str(image)


def _ahead(
    images: Iterable[str | Path | Image.Image], size: tuple[int, int], workers: Workers
) -> Generator[Decoded, None, None]:
    waiting: deque[Decoded | Task] = deque()
    try:
        for i, image in enumerate(images):
            name = _name(i, image)
            if isinstance(image, Image.Image):
                waiting.append(read_fitted(image, name, size))
            else:
                waiting.append(workers.start(name))
            if len(waiting) > AHEAD * workers.count:
                yield _result(waiting, workers)
        while waiting:
            yield _result(waiting, workers)
    finally:
        workers.stop()


def _result(waiting: deque[Decoded | Task], workers: Workers) -> Decoded:
    """The first of those that wait. If the pool broke, it is read again on its own, and the others after it."""
    first = waiting.popleft()
    if isinstance(first, Decoded):
        return first
    found = workers.result(first)
    if found is None:
        workers.stop()
        found = workers.result(workers.start(first.name))
        if found is None:
            workers.stop()
            if not workers.proven:
                raise OSError(f"the processes that read files do not start{workers.why}; --workers 0 does without")
            found = _refused(first.name, ImageError("crashed", "the decoder crashed"))
        for i, task in enumerate(waiting):
            if isinstance(task, Task):
                waiting[i] = workers.start(task.name)
    return found


@dataclass(frozen=True)
class Task:
    """A file that a worker has been told to read."""

    name: str
    future: Future[Decoded]


class Workers:
    """Processes that read files.

    Attributes:
        proven: whether any has ever answered.
        why: what was said when the last pool broke, if anything.
    """

    def __init__(self, size: tuple[int, int], read: Read, count: int, timeout: float, memory: int) -> None:
        self.size, self.read, self.count, self.timeout, self.memory = size, read, count, timeout, memory
        self.pool: ProcessPool | None = None
        self.proven, self.why = False, ""

    def start(self, name: str) -> Task:
        """Have a worker read a file."""
        if self.pool is None:
            self.pool = ProcessPool(self.count, IMAGES_A_WORKER, _bound, (self.memory,), _Context())
            atexit.register(self.stop)
        # workers stay where they were started, and the program may go elsewhere
        file = os.path.join(os.getcwd(), name) if name else name  # noqa: PTH109, PTH118 - a name stays as it is
        args = (self.read, self.timeout, file, name, self.size)
        try:
            future: Future[Decoded] = self.pool.schedule(_in_worker, args, timeout=PATIENCE * self.timeout)
        except RuntimeError as error:  # the pool is broken
            future = Future()
            future.set_exception(BrokenProcessPool(str(error)))
        return Task(name, future)

    def result(self, task: Task) -> Decoded | None:
        """Wait for a file to be read; None if the pool broke. All that were started before must be done."""
        late = ImageError("timeout", f"it took more than {self.timeout:g} seconds to decode")
        try:
            found = task.future.result(PATIENCE * self.timeout + GRACE)
        except TimeoutError:
            return _refused(task.name, late) if task.future.done() else None
        except ProcessExpired as error:
            self.proven = True
            code = int(error.exitcode or 0)
            if sys.platform != "win32" and -code in {signal.SIGALRM, signal.SIGPROF}:
                return _refused(task.name, late)
            how = f"signal {-code}" if code < 0 else f"exit code {code}"
            return _refused(task.name, ImageError("crashed", f"the decoder crashed ({how})"))
        except BrokenProcessPool as error:
            self.why = f": {error}" if str(error) else ""
            return None
        self.proven = True
        return found

    def stop(self) -> None:
        """End all workers, whatever they do; :meth:`start` makes new ones."""
        if self.pool is not None:
            self.pool.stop()
            self.pool.join()
            self.pool = None
            atexit.unregister(self.stop)


def _bound(memory: int) -> None:
    """What a worker may use."""
    if sys.platform != "win32":
        for what, most in ((resource.RLIMIT_AS, memory), (resource.RLIMIT_CORE, 0)):
            hard = resource.getrlimit(what)[1]
            resource.setrlimit(what, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))
        for alarm in (signal.SIGALRM, signal.SIGPROF):
            signal.signal(alarm, signal.SIG_DFL)


def _in_worker(read: Read, timeout: float, file: str, name: str, size: tuple[int, int]) -> Decoded:
    """Read an image. Alarms end a worker that computes too long, or that hangs after its parent program ended."""
    if sys.platform != "win32":
        signal.setitimer(signal.ITIMER_PROF, timeout)
        signal.alarm(math.ceil(PATIENCE * timeout) + 2)
    try:
        return read(file, name, size)
    except MemoryError:
        return _refused(name, ImageError("too_large", NO_MEMORY))
    finally:
        if sys.platform != "win32":
            signal.alarm(0)
            signal.setitimer(signal.ITIMER_PROF, 0)


class _Process(StartProcess):
    """A process that does not import the program's main module again, which may load torch, or need a guard."""

    def start(self) -> None:
        main = sys.modules["__main__"]
        sys.modules["__main__"] = ModuleType("__main__")
        try:
            super().start()
        finally:
            sys.modules["__main__"] = main


class _Context(StartContext):
    Process = _Process

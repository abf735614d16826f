"""The rows of a report in a file that survives its program, found again by the digest of the image.

One JSON object a line, in ASCII. Rows that are there already are compared with those that come: as long as they are
the same nothing is written. Where they begin to differ, the rest is set aside in a second file, and kept until all
rows are written, so that no verdict is lost whenever the program ends.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

if sys.platform != "win32":
    import fcntl

SYNC_SECONDS = 5.0
START = b'{"name": '

Row = dict[str, Any]


class Journal:
    """A report that is being written.

    Args:
        path: the file; what is set aside goes beside it, see :func:`aside_of`.
        resume: go on with a file that is there; else there must be none.
        check: called with every row that is there; raises ValueError if it does not belong.
        counts: whether a row was tested together with others.
        batch: how many were. Rows of an unfinished batch are not found again, so that the next batches are those of
            a run that was not interrupted.

    Raises:
        ValueError: if the file is no report, is damaged before its end, or another program writes it.
        OSError: if it cannot be read or written; ``FileExistsError`` if it is there and must not be.
    """

    def __init__(
        self, path: Path, *, resume: bool, check: Callable[[Row], None], counts: Callable[[Row], bool], batch: int
    ) -> None:
        self.path, self.aside = path, aside_of(path)
        self.places: dict[bytes, int] = {}
        self.written = self.there = 0  # bytes of rows that came, and of those that were there
        self.synced = time.monotonic()
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0) | (0 if resume else os.O_EXCL)
        self.file = os.open(path, flags, 0o666)
        try:
            self._lock()
            if resume:
                self._scan(check, counts, batch)
            self.reader, self.before = path.open("rb"), path.open("rb")
        except BaseException:
            os.close(self.file)
            raise

    def find(self, digest: str) -> Row | None:
        """The row of an image by its SHA-256, hexadecimal; None if there is none."""
        place = self.places.get(bytes.fromhex(digest))
        if place is None:
            return None
        if place < 0:
            with self.aside.open("rb") as file:
                file.seek(~place)
                return json.loads(file.readline())
        self.reader.seek(place)
        return json.loads(self.reader.readline())

    def add(self, row: Row, digest: str) -> None:
        """Write the next row, to be found by a digest if that is not empty.

        Raises:
            OSError: if it cannot be written; the rows before it are there.
        """
        line = (json.dumps(row, allow_nan=False) + "\n").encode("ascii")
        if self.written < self.there and self.before.read(len(line)) != line:
            self._set_aside()
        if self.written >= self.there:
            self._write(line)
        if digest:
            self.places[bytes.fromhex(digest)] = self.written
        self.written += len(line)
        if time.monotonic() - self.synced > SYNC_SECONDS:
            os.fsync(self.file)
            self.synced = time.monotonic()

    def finish(self) -> None:
        """Say that all rows came: those that were there beyond them, and what was set aside, are let go."""
        if self.written < self.there:
            os.ftruncate(self.file, self.written)
        os.fsync(self.file)
        self.aside.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the file; remove it if it has no rows."""
        self.reader.close()
        self.before.close()
        try:
            os.fsync(self.file)
            if os.fstat(self.file).st_size == 0 and not self.aside.exists():
                self.path.unlink(missing_ok=True)
        finally:
            os.close(self.file)

    def _lock(self) -> None:
        if sys.platform != "win32":
            try:
                fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ValueError(f"{self.path} is being written by another program") from None

    def _scan(self, check: Callable[[Row], None], counts: Callable[[Row], bool], batch: int) -> None:
        if self.aside.exists():
            for place, row in rows(self.aside):
                check(row)
                if row["sha256"]:
                    self.places[bytes.fromhex(row["sha256"])] = ~place
        unfinished: list[bytes] = []
        for place, row in rows(self.path):
            check(row)
            digest = bytes.fromhex(row["sha256"])
            if digest and self.places.get(digest, -1) < 0:
                self.places[digest] = place
                unfinished = [*unfinished, digest] if counts(row) else unfinished
                unfinished = [] if len(unfinished) == batch else unfinished
        for digest in unfinished:
            del self.places[digest]
        self.there = whole(self.path)
        os.ftruncate(self.file, self.there)

    def _set_aside(self) -> None:
        """Copy the rows that are there and were not reached to the second file, and cut them off."""
        end = whole(self.aside) if self.aside.exists() else 0
        with self.aside.open("ab") as out:
            out.truncate(end)
            self.reader.seek(self.written)
            shutil.copyfileobj(self.reader, out)
            out.flush()
            os.fsync(out.fileno())
        moved = end - self.written
        self.places = {d: ~(p + moved) if p >= self.written else p for d, p in self.places.items()}
        os.ftruncate(self.file, self.written)
        self.there = self.written
        self.reader.close()
        self.reader = self.path.open("rb")  # the old one has read ahead

    def _write(self, line: bytes) -> None:
        os.lseek(self.file, self.written, os.SEEK_SET)
        rest = memoryview(line)
        try:
            while rest:
                rest = rest[os.write(self.file, rest) :]
        except OSError as error:
            os.ftruncate(self.file, self.written)
            raise OSError(error.errno, error.strerror, str(self.path)) from None


def aside_of(path: Path) -> Path:
    """Where rows of a report are kept that did not fit any more."""
    return path.with_name(f"{path.name}.aside")


def rows(path: Path) -> Iterator[tuple[int, Row]]:
    """Every whole row of a report and where it begins. Raises ValueError if it is not a report."""
    place = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                if START.startswith(line[: len(START)]) or line.startswith(START) or not line.strip(b"\0"):
                    return  # written in part; zeros where the machine itself stopped
                raise ValueError(f"{path} is no report of treering verify")
            try:
                row = json.loads(line)
                bytes.fromhex(row["sha256"])
            except (ValueError, KeyError, TypeError):
                raise ValueError(f"{path} is no report of treering verify, or damaged in line {number}") from None
            yield place, row
            place += len(line)


def whole(path: Path) -> int:
    """Bytes of a file up to the end of its last whole line."""
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        while end > 0:
            start = max(0, end - 2**16)
            file.seek(start)
            found = file.read(end - start).rfind(b"\n")
            if found >= 0:
                return start + found + 1
            end = start
    return 0

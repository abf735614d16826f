"""The rows of a report in a file that survives its program, found again by the digest of the image.

One JSON object a line, in ASCII. Rows that are there already are compared with those that come: as long as they are
the same nothing is written. Where they begin to differ, the rest is set aside in a second file, so that no verdict
is lost whenever the program ends. It is removed once all of its rows have come; verdicts on images that did not,
because a list was cut short or a disk was not there, stay in it.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path

from watermark.files import appearing
from watermark.reports.row import Row, no_row, torn

if sys.platform != "win32":
    import fcntl

SYNC_SECONDS = 5.0
LONGEST = 2**20  # bytes of a row, by far


class Journal:
    """A report that is being written.

    Args:
        path: the file; what is set aside goes beside it, see :func:`aside_of`.
        resume: go on with a file that is there; else there must be none.
        check: called with every row that is there; raises ValueError if it does not belong.
        counts: whether a row was tested together with others.
        batch: how many were. Rows of an unfinished batch are not found again, so that the next batches are those of
            a run that was not interrupted.
        finished: gives the rows of a report elsewhere, which are found, too, if nothing is in this file yet.

    Raises:
        ValueError: if the file is no report, is damaged before its end, or another program writes it.
        OSError: if it cannot be read or written; ``FileExistsError`` if it is there and must not be.
    """

    def __init__(
        self,
        path: Path,
        *,
        resume: bool,
        check: Callable[[Row], None],
        counts: Callable[[Row], bool],
        batch: int,
        finished: Callable[[], Iterable[Row]] | None = None,
    ) -> None:
        self.path, self.aside = path, aside_of(path)
        self.filled = self.needless = False
        self.places: dict[bytes, int] = {}
        self.written = self.there = 0  # bytes of rows that came, and of those that were there
        self.synced = time.monotonic()
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0) | (0 if resume else os.O_EXCL)
        self.file = os.open(path, flags, 0o666)
        try:
            self._lock()
            if resume:
                if finished is not None and not os.fstat(self.file).st_size:
                    self._fill(finished, counts, batch)
                self._scan(check, counts, batch)
            self.reader, self.before = path.open("rb"), path.open("rb")
        except BaseException:
            if self.filled:  # all of it is where it came from
                self.aside.unlink(missing_ok=True)
                self.path.unlink(missing_ok=True)
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
        line = line_of(row).encode("ascii")
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
        """Say that no more rows come: what is there of images that did not come is set aside."""
        if self.written < self.there:
            self._set_aside()
        os.fsync(self.file)
        if all(place >= 0 for place in self.places.values()):
            self.aside.unlink(missing_ok=True)

    def remove(self) -> None:
        """Say that the file is not needed any more: closing removes it."""
        self.needless = True

    def close(self) -> None:
        """Close the file; remove it if it has no rows."""
        self.reader.close()
        self.before.close()
        try:
            os.fsync(self.file)
            if self.filled and not self.written:
                self.aside.unlink(missing_ok=True)  # its rows are where they came from
            if self.needless or (os.fstat(self.file).st_size == 0 and not self.aside.exists()):
                self.path.unlink(missing_ok=True)
        finally:
            os.close(self.file)

    def _lock(self) -> None:
        if sys.platform != "win32":
            try:
                fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                free = os.fstat(self.file).st_nlink > 0  # else another program has just removed it
            except BlockingIOError:
                free = False
            if not free:
                raise ValueError(f"{self.path} is being written by another program")

    def _fill(self, finished: Callable[[], Iterable[Row]], counts: Callable[[Row], bool], batch: int) -> None:
        """Put the rows of a finished report into the second file, after those that are there, in one step."""
        self.filled = not self.aside.exists()
        last = of_unfinished_batch(first_of_each(finished()), counts, batch)
        with appearing(self.aside) as part, part.open("w", encoding="ascii") as out:
            there = (row for _, row in ([] if self.filled else rows(self.aside)))
            new = (row for row in finished() if row["sha256"] not in last)
            out.writelines(map(line_of, first_of_each(chain(there, new))))

    def _scan(self, check: Callable[[Row], None], counts: Callable[[Row], bool], batch: int) -> None:
        if self.aside.exists():
            for place, row in rows(self.aside):
                check(row)
                if row["sha256"]:
                    self.places[bytes.fromhex(row["sha256"])] = ~place

        def new() -> Iterator[Row]:
            for place, row in rows(self.path):
                check(row)
                digest = bytes.fromhex(row["sha256"])
                if digest and digest not in self.places:
                    yield row
                if digest and self.places.get(digest, -1) < 0:
                    self.places[digest] = place

        for text in of_unfinished_batch(new(), counts, batch):
            del self.places[bytes.fromhex(text)]
        self.there = whole(self.path)
        os.ftruncate(self.file, self.there)

    def _set_aside(self) -> None:
        """Copy the rows that are there, were not reached, and are to be found to the second file; cut them off."""
        places = {digest: place for digest, place in self.places.items() if place < self.written}
        end = whole(self.aside) if self.aside.exists() else 0
        with self.aside.open("ab") as out:
            out.truncate(end)
            for place, row in rows(self.path, self.written):
                digest = bytes.fromhex(row["sha256"])
                if digest and self.places.get(digest) == place:
                    places[digest] = ~end
                    end += out.write(line_of(row).encode("ascii"))
            out.flush()
            os.fsync(out.fileno())
        self.places = places
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


def line_of(row: Row) -> str:
    """A row as it stands in a file."""
    return json.dumps(row, allow_nan=False) + "\n"


def of_unfinished_batch(found: Iterable[Row], counts: Callable[[Row], bool], batch: int) -> set[str]:
    """Digests of the last images that were tested, if those were fewer than a batch; of rows that differ."""
    last: set[str] = set()
    for row in filter(counts, found):
        last = {*last, row["sha256"]} if len(last) < batch else {row["sha256"]}
    return last if len(last) < batch else set()


def first_of_each(found: Iterable[Row]) -> Iterator[Row]:
    """The first row of each digest."""
    seen: set[bytes] = set()
    for row in found:
        digest = bytes.fromhex(row["sha256"])
        if digest and digest not in seen:
            seen.add(digest)
            yield row


def rows(path: Path, start: int = 0) -> Iterator[tuple[int, Row]]:
    """Every whole row of a report from a byte on, and where it begins. Raises ValueError if it is not a report."""
    place, number = start, 0
    with path.open("rb") as file:
        file.seek(start)
        while line := file.readline(LONGEST):
            number += 1
            if not line.endswith(b"\n") and torn(line) and len(line) < LONGEST:
                return
            try:
                row = json.loads(line) if line.endswith(b"\n") else None
            except (ValueError, RecursionError):
                row = None
            if row is None or no_row(row):
                raise ValueError(f"{path} is no report of treering verify, or damaged in line {number}")
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

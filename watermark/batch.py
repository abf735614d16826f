"""Many images: verdicts are written as they come, and a run that ended early goes on where it was.

A verdict belongs to what is in a file and to how it was tested, not to the file's name: the same image again, under
whatever name, gets the verdict that it had.
"""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from watermark.reading.images import ImageError, read_bytes
from watermark.reports import parquet
from watermark.reports.configuration import Configuration
from watermark.reports.journal import Journal, aside_of
from watermark.reports.row import Row
from watermark.verdict import UNREADABLE, Verdict

if TYPE_CHECKING:
    from watermark.verify import Verifier

HELD = 1000  # verdicts that wait behind an image that is being tested
DIGITS, DECIMALS = 2, 3
OF_NOISE = "the recovered noise"
"""So begins the reason of an image without a p-value that went through the networks."""


def verify_files(
    verifier: Verifier,
    names: Iterable[str],
    report: Path,
    made_with: str,
    *,
    resume: bool = False,
) -> Generator[Verdict, None, None]:
    """Verify files, write a row for each to a report, in order, and yield each verdict once its row is written.

    A row has the fields of :class:`watermark.verdict.Verdict`, numbers as in :func:`rounded`, and a configuration.
    The report itself is left out where it is among the names.

    Args:
        verifier: what tests them.
        names: of the files.
        report: a ``.jsonl`` file, or a ``.parquet`` file, beside which a ``.jsonl`` file grows until all is done.
        made_with: what the verdicts depend on, see :func:`watermark.reports.configuration.configuration`.
        resume: go on with a report that is there, which then is that of these names, as if it had been written by
            one run. Each file is read again; what is known of its content is not tested again.

    Raises:
        ValueError: see :func:`check_report`, and if the report is of another configuration, damaged, or no report.
        OSError: if the report cannot be written; what was written stays.

    Without any name, a report that is there stays as it is.
    """
    check_report(report, resume=resume)
    journal_file = journal_of(report)
    own = Configuration(made_with, journal_file)
    others = (name for name in names if not is_one_of(name, (report, journal_file, aside_of(journal_file))))
    finished = partial(parquet.to_rows, report) if journal_file != report and report.exists() else None
    size = verifier.batch_size
    opened = Journal(journal_file, resume=resume, check=own.check, counts=was_tested, batch=size, finished=finished)
    with closing(opened) as journal:
        batch = Batch(verifier, journal, own.text)
        yield from batch.run(iter(others))
        if journal.written:
            journal.finish()
            if journal_file != report:
                parquet.from_rows(journal_file, report)
                journal.remove()


def check_report(report: Path, *, resume: bool) -> None:
    """Raise ValueError for a wrong ending, no pyarrow or a report that exists, FileNotFoundError for no folder."""
    if report.suffix not in {".jsonl", ".parquet"}:
        raise ValueError(f"the report must be called something.jsonl or something.parquet, got {str(report)!r}")
    if not report.absolute().parent.is_dir():
        raise FileNotFoundError(f"there is no folder {report.absolute().parent}")
    if report.suffix == ".parquet":
        parquet.check()
    for file in dict.fromkeys((report, journal_of(report), aside_of(journal_of(report)))):
        if not resume and file.exists():
            raise ValueError(f"{file} exists; choose another name, or go on with it: --resume")
        if file.exists() and not file.is_file():
            raise ValueError(f"{file} is not a regular file")


def journal_of(report: Path) -> Path:
    """The file that rows are written to as they come."""
    return report.with_name(f"{report.name}.jsonl") if report.suffix == ".parquet" else report


def is_one_of(name: str, files: Sequence[Path]) -> bool:
    """Whether a name is that of one of the files."""
    return any(Path(name).name == file.name and os.path.realpath(name) == os.path.realpath(file) for file in files)


def rounded(verdict: Verdict) -> Verdict:
    """A verdict to as many digits as batches do not change: p to 2, correlations to 3 decimals.

    A p that rounding would bring to the other side of the level stays as it is: rows do not contradict themselves.
    """

    def digits(p: float | None) -> float | None:
        if p is None:
            return None
        near = float(f"{p:.{DIGITS - 1}e}")
        return near if verdict.fpr is None or (near <= verdict.fpr) == (p <= verdict.fpr) else p

    def decimals(r: float | None) -> float | None:
        return None if r is None else round(r, DECIMALS) + 0.0

    return replace(
        verdict,
        p_value=digits(verdict.p_value),
        rho=decimals(verdict.rho),
        correlation=decimals(verdict.correlation),
        number_p_value=digits(verdict.number_p_value),
    )


def was_tested(row: Row) -> bool:
    """Whether an image went through the networks."""
    return row["p_value"] is not None or row["reason"].startswith(OF_NOISE)


def verdict_of(row: Row, name: str) -> Verdict:
    """The verdict in a row, under another name."""
    fields: Row = {k: tuple(v) if isinstance(v, list) else v for k, v in row.items() if k != "configuration"}
    return Verdict(**fields | {"name": name})


@dataclass
class Waiting:
    """An image whose row is not written yet: what is known about it, and whether the verifier was given it."""

    name: str
    digest: str
    verdict: Verdict | None
    sent: bool = False


@dataclass(frozen=True)
class Batch:
    """Verdicts on files, by what is known and by testing them, with a row for each."""

    verifier: Verifier
    journal: Journal
    configuration: str

    def run(self, names: Iterator[str]) -> Iterator[Verdict]:
        """All verdicts in order."""
        for name in names:
            first = self.look_up(name)
            if first.verdict is not None:
                yield self.write(first, first.verdict)
            else:
                yield from self.test(chain([first], map(self.look_up, names)))

    def look_up(self, name: str) -> Waiting:
        """What is known about a file."""
        try:
            digest = hashlib.sha256(read_bytes(name)).hexdigest()
        except ImageError as error:
            reason = f"{error.code}: {error}"
            return Waiting(name, error.sha256, Verdict(name, UNREADABLE, reason=reason, sha256=error.sha256))
        row = self.journal.find(digest)
        return Waiting(name, digest, None if row is None else verdict_of(row, name))

    def test(self, images: Iterator[Waiting]) -> Iterator[Verdict]:
        """Verdicts in order, of images of which the first is unknown, until too many wait for one to be tested."""
        queue: deque[Waiting] = deque()
        sent: set[str] = set()
        most = HELD + 2 * self.verifier.batch_size

        def unknown() -> Iterator[str]:
            for image in images:
                queue.append(image)
                if image.verdict is None and image.digest not in sent:
                    image.sent = True
                    sent.add(image.digest)
                    yield image.name
                if len(queue) >= most:
                    return

        with closing(self.verifier.verify(unknown())) as answers:
            for answer in answers:
                while not queue[0].sent:
                    yield self.settle(queue.popleft())
                sent.discard(queue[0].digest)
                yield self.write(queue.popleft(), answer)
        while queue:
            yield self.settle(queue.popleft())

    def settle(self, image: Waiting) -> Verdict:
        """Write what is known by now about an image that the verifier was not given."""
        row = self.journal.find(image.digest) if image.verdict is None else None
        verdict = image.verdict if row is None else verdict_of(row, image.name)
        if verdict is None:  # the file with the same content was another one when it was read
            (verdict,) = self.verifier.verify([image.name])
        return self.write(image, verdict)

    def write(self, image: Waiting, verdict: Verdict) -> Verdict:
        """Write a row. An image that could not be read is found again in this run, but not by the next one."""
        verdict = rounded(verdict)
        self.journal.add(asdict(verdict) | {"configuration": self.configuration}, verdict.sha256 or image.digest)
        return verdict

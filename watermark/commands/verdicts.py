"""Verdicts of ``treering verify`` as they come: on standard output, or in a report."""

from __future__ import annotations

import sys
import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from watermark.commands.errors import CARRIED, NOT_CARRIED, TROUBLE, Trouble, understood
from watermark.commands.progress import Terminated, counting, ended_by_signals

if TYPE_CHECKING:
    from watermark.reports.tally import Tally
    from watermark.verdict import Verdict
    from watermark.verify import Verifier

VERDICT_FIELDS = (
    *("name", "status", "key", "p_value", "rho", "evidence", "keys_tried", "transforms_tried", "transform"),
    *("fpr", "other_keys", "null_hits", "null_images", "fpr_bound", "number", "correlation", "number_p_value"),
    *("reason", "warnings", "sha256"),
)


def show(
    verdicts: Generator[Verdict, None, None],
    form: str | None,
    total: int | None,
    images: tuple[str, ...] | None,
    keys: Iterable[str],
) -> Tally:
    """Print verdicts as they come; images are their names, if those are known."""
    from watermark.reports import tables
    from watermark.reports.tally import Tally

    tally = Tally()
    with understood(), ended_by_signals(), counting(total) as count, closing(verdicts):
        counted = (count(verdict) for verdict in map(tally.count, verdicts))
        if form == "csv":
            tables.write_csv(counted, VERDICT_FIELDS, sys.stdout)
        elif form == "json":
            for verdict in counted:
                click.echo(tables.json_line(verdict))
        else:
            rows = tables.Rows(sys.stdout, images, keys)
            for verdict in counted:
                rows.print(verdict)
        if form is None:
            click.echo(tally.evidence)
            suggest(tally)
    return tally


def suggest(tally: Tally) -> None:
    """Say what else could be tried where no more was than right angles and mirroring; the public is not told."""
    from watermark.verdict import NOT_DETECTED

    if tally.statuses[NOT_DETECTED] and 1 < tally.examples["widest"].transforms_tried <= 8:
        click.echo("a picture that was cropped, or turned by other than right angles, needs --wide")


def write(
    verifier: Verifier, names: Iterator[str], output: Path, resume: bool, also: dict[str, Any], total: int | None
) -> Tally:
    """Write verdicts to a file as they come, and print their numbers."""
    from watermark.batch import journal_of, verify_files
    from watermark.reports import tables
    from watermark.reports.configuration import configuration
    from watermark.reports.journal import aside_of
    from watermark.reports.tally import Tally

    tally, begun = Tally(), time.monotonic()
    with understood(), ended_by_signals(), keeping(journal_of(output), tally), counting(total) as count:
        made_with = configuration(verifier, also)
        with closing(verify_files(verifier, names, output, made_with, resume=resume)) as verdicts:
            for verdict in verdicts:
                count(tally.count(verdict))
    if tally.images:
        with understood():
            tables.print_table(tally.table(time.monotonic() - begun), sys.stdout)
            click.echo(f"{tally.evidence}\nreport: {output}")
            suggest(tally)
        aside = aside_of(journal_of(output))
        if aside.exists():
            click.echo(
                f"treering: verdicts on images that were not named this time are in {aside}: --resume with all "
                "names takes them up again; delete it if they are not wanted",
                err=True,
            )
    return tally


@contextmanager
def keeping(file: Path, tally: Tally) -> Iterator[None]:
    """Say what is kept where a run ends early."""
    try:
        yield
    except (OSError, KeyboardInterrupt, Terminated):
        if tally.images:
            click.echo(f"treering: {tally.images:,} verdicts are in {file}; go on with --resume", err=True)
        raise


def finish(tally: Tally) -> int:
    """The exit code."""
    from watermark.verdict import UNREADABLE, WATERMARKED

    if not tally.images:
        raise Trouble("there are no images")
    if tally.statuses[UNREADABLE]:
        return TROUBLE
    return CARRIED if tally.statuses[WATERMARKED] == tally.images else NOT_CARRIED

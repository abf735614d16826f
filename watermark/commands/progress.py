"""Progress bars, and the clean end of a command on SIGTERM."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from watermark.verdict import Verdict

TERMINATED = 128 + signal.SIGTERM


class Terminated(BaseException):
    """The program was told to end, by SIGTERM."""


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Raise Terminated on SIGTERM, so that files are closed and workers ended, and then exit with 143."""

    def stop(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise Terminated

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except Terminated:
        click.echo("treering: terminated", err=True)
        click.get_current_context().exit(TERMINATED)
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def counting(total: int | None) -> Iterator[Callable[[Verdict], Verdict]]:
    """A progress bar on stderr if that is a terminal; yields a function that counts a verdict and hands it on."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TimeRemainingColumn
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(f"{task.speed or 0:.3g} a second")

    columns = (BarColumn(), MofNCompleteColumn(), Rate(), TimeRemainingColumn(compact=True))
    console, shown = Console(stderr=True), sys.stderr.isatty()
    # Rows and the bar share a terminal only if standard output is one, too; else they must not be mixed.
    with Progress(*columns, console=console, disable=not shown, redirect_stdout=sys.stdout.isatty()) as bar:
        task = bar.add_task("verifying", total=total)

        def count(verdict: Verdict) -> Verdict:
            bar.advance(task)
            return verdict

        yield count


@contextmanager
def progress_bar() -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar on stderr if that is a terminal; yields track(description, done, total)."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    tasks: dict[str, Any] = {}
    with Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty()) as bar:

        def track(description: str, done: int, total: int) -> None:
            if description not in tasks:
                tasks[description] = bar.add_task(description, total=total)
            bar.update(tasks[description], completed=done, total=total)

        yield track

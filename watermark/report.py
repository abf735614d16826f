"""Verdicts and other records for people and machines: a table, JSON lines or CSV."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any, TextIO

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from watermark.verify import INCONCLUSIVE, NOT_DETECTED, UNREADABLE, WATERMARKED, Verdict

COLOURS = {WATERMARKED: "green", NOT_DETECTED: "default", INCONCLUSIVE: "yellow", UNREADABLE: "red"}


def printable(text: str) -> str:
    """Text that cannot disturb a terminal: anything unprintable as a Python escape."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in text)


def p_text(p: float | None) -> str:
    """A p-value as people read it."""
    return "–" if p is None else f"{p:.2g}"


def verdict_table(verdicts: Iterable[Verdict], title: str | None = None) -> Table:
    """Verdicts as a table: image, verdict, p, ρ, key, and what else there is to say."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for name, justify in (
        ("image", "left"),
        ("verdict", "left"),
        ("p", "right"),
        ("ρ", "right"),
        ("key", "left"),
    ):
        table.add_column(name, justify=justify, overflow="fold")  # type: ignore[arg-type]
    table.add_column("notes", overflow="fold")
    for v in verdicts:
        notes = "; ".join(filter(None, (v.reason, v.transform, *v.warnings)))
        status = f"[{COLOURS[v.status]}]{v.status}[/]"
        rho = "–" if v.rho is None else f"{v.rho:.3f}"
        table.add_row(
            escape(printable(v.name)), status, p_text(v.p_value), rho, v.key or "–", escape(printable(notes))
        )
    return table


def record_table(records: Iterable[Any], fields: Sequence[str]) -> Table:
    """Dataclasses as a plain table."""
    table = Table(*fields, box=None, pad_edge=False)
    for record in records:
        table.add_row(*(escape(printable(str(getattr(record, f)))) for f in fields))
    return table


def print_table(table: Table, file: TextIO) -> None:
    """Print a table, at its full width where the output is not a terminal."""
    console = Console(file=file, highlight=False)
    Console(file=file, highlight=False, width=None if console.is_terminal else 200).print(table)


def json_line(record: Any) -> str:  # noqa: ANN401 - any dataclass
    """A dataclass as one line of ASCII JSON."""
    return json.dumps(asdict(record), allow_nan=False)


def write_csv(records: Sequence[Any], fields: Sequence[str], file: TextIO) -> None:
    """Dataclasses as CSV with a header; sequences joined by '; ', None empty, unprintable characters escaped."""
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(fields)
    for record in records:
        row = []
        for value in (getattr(record, f) for f in fields):
            text = "; ".join(value) if isinstance(value, tuple) else "" if value is None else str(value)
            row.append(printable(text))
        writer.writerow(row)

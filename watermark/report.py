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

from watermark.verdict import INCONCLUSIVE, NOT_DETECTED, UNREADABLE, WATERMARKED, Verdict

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
        others = f"also {', '.join(v.other_keys)}" if v.other_keys else ""
        notes = "; ".join(filter(None, (v.reason, v.transform, others, number_text(v), *v.warnings)))
        status = f"[{COLOURS[v.status]}]{v.status}[/]"
        rho = "–" if v.rho is None else f"{v.rho:.3f}"
        table.add_row(
            escape(printable(v.name)), status, p_text(v.p_value), rho, v.key or "–", escape(printable(notes))
        )
    return table


def number_text(verdict: Verdict) -> str:
    """Which picture of the key it is, in words; empty if nothing was asked."""
    if verdict.number is None or verdict.number_p_value is None:
        return ""
    how = f"r = {verdict.correlation:.2f}, p = {p_text(verdict.number_p_value)}"
    return (
        f"picture {verdict.number} ({how})" if verdict.number_p_value <= 1e-6 else f"none of the pictures ({how})"
    )


def evidence_text(verdicts: Sequence[Verdict], fpr: float) -> str:
    """What the p-values of a table rest on, in one sentence or two."""
    tested = [v for v in verdicts if v.p_value is not None]
    if not tested:
        return "nothing was tested"
    one = tested[0]
    tried = f"{one.keys_tried} key{'s' * (one.keys_tried > 1)} × {one.transforms_tried} transformations"
    if one.null_images is None:
        return (
            f"level {fpr:g} over {tried}; p is over the secret choice of key; not calibrated: false positives of "
            "these very keys were not counted"
        )
    found = [v for v in tested if v.status == WATERMARKED and v.fpr_bound is not None]
    worst = max(((v.fpr_bound, v.null_hits) for v in found), default=None)
    counted = (
        f"calibrated on {one.null_images:,} null images"
        if worst is None
        else f"calibrated: at most {worst[1]} of {one.null_images:,} null images fit as well as what was found: a "
        f"rate of at most {worst[0]:.1e} at 95 % confidence"
    )
    return f"level {fpr:g} over {tried}; p is over the secret choice of key; {counted}"


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

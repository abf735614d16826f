"""Verdicts and other records for people and machines: a table, JSON lines or CSV."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any, TextIO

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from watermark.verdict import (
    INCONCLUSIVE,
    KEY_BASED,
    MODEL_BASED,
    NOT_DETECTED,
    NULL_BASED,
    UNREADABLE,
    WATERMARKED,
    Verdict,
)

EVIDENCE = {
    KEY_BASED: "p is exact over the random choice of the key, for any image",
    NULL_BASED: "p is the share of null images that fit as well; another key of such a kind may fit more often",
    MODEL_BASED: "p holds for white noise only, which recovered noise is not",
}
COLOURS = {WATERMARKED: "green", NOT_DETECTED: "default", INCONCLUSIVE: "yellow", UNREADABLE: "red"}

COLUMNS = (
    ("image", "left"),
    ("verdict", "left"),
    ("p", "right"),
    ("ρ", "right"),
    ("key", "left"),
    ("notes", "left"),
)
WIDE = 200  # characters where the output is no terminal


def printable(text: str) -> str:
    """Text that cannot disturb a terminal: anything unprintable as a Python escape."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in text)


def plain(text: str) -> Text:
    """Text in a table, as it is: no part of it is a colour or an emoji."""
    return Text(printable(text))


def p_text(p: float | None) -> str:
    """A p-value as people read it."""
    return "–" if p is None else f"{p:.2g}"


def verdict_table(
    verdicts: Iterable[Verdict], title: str | None = None, widths: Sequence[int] | None = None
) -> Table:
    """Verdicts as a table: image, verdict, p, ρ, key, and what else there is to say.

    Args:
        verdicts: one a row.
        title: above the table.
        widths: in characters, of all columns but the last, for rows that come one by one, without a heading.
    """
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, show_header=widths is None)
    for i, (name, justify) in enumerate(COLUMNS):
        width = widths[i] if widths is not None and i < len(widths) else None
        table.add_column(name, justify=justify, overflow="fold", width=width)  # type: ignore[arg-type]
    for v in verdicts:
        others = f"also {', '.join(v.other_keys)}" if v.other_keys else ""
        seen = "" if v.status == NOT_DETECTED else v.transform
        notes = "; ".join(filter(None, (v.reason, seen, others, number_text(v), *v.warnings)))
        status = Text(v.status, COLOURS[v.status])
        rho = "–" if v.rho is None else f"{v.rho:.3f}"
        table.add_row(
            plain(v.name),
            status,
            p_text(v.p_value),
            rho,
            plain(v.key or "–"),
            plain(notes),
        )
    return table


def number_text(verdict: Verdict) -> str:
    """Which picture of the key it is, in words; empty if nothing was asked."""
    which = "none of the pictures" if verdict.number is None else f"picture {verdict.number}"
    if verdict.correlation is None:
        return "" if verdict.number is None else which
    return f"{which} (r = {verdict.correlation:.2f}, p = {p_text(verdict.number_p_value)})"


def evidence_text(verdicts: Sequence[Verdict]) -> str:
    """What the p-values of a table rest on, a few lines."""
    tested = [v for v in verdicts if v.p_value is not None]
    if not tested:
        return "nothing was tested"
    one = max(tested, key=lambda v: v.transforms_tried)
    keys, places = (
        f"{n} {what}{'s' * (n > 1)}"
        for n, what in ((one.keys_tried, "key"), (one.transforms_tried, "transformation"))
    )
    lines = [
        f"level {one.fpr:g}, p corrected for {keys} × {places}" if one.transforms_tried else f"level {one.fpr:g}"
    ]
    lines += [f"{kind}: {EVIDENCE[kind]}" for kind in EVIDENCE if any(v.evidence == kind for v in tested)]
    found = [(v.null_hits, v.fpr_bound) for v in tested if v.status == WATERMARKED and v.fpr_bound is not None]
    if one.null_images is None and one.transforms_tried:
        lines.append(
            "false positives of these keys were not counted, as there are no null images: see treering calibrate"
        )
    elif found:
        hits, bound = max(found)
        alone = "which is as much as so many can say" if not hits else "which is above the level"
        within = "within the level" if bound <= (one.fpr or 0) else alone
        lines.append(
            f"null images: at most {hits} of {one.null_images:,} fit as well as what was found, a rate of at most "
            f"{bound:.1e} at 95 % confidence, {within}"
        )
    return "\n".join(lines)


def record_table(records: Iterable[Any], fields: Sequence[str]) -> Table:
    """Dataclasses as a plain table."""
    table = Table(*(Column(f, overflow="fold") for f in fields), box=None, pad_edge=False)
    for record in records:
        table.add_row(*(plain(str(getattr(record, f))) for f in fields))
    return table


def print_table(table: Table, file: TextIO) -> None:
    """Print a table, at its full width where the output is not a terminal."""
    console_of(file).print(table)


def console_of(file: TextIO) -> Console:
    """Where tables are printed, as wide as the terminal, or wide enough."""
    return Console(file=file, highlight=False, width=None if Console(file=file).is_terminal else WIDE)


class Rows:
    """A table of verdicts that is printed row by row.

    Args:
        file: where.
        images: names of the images that will come, and the column is as wide as these need; None if nobody knows.
        keys: names of the keys.
    """

    def __init__(self, file: TextIO, images: Iterable[str] | None, keys: Iterable[str]) -> None:
        self.console = console_of(file)
        most = self.console.width // 3
        image = most if images is None else max(len("image"), *(len(printable(name)) for name in images), 0)
        key = max(len("key"), *(len(printable(name)) for name in keys), 0)
        status = max(map(len, COLOURS))
        self.widths = (min(image, most), status, len("1.2e-123"), len("-0.123"), min(key, most // 2))
        self.begun = False

    def print(self, verdict: Verdict) -> None:
        """One row; before the first, the heading."""
        if not self.begun:
            heading = Table(box=None, pad_edge=False)
            for (name, justify), width in zip(COLUMNS, (*self.widths, None), strict=True):
                heading.add_column(name, justify=justify, width=width)  # type: ignore[arg-type]
            self.console.print(heading)
            self.begun = True
        self.console.print(verdict_table([verdict], widths=self.widths))


def json_line(record: Any) -> str:  # noqa: ANN401 - any dataclass
    """A dataclass as one line of ASCII JSON."""
    return json.dumps(asdict(record), allow_nan=False)


def write_csv(records: Iterable[Any], fields: Sequence[str], file: TextIO) -> None:
    """Dataclasses as CSV with a header; sequences joined by '; ', None empty, unprintable characters escaped."""
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(fields)
    for record in records:
        row = []
        for value in (getattr(record, f) for f in fields):
            text = "; ".join(value) if isinstance(value, tuple) else "" if value is None else str(value)
            row.append(printable(text))
        writer.writerow(row)

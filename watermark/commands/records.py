"""Records on standard output: JSON lines, CSV or a table."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import click


def write_records(records: Sequence[Any], fields: Sequence[str], form: str | None) -> None:
    """Write dataclasses to stdout as JSON lines, CSV or a table."""
    from watermark.reports import tables

    out = sys.stdout
    if form == "json":
        for record in records:
            click.echo(tables.json_line(record))
    elif form == "csv":
        tables.write_csv(records, fields, out)
    else:
        tables.print_table(tables.record_table(records, fields), out)

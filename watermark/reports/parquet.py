"""Reports as Parquet files, by pyarrow: ``pip install 'treering[parquet]'``."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any

from watermark.files import appearing
from watermark.reports.journal import rows
from watermark.reports.row import COLUMNS, COUNTS, LISTS, NUMBERS, Row, no_row

ROWS = 10_000


def check() -> None:
    """Raise ValueError if pyarrow is not installed."""
    try:
        arrow(), arrow_parquet()
    except ModuleNotFoundError:
        raise ValueError("Parquet needs pyarrow: pip install 'treering[parquet]', or write .jsonl") from None


def arrow() -> Any:  # noqa: ANN401 - pyarrow is untyped
    """Its arrays and tables."""
    return import_module("pyarrow")


def arrow_parquet() -> Any:  # noqa: ANN401
    """Its reader and writer of files."""
    return import_module("pyarrow.parquet")


def schema() -> Any:  # noqa: ANN401
    """The columns of a report."""
    pa = arrow()
    kinds = dict.fromkeys(COLUMNS, pa.string())
    kinds |= dict.fromkeys(NUMBERS, pa.float64()) | dict.fromkeys(COUNTS, pa.int64())
    return pa.schema(kinds | dict.fromkeys(LISTS, pa.list_(pa.string())))


def from_rows(journal: Path, file: Path) -> None:
    """Write the rows of a journal as Parquet, some thousands at a time; the file appears whole or not at all.

    Bytes of names that are not UTF-8 become backslash escapes, since Parquet has nothing but UTF-8.

    Raises:
        OSError: if it cannot be written.
    """
    pa, pq = arrow(), arrow_parquet()
    with appearing(file) as part, pq.ParquetWriter(part, schema()) as writer:
        every = (plain(row) for _, row in rows(journal))
        while chunk := list(islice(every, ROWS)):
            writer.write_table(pa.Table.from_pylist(chunk, schema()))


def to_rows(file: Path) -> Iterator[Row]:
    """The rows of a Parquet report.

    Raises:
        ValueError: if it is not a report.
        OSError: if it cannot be read.
    """
    try:
        with arrow_parquet().ParquetFile(file) as table:
            for batch in table.iter_batches(ROWS):
                for row in batch.to_pylist():
                    kept = {name: row[name] for name in COLUMNS}
                    if no_row(kept):
                        raise ValueError
                    yield kept
    except (arrow().ArrowInvalid, KeyError, ValueError):
        raise ValueError(f"{file} is no report of treering verify") from None


def plain(row: Row) -> Row:
    """A row with nothing but UTF-8 in it."""

    def utf8(value: Any) -> Any:  # noqa: ANN401 - whatever a row holds
        if isinstance(value, list):
            return [utf8(part) for part in value]
        return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value

    return {name: utf8(value) for name, value in row.items()}

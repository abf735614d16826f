"""Puts the tables of the benchmarks into ``README.md`` and ``benchmarks/README.md``: none is typed by hand.

    python -m benchmarks.readme            writes both
    python -m benchmarks.readme --check    changes nothing; exits with 1 if it would

Between ``<!-- quality -->`` and ``<!-- /quality -->``, each in a line of its own, goes the table that
``benchmarks.quality.readme_table`` makes of ``results/quality.json``; likewise for every other benchmark. Between
``<!-- calibration.power_table -->`` and its end goes what ``benchmarks.calibration_report.power_table`` makes.
"""

from __future__ import annotations

import importlib
import json
import re
import sys
from pathlib import Path

import click

from benchmarks.kept import weights
from benchmarks.record import RESULTS

DOCUMENTS = (RESULTS.parents[1] / "README.md", RESULTS.parent / "README.md")
MARKER = re.compile(r"^<!-- (/?)([\w.]+) -->$", re.MULTILINE)


class ReadmeError(ValueError):
    """A document or a result that the tables cannot be made from."""


def table(marker: str, results: Path) -> str:
    """The table of a benchmark from its result file; of several tables the one that the marker names.

    A result of other weights than those that are shipped says so.

    Raises:
        ReadmeError: if there is no such benchmark, no such table, or no result.
    """
    name, _, which = marker.partition(".")
    file = results / f"{name}.json"
    if not file.is_file():
        raise ReadmeError(f"<!-- {marker} -->: there is no {file.name}; run python -m benchmarks.{name}")
    try:
        module = importlib.import_module(f"benchmarks.{name}_report" if which else f"benchmarks.{name}")
        make = getattr(module, which or "readme_table")
    except (ModuleNotFoundError, AttributeError) as error:
        raise ReadmeError(f"<!-- {marker} -->: {error}") from error
    result = json.loads(file.read_text(encoding="utf-8"))
    made: str = make(result)
    shipped = weights("sapling")
    measured = result.get("settings", {}).get("weights", shipped)
    return made if measured == shipped else f"*Measured on other weights than those shipped: {measured}.*\n\n{made}"


def with_tables(text: str, results: Path) -> str:
    """A document with every table between markers made anew, and nothing else changed.

    Raises:
        ReadmeError: also if a marker has no partner, or there are none.
    """
    markers = list(MARKER.finditer(text))
    if not markers:
        raise ReadmeError("no markers such as <!-- decoder_inversion --> … <!-- /decoder_inversion -->")
    out, end = [], 0
    for opening, closing in zip(markers[::2], [*markers[1::2], None], strict=False):
        if opening[1] or closing is None or (closing[1], closing[2]) != ("/", opening[2]):
            raise ReadmeError(f"{opening[0]} has no partner")
        out += [text[end : opening.end()], f"\n\n{table(opening[2], results)}\n\n"]
        end = closing.start()
    return "".join([*out, text[end:]])


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--check", is_flag=True, help="Change nothing; exit with 1 if a table is not up to date.")
@click.option(
    "--document",
    "documents",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    multiple=True,
    default=DOCUMENTS,
    help="Markdown to put them into; may be repeated.  [default: the project's own]",
)
@click.option("--results", type=click.Path(exists=True, file_okay=False, path_type=Path), default=RESULTS)
def main(check: bool, documents: tuple[Path, ...], results: Path) -> None:
    """Put the tables of the benchmarks into the documents that show them."""
    stale = False
    for document in documents:
        before = document.read_text(encoding="utf-8")
        try:
            after = with_tables(before, results)
        except ReadmeError as error:
            raise click.UsageError(f"{document}: {error}") from error
        if after == before:
            click.echo(f"{document} is up to date")
        elif check:
            click.echo(f"{document} is not up to date: run python -m benchmarks.readme")
            stale = True
        else:
            document.write_text(after, encoding="utf-8")
            click.echo(f"wrote {document}")
    if stale:
        sys.exit(1)


if __name__ == "__main__":
    main()

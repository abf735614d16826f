"""Puts the tables of the benchmarks into the README, so that no number in them is typed by hand.

    python -m benchmarks.readme            writes the README
    python -m benchmarks.readme --check    changes nothing; exits with 1 if it would

Between ``<!-- verdicts -->`` and ``<!-- /verdicts -->``, each in a line of its own, goes the table that
``benchmarks.verdicts.readme_table`` makes of ``results/verdicts.json``; likewise for every other benchmark.
"""

from __future__ import annotations

import importlib
import json
import re
import sys
from pathlib import Path

import click

from benchmarks.record import RESULTS

README = RESULTS.parents[1] / "README.md"
MARKER = re.compile(r"^<!-- (/?)(\w+) -->$", re.MULTILINE)


class ReadmeError(ValueError):
    """A README or a result that the tables cannot be made from."""


def table(name: str, results: Path) -> str:
    """The table of a benchmark from its result file.

    Raises:
        ReadmeError: if there is no such benchmark or no result of it.
    """
    file = results / f"{name}.json"
    if not file.is_file():
        raise ReadmeError(f"<!-- {name} -->: there is no {file.name}; run python -m benchmarks.{name}")
    try:
        make = importlib.import_module(f"benchmarks.{name}").readme_table
    except (ModuleNotFoundError, AttributeError) as error:
        raise ReadmeError(f"<!-- {name} -->: {error}") from error
    made: str = make(json.loads(file.read_text(encoding="utf-8")))
    return made


def with_tables(text: str, results: Path) -> str:
    """A README with every table between markers made anew, and nothing else changed.

    Raises:
        ReadmeError: also if a marker has no partner, or there are none.
    """
    markers = list(MARKER.finditer(text))
    if not markers:
        raise ReadmeError("no markers such as <!-- verdicts --> … <!-- /verdicts -->")
    out, end = [], 0
    for opening, closing in zip(markers[::2], [*markers[1::2], None], strict=False):
        if opening[1] or closing is None or (closing[1], closing[2]) != ("/", opening[2]):
            raise ReadmeError(f"{opening[0]} has no partner")
        out += [text[end : opening.end()], f"\n\n{table(opening[2], results)}\n\n"]
        end = closing.start()
    return "".join([*out, text[end:]])


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--check", is_flag=True, help="Change nothing; exit with 1 if the README is not up to date.")
@click.option("--readme", type=click.Path(exists=True, dir_okay=False, path_type=Path), default=README)
@click.option("--results", type=click.Path(exists=True, file_okay=False, path_type=Path), default=RESULTS)
def main(check: bool, readme: Path, results: Path) -> None:
    """Put the tables of the benchmarks into the README."""
    before = readme.read_text(encoding="utf-8")
    try:
        after = with_tables(before, results)
    except ReadmeError as error:
        raise click.UsageError(f"{readme.name}: {error}") from error
    if after == before:
        click.echo(f"{readme.name} is up to date")
        return
    if check:
        click.echo(f"{readme.name} is not up to date: run python -m benchmarks.readme")
        sys.exit(1)
    readme.write_text(after, encoding="utf-8")
    click.echo(f"wrote {readme.name}")


if __name__ == "__main__":
    main()

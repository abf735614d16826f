"""The command ``treering demo``."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from watermark.commands.errors import CARRIED, NOT_CARRIED, understood
from watermark.commands.models import quiet_loaders
from watermark.commands.options import fpr_option
from watermark.commands.progress import progress_bar


@click.command()
@click.option(
    "-o",
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("treering-demo"),
    show_default=True,
)
@fpr_option
def demo(output: Path, fpr: float) -> int:
    """Mark pictures, compress them, and tell them from unmarked ones.

    Makes a key, generates 8 marked and 8 unmarked pictures with the embedded model, adds crops of real photographs,
    verifies all of them, compresses the marked ones as JPEG and verifies again. Writes the images, the key and a
    figure. Exits with 0 if exactly the marked ones are found.

    \b
    treering demo
    treering demo -o /tmp/demo --fpr 1e-3
    """
    from watermark.demo import run
    from watermark.reports import tables

    quiet_loaders()
    with understood(), progress_bar() as track:
        groups, figure = run(output, fpr=fpr, track=track)
    out = sys.stdout
    for group in groups:
        tables.print_table(tables.verdict_table(group.verdicts, title=group.title), out)
        click.echo()
    for group in groups:
        click.echo(f"{group.title}: {group.found} of {len(group.verdicts)} found")
    click.echo(f"level: p ≤ {fpr:g}    figure: {figure}")
    right = all(group.found == (len(group.verdicts) if group.marked else 0) for group in groups)
    return CARRIED if right else NOT_CARRIED

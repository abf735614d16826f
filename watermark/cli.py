"""The command ``treering``: maps words to functions and errors to exit codes.

Heavy modules are imported inside the commands, so that ``--help`` is quick and the check for name clashes comes
before anything that a clash could break.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from importlib import metadata
from io import TextIOWrapper
from itertools import count as count_from
from pathlib import Path
from typing import Any

import click

from watermark.commands.calibrate import calibrate
from watermark.commands.edit import edit
from watermark.commands.keys import key
from watermark.commands.mark import mark
from watermark.commands.options import (
    CARRIED,
    NOT_CARRIED,
    TROUBLE,
    Trouble,
    fpr_option,
    key_store,
    load_model,
    marking_key,
    model_options,
    output_options,
    progress_bar,
    quiet_loaders,
    store_option,
    understood,
    write_records,
)
from watermark.commands.verify import inspect, verify

INTERRUPTED = 130


def main(args: list[str] | None = None) -> int:
    """Entry point; returns 0: every image carries a key, 1: some image does not, 2: trouble, 130: interrupted."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    prepare_streams()
    try:
        check_name_clash()
        result = cli.main(args=args, prog_name="treering", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except (click.Abort, KeyboardInterrupt):
        tell(lambda: click.echo("treering: interrupted", err=True))
        return INTERRUPTED
    except click.ClickException as error:
        tell(error.show)
        return TROUBLE
    except SystemExit:  # click's answer to a closed pipe
        return TROUBLE
    except Exception:
        text = f"{traceback.format_exc()}treering: this is a bug; please report it with the lines above"
        tell(lambda: click.echo(text, err=True))
        return TROUBLE


def prepare_streams() -> None:
    """Nothing in the place of a stream that is closed; escapes for characters that a terminal does not have."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115 - for good
        elif mode == "w" and isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def tell(say: Callable[[], object]) -> None:
    """Say something on stderr, or nothing if that cannot be written: the exit code says it, too."""
    try:
        say()
    except OSError:
        sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - until the end


def check_name_clash() -> None:
    """Stop if a PyPI project that installs the same top-level names is installed beside treering."""
    for name in ("watermark", "inversion"):
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
        raise Trouble(
            f"the PyPI project {name!r} ({version}) is installed beside treering, and both own the module "
            f"{name!r}. Run: pip uninstall {name}, then install treering again with pip's --force-reinstall"
        )


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="treering")
def cli() -> None:
    """Tree-ring watermarks for latent diffusion models: embed them, and verify suspect images.

    \b
    treering demo                               see it work, in a minute or two
    treering key create alice                   make a key
    treering embed "a red apple" --key alice    generate a picture that carries it
    treering verify *.png --key alice           which pictures carry it?
    treering mark photo.png --key alice         write a key into a picture that exists
    treering edit photo.png --prompt "a tiger"  change a part of it, keep the rest
    treering inspect x.png --key alice          look at its spectrum
    treering calibrate --images photos/ -o c    count false positives

    Exit codes: 0 every image carries a key, 1 some image does not, 2 trouble, 130 interrupted, 143 terminated.
    """


@cli.command()
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


for command in (key, verify, inspect, calibrate, mark, edit):
    cli.add_command(command)


@cli.command()
@click.argument("prompts", nargs=-1, required=True)
@click.option("--key", "key_name", required=True, help="Key to mark with.")
@click.option(
    "-n", "--count", type=click.IntRange(1), default=1, show_default=True, help="Pictures for each prompt."
)
@click.option("-o", "--output", type=click.Path(file_okay=False, path_type=Path), default=Path(), show_default=True)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**32 - 1),
    help="Seed of the first picture, to make the same ones again. Who knows it, or tries all, learns the key from "
    "one of them.  [default: noise that nobody can repeat]",
)
@click.option(
    "--number",
    type=click.IntRange(0),
    help="Number of the first picture: its noise comes from the key alone, so that verify --numbers knows it.",
)
@click.option("--guidance", type=float, default=3.0, show_default=True, help="Classifier-free guidance scale.")
@click.option("--steps", type=click.IntRange(1), default=50, show_default=True, help="DDIM steps.")
@click.option("--batch-size", type=click.IntRange(1), default=8, show_default=True)
@store_option
@model_options
@output_options
def embed(
    prompts: tuple[str, ...],
    key_name: str,
    count: int,
    output: Path,
    seed: int | None,
    number: int | None,
    guidance: float,
    steps: int,
    batch_size: int,
    store: Path,
    form: str | None,
    **model: Any,  # noqa: ANN401 - exactly the options of model_options
) -> None:
    """Generate watermarked pictures.

    Files are named after the prompt and the seed or number, or counted from 1.

    \b
    treering embed "a red apple on a blue background" --key alice
    treering embed "a tiger" "a strawberry" --key alice -n 4 -o out/ --seed 7
    treering embed "a tiger" --key alice -n 10 --number 100
    treering embed "a photo of a fox" --key alice --model stable-diffusion-v1-5/stable-diffusion-v1-5 --guidance 7.5
    """
    from watermark.generate import generate, save

    every = [prompt for prompt in prompts for _ in range(count)]
    if number is not None and seed is not None:
        raise click.UsageError("give --seed or --number, not both")
    first = seed if number is None else number
    with understood():
        ring_key = marking_key(key_store(store), key_name, model["model"])
        output.mkdir(parents=True, exist_ok=True)
        files = new_files(every, output, first)
    loaded = load_model(**model)
    with understood(), progress_bar() as track:
        made = generate(
            loaded,
            every,
            key=ring_key,
            seed=first,
            numbered=number is not None,
            guidance=guidance,
            steps=steps,
            batch_size=batch_size,
            progress=lambda done, total: track(f"generating {len(every)} pictures", done, total),
        )
        saved = [save(picture, file) for picture, file in zip(made, files, strict=True)]
    write_records(saved, ["path", "prompt", *(["seed"] if first is not None else [])], form)


def new_files(prompts: list[str], folder: Path, first: int | None) -> list[Path]:
    """Where pictures are written: with numbers from the first one on, or from the first at which none exists."""
    from watermark.generate import file_name

    for start in count_from(1) if first is None else (first,):
        files = [folder / file_name(prompt, start + i) for i, prompt in enumerate(prompts)]
        there = [file for file in files if file.exists()]
        if not there:
            return files
    raise Trouble(f"{there[0]} exists; choose another --seed, --number or --output")

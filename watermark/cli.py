"""The command ``treering``: maps words to functions and errors to exit codes.

Heavy modules are imported inside the commands, so that ``--help`` is quick and the check for name clashes comes
before anything that a clash could break.
"""

from __future__ import annotations

import errno
import os
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from importlib import metadata
from io import TextIOWrapper
from pathlib import Path

import click

from watermark.commands.calibrate import calibrate
from watermark.commands.demo import demo
from watermark.commands.edit import edit
from watermark.commands.embed import embed
from watermark.commands.errors import TROUBLE, Trouble
from watermark.commands.inspect import inspect
from watermark.commands.keys import key
from watermark.commands.mark import mark
from watermark.commands.verify import verify

INTERRUPTED = 130


def main(args: list[str] | None = None) -> int:
    """Entry point; returns 0: every image carries a key, 1: some image does not, 2: trouble, 130: interrupted."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    prepare_streams()
    try:
        check_name_clash()
        result = cli.main(args=args, prog_name="treering", standalone_mode=False)
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except (click.Abort, KeyboardInterrupt):
        tell(lambda: click.echo("treering: interrupted", err=True))
        return INTERRUPTED
    except click.ClickException as error:
        tell(error.show)
        return TROUBLE
    except SystemExit:  # click's answer to a closed pipe
        return TROUBLE
    except OSError as error:
        give_up_output()
        if error.errno != errno.EPIPE:
            text = f"Error: {error}"
            tell(lambda: click.echo(text, err=True))
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


def give_up_output() -> None:
    """Let what could not be written to stdout go, so that the interpreter does not try again when it ends."""
    with suppress(OSError, ValueError):  # a stream without a file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


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


for command in (demo, key, embed, verify, inspect, calibrate, mark, edit):
    cli.add_command(command)

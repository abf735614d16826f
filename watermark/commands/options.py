"""What the commands share: options, progress, output, and the library's errors as messages."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from inversion import LatentDiffusionModel
    from watermark.keys import RingKey
    from watermark.keystore.store import KeyStore

CARRIED, NOT_CARRIED, TROUBLE = 0, 1, 2
FPR = 1e-6
FILE_IN_META = "watermark.passphrase_file"


fpr_option = click.option(
    "--fpr",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=FPR,
    show_default=True,
    help="Call an image watermarked if its p-value, corrected for all that was looked at, is at most this, and "
    "not more null images pass than this level allows.",
)


class NumberList(click.ParamType):
    """Numbers between commas."""

    name = "numbers"

    def convert(
        self, value: str | tuple[int, ...], param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        """The numbers as a tuple."""
        try:
            return value if isinstance(value, tuple) else tuple(int(number) for number in value.split(","))
        except ValueError:
            self.fail(f"{value!r} is not numbers between commas, like 4,64,64", param, ctx)


DECODERS = ("shrinkage", "anderson", "forward_step", "encoder")


def inversion_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options of how noise is recovered."""
    command = click.option(
        "--decoder",
        type=click.Choice(DECODERS),
        default=DECODERS[0],
        show_default=True,
        help="How pixels become latents. shrinkage: decoder inversion, taken back where pixels seem changed; "
        "anderson: without that; forward_step: as published; encoder: none. A calibration is for one of them.",
    )(command)
    return click.option(
        "--steps", type=click.IntRange(1), default=10, show_default=True, help="Steps of diffusion inversion."
    )(command)


class Trouble(click.ClickException):
    """A problem that the user can understand and mend."""

    exit_code = TROUBLE


@contextmanager
def understood() -> Iterator[None]:
    """Turn the library's own errors into messages."""
    from watermark.keystore.store import KeyStoreError

    try:
        yield
    except (KeyStoreError, OSError, ValueError) as error:
        raise Trouble(str(error)) from error
    except (MemoryError, RuntimeError) as error:
        from inversion.chunks import out_of_memory

        if not out_of_memory(error):
            raise
        raise Trouble("memory ran out; try smaller batches (--batch-size) where there is the option") from error


@contextmanager
def progress_bar() -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar on stderr if that is a terminal; yields track(description, done, total)."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    tasks: dict[str, Any] = {}
    with Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty()) as bar:

        def track(description: str, done: int, total: int) -> None:
            if description not in tasks:
                tasks[description] = bar.add_task(description, total=total)
            bar.update(tasks[description], completed=done, total=total)

        yield track


def model_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options that choose and load a model."""
    for option in (
        click.option("--revision", help="Revision of a hub model."),
        click.option("--variant", help="File variant of the weights, e.g. fp16."),
        click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1, mps or auto."),
        click.option(
            "--dtype", type=click.Choice(["auto", "fp32", "bf16", "fp16"]), default="auto", show_default=True
        ),
        click.option(
            "--model", default="sapling", show_default=True, help="sapling, a diffusers folder or a hub id."
        ),
    ):
        command = option(command)
    return command


def store_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say where keys are kept and what opens them; the command gets ``store``, the path.

    :func:`key_store` finds the passphrase file by itself.
    """
    default = Path(click.get_app_dir("treering")) / "keys.db"
    command = click.option(
        "--passphrase-file",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        expose_value=False,
        callback=lambda context, _, file: context.meta.update({FILE_IN_META: file}),
        help="File whose first line opens an encrypted key store. [default: $TREERING_PASSPHRASE, or ask]",
    )(command)
    return click.option(
        "--store",
        type=click.Path(dir_okay=False, path_type=Path),
        default=default,
        envvar="TREERING_STORE",
        show_default=True,
        show_envvar=True,
        help="Key store.",
    )(command)


def output_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options for machine-readable output."""
    command = click.option("--csv", "form", flag_value="csv", help="CSV with a header.")(command)
    return click.option("--json", "form", flag_value="json", help="One JSON object a line.")(command)


def quiet_loaders() -> None:
    """Turn off the progress bars and warnings of diffusers and transformers."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    for logging in (diffusers_logging, transformers_logging):
        logging.disable_progress_bar()
        logging.set_verbosity_error()


def load_model(
    model: str, dtype: str, device: str, variant: str | None, revision: str | None
) -> LatentDiffusionModel:
    """Load a model, quietly."""
    from inversion import LatentDiffusionModel

    quiet_loaders()
    with understood():
        return LatentDiffusionModel.load(model, dtype=dtype, device=device, variant=variant, revision=revision)


def key_store(path: Path) -> KeyStore:
    """Open a key store with its passphrase, which is asked for at a terminal if the store is encrypted.

    Raises:
        Trouble: if it is encrypted and there is no passphrase.
        KeyStoreError: if the store cannot be read.
    """
    from watermark.keystore.store import KeyStore

    given = given_passphrase()
    if given is None and KeyStore(path).encrypted:
        if not sys.stdin.isatty():
            raise Trouble(f"{path} is encrypted; give its passphrase in TREERING_PASSPHRASE or --passphrase-file")
        given = click.prompt(f"Passphrase of {path}", hide_input=True, err=True)
    return KeyStore(path, given)


def given_passphrase() -> str | None:
    """The passphrase of the key store from its file or the environment, None without either."""
    file: Path | None = click.get_current_context().meta.get(FILE_IN_META)
    if file is None:
        return os.environ.get("TREERING_PASSPHRASE") or None
    first = os.fsdecode(b"".join(file.read_bytes().splitlines()[:1]))
    if not first:
        raise Trouble(f"{file} has no passphrase in its first line")
    return first


def new_passphrase(what: str, variable: str) -> str:
    """A new passphrase from the environment or, twice, from the terminal. Raises Trouble without either."""
    given = os.environ.get(variable)
    if given:
        return given
    if not sys.stdin.isatty():
        raise Trouble(f"no passphrase for {what}: set {variable}, or run this in a terminal")
    return click.prompt(f"New passphrase of {what}", hide_input=True, confirmation_prompt=True, err=True)


def marking_key(store: KeyStore, name: str, model: str) -> RingKey:
    """A key to mark pictures of a model with. Raises Trouble if it is revoked, or meant for another model."""
    entry = store.entry(name)
    if entry.revoked is not None:
        raise Trouble(f"the key {name!r} is revoked since {entry.revoked}: it can be verified, not embedded")
    if entry.model and entry.model != model:
        raise Trouble(f"the key {name!r} is meant for the model {entry.model!r}, not {model!r}")
    return store.get(name)


def warn_of_revoked(store: KeyStore, names: Iterable[str]) -> None:
    """Say on stderr which of the keys are revoked."""
    for name in names:
        revoked = store.entry(name).revoked
        if revoked is not None:
            click.echo(f"treering: warning: the key {name!r} is revoked since {revoked}", err=True)


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

"""The key store of a command: what opens it, and which of its keys may be used for what."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from watermark.commands.errors import Trouble
from watermark.commands.options import FILE_IN_META

if TYPE_CHECKING:
    from watermark.keys import RingKey
    from watermark.keystore.entries import Entry
    from watermark.keystore.store import KeyStore


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
    first = b"".join(file.read_bytes().splitlines()[:1]).decode("utf-8", "surrogateescape")  # wherever it is read
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


def warn_of_revoked(entries: Iterable[Entry]) -> None:
    """Say on stderr which of the keys are revoked."""
    for entry in entries:
        if entry.revoked is not None:
            click.echo(f"treering: warning: the key {entry.name!r} is revoked since {entry.revoked}", err=True)

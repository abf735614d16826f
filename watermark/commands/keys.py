"""The commands under ``treering key``."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from watermark.commands.effect import effect
from watermark.commands.errors import Trouble, understood
from watermark.commands.foreign import foreign
from watermark.commands.options import output_options, store_option
from watermark.commands.parameters import NumberList
from watermark.commands.records import write_records
from watermark.commands.stores import given_passphrase, key_store, new_passphrase

if TYPE_CHECKING:
    from watermark.keystore.store import Entry

FIELDS = ("name", "id", "created", "revoked", "pattern", "model", "label")
KINDS = ("dense", "rings", "levels", "zeros")


@click.group()
def key() -> None:
    """Make and keep keys. Secrets are never printed.

    A key store may be encrypted: treering key encrypt. Its passphrase then comes from --passphrase-file,
    TREERING_PASSPHRASE or the terminal; list, show, revoke and delete do without.

    \b
    treering key create alice --label "team A"
    treering key list
    treering key export alice -o alice.key
    treering key import alice.key --name alice2
    """


key.add_command(effect)
key.add_command(foreign)


@key.command()
@click.argument("name")
@click.option("--kind", type=click.Choice(KINDS), default="dense", show_default=True, help="What it writes.")
@click.option("--channels", type=NumberList(), help="Latent channels to mark, e.g. 0,3. [default: by the model]")
@click.option("--inner", type=click.IntRange(1), default=3, show_default=True, help="Smallest marked radius.")
@click.option("--outer", type=click.IntRange(1), help="Largest marked radius. [default: by the model]")
@click.option(
    "--model",
    default="",
    help="The only model that the key may mark, and be looked for with, as given to --model there.",
)
@click.option("--label", default="", help="A note to find the key by.")
@store_option
def create(
    name: str,
    kind: str,
    channels: tuple[int, ...] | None,
    inner: int,
    outer: int | None,
    model: str,
    label: str,
    store: Path,
) -> None:
    """Make a new key from 256 random bits.

    The kinds, most evidence first; radii are in cycles across the shorter side of a latent.

    \b
    dense   a value of its own for every frequency
    rings   one value for each ring
    levels  +1 or -1 for each ring: p of m rings is at least 2^-m, far above the default level
    zeros   says "marked", not by whom

    \b
    treering key create alice
    treering key create alice --label "team A, from May"
    treering key create bob --kind rings --channels 0,3 --inner 3 --outer 12
    treering key create carol --model stable-diffusion-v1-5/stable-diffusion-v1-5
    """
    from watermark.keys import Pattern

    with understood():
        pattern = Pattern(kind, channels, inner, outer)
        entry = key_store(store).create(name, pattern, model=model, label=label)
    click.echo(f"created key {entry.name} ({entry.id}) in {store}")


@key.command()
@click.argument("master")
@click.argument("name")
@click.option("--label", default="", help="A note to find the key by.")
@store_option
def derive(master: str, name: str, label: str, store: Path) -> None:
    """Derive a user's key from a master key, so that one secret serves many.

    The same master and name give the same key again, so that keys of users need not be kept; without the master
    nobody can tell them from any others. The pattern and the model are those of the master.

    \b
    treering key derive alice user-17
    treering key derive alice user-18 --label "the new tenant"
    """
    with understood():
        keys = key_store(store)
        owner = keys.entry(master)
        if owner.revoked is not None:
            raise Trouble(f"the key {master!r} is revoked since {owner.revoked}: nothing is derived from it")
        if owner.pattern.kind == "zeros":
            raise Trouble(f"{master!r} is a key of zeros, which are all the same: nobody could be told by it")
        entry = keys.add(name, keys.get(master).user(name), model=owner.model, label=label)
    click.echo(f"derived key {entry.name} ({entry.id}) from {master} in {store}")


@dataclass(frozen=True)
class Row:
    """A key as a table shows it."""

    name: str
    id: str
    created: str
    revoked: str
    pattern: str
    model: str
    label: str


def row(entry: Entry) -> Row:
    """A key as a table shows it: of its pattern what is not the default."""
    pattern, default = entry.pattern, type(entry.pattern)()
    parts = [pattern.kind]
    if pattern.channels is not None:
        parts.append("channels " + ",".join(map(str, pattern.channels)))
    if (pattern.inner, pattern.outer) != (default.inner, default.outer):
        parts.append(f"radius {pattern.inner} to {pattern.outer or 'default'}")
    return Row(entry.name, entry.id, entry.created, entry.revoked or "", "; ".join(parts), entry.model, entry.label)


def write_entries(entries: Sequence[Entry], form: str | None) -> None:
    """Write keys to stdout, without their secrets."""
    write_records(entries if form == "json" else [row(entry) for entry in entries], FIELDS, form)


@key.command("list")
@store_option
@output_options
def list_keys(store: Path, form: str | None) -> None:
    """List the keys of the store.

    \b
    treering key list
    treering key list --json
    """
    from watermark.keystore.store import KeyStore

    with understood():
        entries = KeyStore(store).list()
    if not entries and form is None:
        click.echo(f"no keys in {store}; make one: treering key create NAME")
        return
    write_entries(entries, form)


@key.command()
@click.argument("name")
@store_option
@output_options
def show(name: str, store: Path, form: str | None) -> None:
    """Show a key's id, age, pattern, model and label; not its secret.

    \b
    treering key show alice
    """
    from watermark.keystore.store import KeyStore

    with understood():
        write_entries([KeyStore(store).entry(name)], form)


@key.command()
@click.argument("name")
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Key file. [default: NAME.key]"
)
@click.option(
    "--protect/--no-protect",
    default=None,
    help="Encrypt the file with a passphrase of its own. [default: if the store is encrypted]",
)
@store_option
def export(name: str, output: Path | None, protect: bool | None, store: Path) -> None:
    """Write a key file that another store can import. It holds the secret: guard it.

    The passphrase of a protected file comes from TREERING_FILE_PASSPHRASE or the terminal.

    \b
    treering key export alice -o alice.key
    treering key export alice -o alice.key --protect
    """
    file = output or Path(f"{name}.key")
    with understood():
        keys = key_store(store)
        keys.get(name)  # say what is wrong before asking for another passphrase
        protected = keys.encrypted if protect is None else protect
        words = new_passphrase(str(file), "TREERING_FILE_PASSPHRASE") if protected else None
        keys.export(name, file, passphrase=words)
    who = "has this file and its passphrase" if protected else "has this file"
    click.echo(f"wrote {file} (mode 0600). Whoever {who} can mark pictures in the name of {name}.")


@key.command("import")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--name", help="Store it under another name.")
@store_option
def import_key(file: Path, name: str | None, store: Path) -> None:
    """Store the key of a key file.

    The passphrase of a protected file comes from TREERING_FILE_PASSPHRASE or the terminal.

    \b
    treering key import alice.key
    treering key import alice.key --name alice2
    """
    from watermark.files import regular
    from watermark.keystore.keyfile import is_protected

    with understood():
        words = None
        if is_protected(regular(file)):
            words = os.environ.get("TREERING_FILE_PASSPHRASE") or None
            if words is None and sys.stdin.isatty():
                words = click.prompt(f"Passphrase of {file}", hide_input=True, err=True)
        entry = key_store(store).import_file(file, name=name, passphrase=words)
    click.echo(f"imported key {entry.name} ({entry.id}) into {store}")


@key.command()
@click.argument("name")
@store_option
def revoke(name: str, store: Path) -> None:
    """Stop a key from being used for new marks. It stays, so that pictures marked with it can still be verified.

    \b
    treering key revoke alice
    """
    from watermark.keystore.store import KeyStore

    with understood():
        entry = KeyStore(store).revoke(name)
    click.echo(f"key {name} is revoked since {entry.revoked}")


@key.command()
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@store_option
def delete(name: str, yes: bool, store: Path) -> None:
    """Forget a key. Pictures marked with it can then never be verified again; see also revoke.

    \b
    treering key delete alice
    """
    from watermark.keystore.store import KeyStore

    with understood():
        KeyStore(store).entry(name)
    if not yes:
        question = f"Delete {name}? Pictures marked with it can then never be verified again."
        try:
            wanted = click.confirm(question, err=True)
        except click.Abort:
            if sys.stdin.isatty():
                raise
            raise Trouble(f"{name} was not deleted, as nobody answered: give --yes") from None
        if not wanted:
            raise Trouble(f"{name} was not deleted")
    with understood():
        KeyStore(store).delete(name)
    click.echo(f"deleted key {name}")


@key.command()
@store_option
def encrypt(store: Path) -> None:
    """Encrypt the secrets of the store with a passphrase, or change the passphrase.

    The passphrase is read as when opening a store: from --passphrase-file, TREERING_PASSPHRASE or the terminal. To
    change it, the new one comes from TREERING_NEW_PASSPHRASE or the
    terminal. Without the passphrase the keys are lost.

    \b
    treering key encrypt
    treering key encrypt --passphrase-file /run/secrets/treering
    """
    from watermark.keystore.store import KeyStore

    with understood():
        keys = KeyStore(store)
        if keys.encrypted:
            keys = key_store(store)
            keys.encrypt(new_passphrase(str(store), "TREERING_NEW_PASSPHRASE"))
            click.echo(f"{store} has a new passphrase")
        else:
            keys.encrypt(given_passphrase() or new_passphrase(str(store), "TREERING_PASSPHRASE"))
            click.echo(f"{store} is encrypted; without its passphrase the keys are lost")

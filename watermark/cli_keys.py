"""The commands under ``treering key``."""

from __future__ import annotations

from pathlib import Path

import click

from watermark.cli_options import Trouble, key_store, output_options, store_option, understood, write_records

FIELDS = ("name", "id", "created", "label")


@click.group()
def key() -> None:
    """Make and keep keys. Secrets are never printed.

    \b
    treering key create alice --label "team A"
    treering key list
    treering key export alice -o alice.key
    treering key import alice.key --name alice2
    """


@key.command()
@click.argument("name")
@click.option("--label", default="", help="A note to find the key by.")
@store_option
def create(name: str, label: str, store: Path) -> None:
    """Make a new key from 256 random bits.

    \b
    treering key create alice
    treering key create alice --label "team A, from May"
    """
    with understood():
        entry = key_store(store).create(name, label=label)
    click.echo(f"created key {entry.name} ({entry.id}) in {store}")


@key.command("list")
@store_option
@output_options
def list_keys(store: Path, form: str | None) -> None:
    """List the keys of the store.

    \b
    treering key list
    treering key list --json
    """
    with understood():
        entries = key_store(store).list()
    if not entries and form is None:
        click.echo(f"no keys in {store}; make one: treering key create NAME")
        return
    write_records(entries, FIELDS, form)


@key.command()
@click.argument("name")
@store_option
@output_options
def show(name: str, store: Path, form: str | None) -> None:
    """Show a key's id, age and label; not its secret.

    \b
    treering key show alice
    """
    with understood():
        write_records([key_store(store).entry(name)], FIELDS, form)


@key.command()
@click.argument("name")
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Key file. [default: NAME.key]"
)
@store_option
def export(name: str, output: Path | None, store: Path) -> None:
    """Write a key file that another store can import. It holds the secret: guard it.

    \b
    treering key export alice -o alice.key
    """
    file = output or Path(f"{name}.key")
    with understood():
        key_store(store).export(name, file)
    click.echo(f"wrote {file} (mode 0600). Whoever has this file can mark pictures in the name of {name}.")


@key.command("import")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--name", help="Store it under another name.")
@store_option
def import_key(file: Path, name: str | None, store: Path) -> None:
    """Store the key of a key file.

    \b
    treering key import alice.key
    treering key import alice.key --name alice2
    """
    with understood():
        entry = key_store(store).import_file(file, name=name)
    click.echo(f"imported key {entry.name} ({entry.id}) into {store}")


@key.command()
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@store_option
def delete(name: str, yes: bool, store: Path) -> None:
    """Forget a key. Pictures marked with it can then never be verified again.

    \b
    treering key delete alice
    """
    with understood():
        key_store(store).entry(name)
    if not yes:
        question = f"Delete {name}? Pictures marked with it can then never be verified again."
        if not click.confirm(question, err=True):
            raise Trouble(f"{name} was not deleted")
    with understood():
        key_store(store).delete(name)
    click.echo(f"deleted key {name}")

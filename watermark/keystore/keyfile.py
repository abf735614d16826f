"""Key files: one key with its record, to carry it from a store to another. A changed byte anywhere is refused.

A key file is JSON in one exact spelling. Without a passphrase it is sealed by an HMAC under a subkey of the secret
that it carries; with one, the secret is encrypted, and everything else is authenticated with it.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import stat
from dataclasses import asdict
from pathlib import Path
from typing import Any

from watermark.files import appearing
from watermark.keys import Pattern, RingKey
from watermark.keystore.encryption import Passphrase, Stretch
from watermark.keystore.entries import Entry, KeyStoreError, pattern_of

FORMAT, VERSION = "treering-key", 2
LIMIT = 300_000  # bytes; a key file has about 500, and its label and model


def read_key_file(file: str | Path, passphrase: Passphrase | None = None) -> tuple[Entry, RingKey]:
    """Read a key file of this version or an older one.

    Raises:
        KeyStoreError: if it cannot be read, is of a newer version, is not exactly as exported, the passphrase is
            wrong, missing, or given for a file that has none, or others may read a file without one.
    """
    found = _read(Path(file), passphrase)
    if isinstance(found, str):
        raise KeyStoreError(found)
    return found


def write_key_file(file: str | Path, entry: Entry, key: RingKey, passphrase: Passphrase | None = None) -> None:
    """Write a new file of mode 0600, which appears whole or not at all.

    Raises:
        KeyStoreError: if there is a file of this name, this one cannot be written, or its record could not be read.
    """
    entry.check()
    problem = _write(Path(file), entry, key, passphrase)
    if problem is not None:
        raise KeyStoreError(problem)


def is_protected(file: str | Path) -> bool:
    """Whether a file says that it is a key file with a passphrase; False if it cannot be read."""
    try:
        return "sealed" in json.loads(_start(Path(file)))
    except (OSError, ValueError, TypeError, RecursionError):
        return False


def _start(file: Path) -> bytes:
    """The bytes of a file, or as many as show that it is too long."""
    with file.open("rb") as handle:
        return handle.read(LIMIT + 1)


def _spelled(fields: dict[str, Any]) -> bytes:
    """The one spelling of a key file's fields."""
    return json.dumps(fields, indent=1).encode() + b"\n"


def _record(entry: Entry, version: int) -> dict[str, Any]:
    """The fields that may be shown; version 1 has neither model nor revocation nor pattern."""
    fields = {
        "format": FORMAT,
        "version": version,
        "name": entry.name,
        "id": entry.id,
        "created": entry.created,
        "label": entry.label,
    }
    if version > 1:
        fields |= {"model": entry.model, "revoked": entry.revoked, "pattern": asdict(entry.pattern)}
    return fields


def _plain(entry: Entry, key: RingKey, version: int = VERSION) -> bytes:
    """A key file without a passphrase."""
    fields = _record(entry, version) | {"secret": key.secret.hex()}
    seal = hmac.new(key.derive("key-file", 32), json.dumps(fields, indent=1).encode(), hashlib.sha256)
    return _spelled(fields | {"seal": seal.hexdigest()})


def _head(entry: Entry, stretch: Stretch) -> dict[str, Any]:
    """What is authenticated with an encrypted secret."""
    return _record(entry, VERSION) | {"salt": stretch.salt.hex(), "cost": stretch.cost}


def _protected(entry: Entry, key: RingKey, passphrase: Passphrase) -> bytes:
    """A key file with a passphrase."""
    head = _head(entry, stretch := Stretch.new())
    return _spelled(head | {"sealed": passphrase.seal(stretch, key.secret, _spelled(head)).hex()})


# What holds secrets returns what is wrong and does not raise, so that no traceback leads through its variables.


def _read(file: Path, passphrase: Passphrase | None) -> tuple[Entry, RingKey] | str:
    """A key with its record, or what is wrong."""
    damaged = f"{file} is not a key file, or was changed since it was exported"
    try:
        raw, mode = _start(file), stat.S_IMODE(file.stat().st_mode)
        fields = json.loads(raw)
        version = fields["version"]
        if fields["format"] == FORMAT and type(version) is int and version > VERSION:
            return f"{file} was written by a newer treering (version {version})"
        more = ("", None, Pattern("rings"))  # what version 1 knew
        if version != 1:
            more = (fields["model"], fields["revoked"], pattern_of(fields["pattern"]))
        entry = Entry(fields["name"], fields["id"], fields["created"], fields["label"], *more)
        entry.check()
        if "sealed" in fields:
            stretch = Stretch(bytes.fromhex(fields["salt"]), fields["cost"])
            sealed = bytes.fromhex(fields["sealed"])
            head = _head(entry, stretch)
            if raw != _spelled(head | {"sealed": sealed.hex()}):
                return damaged
            if passphrase is None:
                return f"{file} is protected by a passphrase, and none was given"
            secret = passphrase.unseal(stretch, sealed, _spelled(head))
            if secret is None:
                return f"wrong passphrase for {file}, or it was changed since it was exported"
            key = RingKey(secret, entry.pattern)
            return (entry, key) if key.id == entry.id else damaged
        key = RingKey(bytes.fromhex(fields["secret"]), entry.pattern)
        if key.id != entry.id or not hmac.compare_digest(_plain(entry, key, 1 if version == 1 else VERSION), raw):
            return damaged
    except OSError as error:
        return f"cannot read {file}: {error.strerror}"
    except (ValueError, KeyError, TypeError, RecursionError, KeyStoreError):
        return damaged
    if passphrase is not None:
        return f"{file} has no passphrase, although one was given"
    if os.name == "posix" and mode & 0o077:
        return f"{file} has mode {mode:04o}, others may read the secret in it; run: chmod 600 {file}"
    return entry, key


def _write(file: Path, entry: Entry, key: RingKey, passphrase: Passphrase | None) -> str | None:
    """Write a key file; returns what went wrong, if anything did."""
    content = _plain(entry, key) if passphrase is None else _protected(entry, key, passphrase)
    try:
        with appearing(file, replace=False, private=True) as part:
            part.write_bytes(content)
    except FileExistsError:
        return f"{file} exists; a key file is never overwritten"
    except OSError as error:
        return f"cannot write {file}: {error.strerror}"
    return None

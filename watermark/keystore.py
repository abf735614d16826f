"""Named keys on disk: one SQLite file that only its owner may read, and key files to carry keys elsewhere.

Secrets leave the store in two ways only: as a :class:`RingKey`, and in a key file that :meth:`KeyStore.export`
writes with mode 0600. A key file authenticates itself: a changed byte anywhere is refused.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from watermark.rings import RingKey

VERSION = 1
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
KEY_FILE_LIMIT = 10_000  # bytes; a key file has about 300


class KeyStoreError(Exception):
    """The store or a key file cannot be used, or does not have what was asked for; the message says why."""


@dataclass(frozen=True)
class Entry:
    """What may be shown of a stored key: its name, its public id, when it was made (UTC, ISO 8601), its label."""

    name: str
    id: str
    created: str
    label: str


class KeyStore:
    """Keys by name.

    Args:
        path: the SQLite file; made with mode 0600, in a directory of mode 0700, when the first key is stored.

    Every method raises :class:`KeyStoreError` if the file may be read by others, is of a newer version, or is
    damaged.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def create(self, name: str, *, label: str = "") -> Entry:
        """Make a new key and store it. Raises KeyStoreError if the name is taken or not a valid name."""
        return self.add(name, RingKey.generate(), label=label)

    def add(self, name: str, key: RingKey, *, label: str = "", created: str | None = None) -> Entry:
        """Store a key. Raises KeyStoreError if the name or the key is there already, or the name is not valid."""
        if not NAME.fullmatch(name):
            raise KeyStoreError(
                f"{name!r} is not a valid key name: up to 64 letters, digits, '.', '_' and '-', "
                "beginning with a letter or digit"
            )
        created = created or datetime.now(timezone.utc).isoformat(timespec="seconds")
        entry = Entry(name, key.id, created, label)
        with self._connect(create=True) as db:
            row = db.execute("SELECT name FROM keys WHERE name = ? OR id = ?", (name, key.id)).fetchone()
            if row is not None:
                what = f"a key named {name!r} exists" if row[0] == name else f"this key is stored as {row[0]!r}"
                raise KeyStoreError(f"{what} already")
            db.execute("INSERT INTO keys VALUES (?, ?, ?, ?, ?)", (name, key.id, key.secret, created, label))
        return entry

    def entry(self, name: str) -> Entry:
        """What may be shown of a key. Raises KeyStoreError if there is none of that name."""
        return self._find(name)[0]

    def get(self, name: str) -> RingKey:
        """The key of a name. Raises KeyStoreError if there is none."""
        return self._find(name)[1]

    def list(self) -> tuple[Entry, ...]:
        """All keys, by name; none if there is no store yet."""
        if not self.path.exists():
            return ()
        with self._connect() as db:
            return tuple(
                Entry(*row) for row in db.execute("SELECT name, id, created, label FROM keys ORDER BY name")
            )

    def delete(self, name: str) -> None:
        """Forget a key and overwrite its secret. Raises KeyStoreError if there is none of that name."""
        with self._connect() as db:
            if db.execute("DELETE FROM keys WHERE name = ?", (name,)).rowcount == 0:
                raise KeyStoreError(self._unknown(name))

    def export(self, name: str, file: str | Path) -> None:
        """Write a key file with mode 0600. Raises KeyStoreError if the file exists or cannot be written."""
        entry, key = self._find(name)
        text = key_file_text(entry, key)
        try:
            with os.fdopen(
                os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8"
            ) as out:
                out.write(text)
        except FileExistsError:
            raise KeyStoreError(f"{file} exists; a key file is never overwritten") from None
        except OSError as error:
            raise KeyStoreError(f"cannot write {file}: {error.strerror}") from None

    def import_file(self, file: str | Path, *, name: str | None = None) -> Entry:
        """Store the key of a key file, under its own name or another. Raises KeyStoreError if it is damaged."""
        entry, key = read_key_file(file)
        return self.add(name or entry.name, key, label=entry.label, created=entry.created)

    def _find(self, name: str) -> tuple[Entry, RingKey]:
        if not self.path.exists():
            raise KeyStoreError(self._unknown(name))
        with self._connect() as db:
            row = db.execute("SELECT name, id, created, label, secret FROM keys WHERE name = ?", (name,)).fetchone()
        if row is None:
            raise KeyStoreError(self._unknown(name))
        entry, key = Entry(*row[:4]), RingKey(row[4])
        if key.id != entry.id:
            raise KeyStoreError(f"the key {name!r} in {self.path} is damaged: its secret does not match its id")
        return entry, key

    def _unknown(self, name: str) -> str:
        return f"no key named {name!r} in {self.path}"

    @contextmanager
    def _connect(self, *, create: bool = False) -> Iterator[sqlite3.Connection]:
        """One exclusive transaction on a store that passed its checks."""
        try:
            if create and not self.path.exists():
                self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                os.close(os.open(self.path, os.O_CREAT | os.O_RDWR, 0o600))
            mode = stat.S_IMODE(self.path.stat().st_mode)
            if os.name == "posix" and mode & 0o077:
                raise KeyStoreError(
                    f"{self.path} has mode {mode:04o}, others may read it; run: chmod 600 {self.path}"
                )
            with closing(sqlite3.connect(self.path, timeout=30, isolation_level=None)) as db:
                db.execute("PRAGMA secure_delete = ON")
                db.execute("BEGIN IMMEDIATE")
                migrate(db, self.path)
                yield db
                db.execute("COMMIT")
        except (sqlite3.Error, OSError) as error:
            raise KeyStoreError(f"cannot use the key store {self.path}: {error}") from None


def migrate(db: sqlite3.Connection, path: Path) -> None:
    """Bring a store to the current version: from nothing so far."""
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version > VERSION:
        raise KeyStoreError(f"{path} is of version {version}, from a newer treering")
    if version == 0:
        db.execute(
            "CREATE TABLE keys (name TEXT PRIMARY KEY, id TEXT NOT NULL UNIQUE, secret BLOB NOT NULL, "
            "created TEXT NOT NULL, label TEXT NOT NULL)"
        )
        db.execute(f"PRAGMA user_version = {VERSION}")


def key_file_text(entry: Entry, key: RingKey) -> str:
    """The key file of a key: JSON, sealed by an HMAC under a subkey of the secret that it carries."""
    fields = {
        "format": "treering-key",
        "version": VERSION,
        "name": entry.name,
        "id": entry.id,
        "created": entry.created,
        "label": entry.label,
        "secret": key.secret.hex(),
    }
    body = json.dumps(fields, indent=1)
    seal = hmac.new(key.derive("key-file", 32), body.encode(), hashlib.sha256).hexdigest()
    return json.dumps(fields | {"seal": seal}, indent=1) + "\n"


def read_key_file(file: str | Path) -> tuple[Entry, RingKey]:
    """Read a key file. Raises KeyStoreError if it is unreadable, of a newer version, or not exactly as exported."""
    try:
        with Path(file).open("rb") as handle:
            raw = handle.read(KEY_FILE_LIMIT + 1)
    except OSError as error:
        raise KeyStoreError(f"cannot read {file}: {error.strerror}") from None
    damaged = KeyStoreError(f"{file} is not a key file, or was changed since it was exported")
    try:
        fields = json.loads(raw.decode("utf-8"))
        if fields["format"] == "treering-key" and type(fields["version"]) is int and fields["version"] > VERSION:
            raise KeyStoreError(f"{file} was written by a newer treering (version {fields['version']})")
        entry = Entry(fields["name"], fields["id"], fields["created"], fields["label"])
        key = RingKey(bytes.fromhex(fields["secret"]))
    except (ValueError, KeyError, TypeError, RecursionError):
        raise damaged from None
    if key.id != entry.id or not hmac.compare_digest(key_file_text(entry, key).encode(), raw):
        raise damaged
    return entry, key

"""The SQLite file of a key store: its transactions, the versions of its tables, and how its secrets are sealed."""

from __future__ import annotations

import json
import os
import secrets
import sqlite3
import stat
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, replace
from pathlib import Path

from watermark.keys import Pattern, RingKey
from watermark.keystore.encryption import Passphrase, Stretch
from watermark.keystore.entries import Entry, KeyStoreError, pattern_of

VERSION = 2
PATIENCE = 60  # seconds to wait for other writers
VERIFIER = b"treering-store"  # the context of an empty secret, which opens with the right passphrase

KEYS = (
    "CREATE TABLE keys (name TEXT PRIMARY KEY, id TEXT NOT NULL UNIQUE, created TEXT NOT NULL, "
    "label TEXT NOT NULL, model TEXT NOT NULL, revoked TEXT, pattern TEXT NOT NULL, secret BLOB NOT NULL)"
)
LOCK = (  # one row if the store is encrypted, none if not
    "CREATE TABLE lock (row INTEGER PRIMARY KEY CHECK (row = 1), salt BLOB NOT NULL, cost INTEGER NOT NULL, "
    "verifier BLOB NOT NULL)"
)


@contextmanager
def transaction(path: Path, *, create: bool = False) -> Iterator[sqlite3.Connection]:
    """One exclusive transaction on a store of the current version: all of it happens, or nothing.

    Args:
        path: the file.
        create: make it, with mode 0600, if it is missing.

    Raises:
        KeyStoreError: if there is no file, others may read it, it is of a newer version, or SQLite cannot use it.
    """
    try:
        if create and not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        if path.exists() and not path.is_file():
            raise KeyStoreError(f"{path} is not a file")
        mode = stat.S_IMODE(path.stat().st_mode)
        if os.name == "posix" and mode & 0o077:
            raise KeyStoreError(f"{path} has mode {mode:04o}, others may read it; run: chmod 600 {path}")
        with closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as db:
            begin(db)
            migrate(db, path, create=create)
            yield db
            db.execute("COMMIT")
    except FileNotFoundError:
        raise KeyStoreError(f"there is no key store {path}") from None
    except UnicodeEncodeError as error:
        raise KeyStoreError(f"no key can be named {error.object!r}: it is not a text of Unicode") from None
    except (sqlite3.Error, OSError) as error:
        raise KeyStoreError(f"cannot use the key store {path}: {error}") from None


def begin(db: sqlite3.Connection) -> None:
    """Begin a transaction that needs no lock later on.

    SQLite waits longer and longer for a busy file, and so lets one of many writers wait for half a minute. Here all
    of them have the same chance.

    Raises:
        sqlite3.OperationalError: if other writers held the file for too long.
    """
    end = time.monotonic() + PATIENCE
    while True:
        try:
            db.execute("PRAGMA secure_delete = ON")
            db.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > end:
                raise
            time.sleep(secrets.randbelow(10_000) / 1e6)
        else:
            return


def migrate(db: sqlite3.Connection, path: Path, *, create: bool) -> None:
    """Bring a store to the current version from version 1, whose keys were all rings, or create it from nothing.

    Raises:
        KeyStoreError: if it is of a newer version, or no store.
    """
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version > VERSION:
        raise KeyStoreError(f"{path} is of version {version}, from a newer treering")
    if version == VERSION:
        return
    if version < 1 and (not create or db.execute("SELECT 1 FROM sqlite_master").fetchone() is not None):
        raise KeyStoreError(f"{path} is not a key store")
    if version == 1:
        db.execute("ALTER TABLE keys RENAME TO old")
    db.execute(KEYS)
    db.execute(LOCK)
    if version == 1:
        default = pattern_text(Pattern("rings"))
        db.execute("INSERT INTO keys SELECT name, id, created, label, '', NULL, ?, secret FROM old", (default,))
        db.execute("DROP TABLE old")
    db.execute(f"PRAGMA user_version = {VERSION}")


def pattern_text(pattern: Pattern) -> str:
    """A pattern as the store keeps it: JSON."""
    return json.dumps(asdict(pattern))


def read_entry(db: sqlite3.Connection, path: Path, name: str) -> Entry:
    """A key's record. Raises KeyStoreError if there is none of that name, or it cannot be read."""
    columns = "SELECT name, id, created, label, model, revoked, pattern FROM keys WHERE name = ?"
    row = db.execute(columns, (name,)).fetchone()
    if row is None:
        raise KeyStoreError(f"no key named {name!r} in {path}")
    damaged = KeyStoreError(f"the key {name!r} in {path} is damaged: its record cannot be read")
    if not all(isinstance(text, str) for text in (*row[:5], row[5] or "")):
        raise damaged
    try:
        return replace(Entry(*row[:6]), pattern=pattern_of(json.loads(row[6])))
    except (TypeError, ValueError, RecursionError):
        raise damaged from None


def read_key(
    db: sqlite3.Connection, path: Path, entry: Entry, passphrase: Passphrase | None, stretch: Stretch | None
) -> RingKey:
    """The key of a record, with what :func:`unlock` gave. Raises KeyStoreError if they do not belong together."""
    key = _opened(db, entry, passphrase, stretch)
    if key is None or key.id != entry.id:
        what = "record" if stretch is not None else "id"
        raise KeyStoreError(f"the key {entry.name!r} in {path} is damaged: its secret does not match its {what}")
    return key


def write(
    db: sqlite3.Connection, entry: Entry, key: RingKey, passphrase: Passphrase | None, stretch: Stretch | None
) -> None:
    """Store a new key with its record."""
    shown = (
        entry.name,
        entry.id,
        entry.created,
        entry.label,
        entry.model,
        entry.revoked,
        pattern_text(entry.pattern),
    )
    insert = "INSERT INTO keys VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
    db.execute(insert, (*shown, _sealed(entry, key, passphrase, stretch)))


def is_locked(db: sqlite3.Connection) -> bool:
    """Whether the store is encrypted."""
    return db.execute("SELECT 1 FROM lock").fetchone() is not None


def set_lock(db: sqlite3.Connection, passphrase: Passphrase, stretch: Stretch) -> None:
    """Say with what the store is encrypted."""
    verifier = passphrase.seal(stretch, b"", VERIFIER)
    db.execute("REPLACE INTO lock VALUES (1, ?, ?, ?)", (stretch.salt, stretch.cost, verifier))


def unlock(db: sqlite3.Connection, path: Path, passphrase: Passphrase | None) -> Stretch | None:
    """How the secrets of a store are sealed, or None if they are not.

    Raises:
        KeyStoreError: if the passphrase is wrong or missing, or given although the store is not encrypted.
    """
    row = db.execute("SELECT salt, cost, verifier FROM lock").fetchone()
    if row is None and passphrase is None:
        return None
    if row is None:
        raise KeyStoreError(f"{path} is not encrypted, although a passphrase was given; run: treering key encrypt")
    if passphrase is None:
        raise KeyStoreError(f"{path} is encrypted, and no passphrase was given")
    try:
        stretch = Stretch(row[0], row[1])
    except ValueError as error:
        raise KeyStoreError(f"{path} is damaged: {error}") from None
    if passphrase.unseal(stretch, row[2], VERIFIER) is None:
        raise KeyStoreError(f"wrong passphrase for {path}")
    return stretch


def _context(entry: Entry) -> bytes:
    """All that an encrypted secret is bound to."""
    bound = (entry.name, entry.id, entry.created, entry.model, pattern_text(entry.pattern))
    return json.dumps(bound).encode()


def _sealed(entry: Entry, key: RingKey, passphrase: Passphrase | None, stretch: Stretch | None) -> bytes:
    """A secret as the store keeps it."""
    if passphrase is None or stretch is None:
        return key.secret
    return passphrase.seal(stretch, key.secret, _context(entry))


def _opened(
    db: sqlite3.Connection, entry: Entry, passphrase: Passphrase | None, stretch: Stretch | None
) -> RingKey | None:
    """A key, or None if its secret does not open: it raises nothing, as its variables hold secrets."""
    secret = db.execute("SELECT CAST(secret AS BLOB) FROM keys WHERE name = ?", (entry.name,)).fetchone()[0]
    if passphrase is not None and stretch is not None:
        secret = passphrase.unseal(stretch, secret, _context(entry))
    try:
        return RingKey(secret, entry.pattern)
    except ValueError:
        return None

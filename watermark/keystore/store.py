"""Named keys on disk: one SQLite file that only its owner may read, encrypted if a passphrase is given.

Secrets leave the store in two ways only: as a :class:`RingKey`, and in a key file, see
:mod:`watermark.keystore.keyfile`.

In an encrypted store every secret is bound to the name, id, date, model and pattern of its key: with others it
does not open. All that is not secret can be read without the passphrase; label and revocation can also be changed
without it by whoever may write the file. Nothing protects from an older copy of the file in its place.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from watermark.keys import Pattern, RingKey
from watermark.keystore.database import is_locked, read_entry, read_key, set_lock, transaction, unlock, write
from watermark.keystore.encryption import Passphrase, Stretch
from watermark.keystore.entries import Entry, KeyStoreError, now
from watermark.keystore.keyfile import read_key_file, write_key_file

__all__ = ["Entry", "KeyStore", "KeyStoreError"]


class KeyStore:
    """Keys by name.

    Args:
        path: the SQLite file; made with mode 0600, in a directory of mode 0700, when the first key is stored.
        passphrase: opens an encrypted store, and encrypts one that has no keys yet. To list, revoke or delete keys
            it is not needed.

    Raises:
        ValueError: if the passphrase is empty.

    Every method raises :class:`KeyStoreError` if the file may be read by others, is of a newer version, or is
    damaged; those that take or give a secret also if the passphrase is wrong, missing, or given for a store that is
    not encrypted.
    """

    def __init__(self, path: str | Path, passphrase: str | None = None) -> None:
        self.path = Path(path)
        self._passphrase = None if passphrase is None else Passphrase(passphrase)

    @property
    def encrypted(self) -> bool:
        """Whether there is a store and it is encrypted."""
        if not self.path.exists():
            return False
        with transaction(self.path) as db:
            return is_locked(db)

    def create(self, name: str, pattern: Pattern = Pattern(), *, model: str = "", label: str = "") -> Entry:  # noqa: B008 - frozen
        """Make a new key and store it.

        Args:
            name: up to 64 letters, digits, '.', '_' and '-'.
            pattern: what the key writes.
            model: the model that it is meant for; empty for any.
            label: a note.

        Raises:
            KeyStoreError: if the name is taken, or an argument is not valid.
        """
        return self.add(name, RingKey.generate(pattern), model=model, label=label)

    def add(
        self,
        name: str,
        key: RingKey,
        *,
        model: str = "",
        label: str = "",
        created: str | None = None,
        revoked: str | None = None,
    ) -> Entry:
        """Store a key that was made at a time in UTC, or now. The other arguments are those of :meth:`create`.

        Raises:
            KeyStoreError: if the name or the key is there already, or an argument is not valid.
        """
        entry = Entry(name, key.id, created or now(), label, model, revoked, key.pattern)
        entry.check()
        with transaction(self.path, create=True) as db:
            row = db.execute("SELECT name FROM keys WHERE name = ? OR id = ?", (name, key.id)).fetchone()
            if row is not None:
                what = f"a key named {name!r} exists" if row[0] == name else f"this key is stored as {row[0]!r}"
                raise KeyStoreError(f"{what} already")
            empty = db.execute("SELECT 1 FROM keys").fetchone() is None
            if empty and self._passphrase is not None and not is_locked(db):
                set_lock(db, self._passphrase, Stretch.new())
            write(db, entry, key, self._passphrase, unlock(db, self.path, self._passphrase))
        return entry

    def entry(self, name: str) -> Entry:
        """What may be shown of a key. Raises KeyStoreError if there is none of that name."""
        with transaction(self.path) as db:
            return read_entry(db, self.path, name)

    def get(self, name: str) -> RingKey:
        """The key of a name, also of a revoked one. Raises KeyStoreError if there is none."""
        return self._find(name)[1]

    def get_all(self, names: Iterable[str]) -> dict[str, RingKey]:
        """The keys of names, also of revoked ones, read at one time. Raises KeyStoreError if one is missing."""
        with transaction(self.path) as db:
            opened = unlock(db, self.path, self._passphrase)
            entries = [read_entry(db, self.path, name) for name in names]
            return {entry.name: read_key(db, self.path, entry, self._passphrase, opened) for entry in entries}

    def list(self) -> tuple[Entry, ...]:
        """All keys, by name; none if there is no store yet."""
        if not self.path.exists():
            return ()
        with transaction(self.path) as db:
            names = db.execute("SELECT name FROM keys ORDER BY name").fetchall()
            return tuple(read_entry(db, self.path, name) for (name,) in names)

    def revoke(self, name: str) -> Entry:
        """Say of a key that nothing new is to be marked with it; it stays, and the time of the first call stays.

        Raises:
            KeyStoreError: if there is none of that name.
        """
        with transaction(self.path) as db:
            db.execute("UPDATE keys SET revoked = coalesce(revoked, ?) WHERE name = ?", (now(), name))
            return read_entry(db, self.path, name)

    def delete(self, name: str) -> None:
        """Forget a key and overwrite its secret. Raises KeyStoreError if there is none of that name."""
        with transaction(self.path) as db:
            if db.execute("DELETE FROM keys WHERE name = ?", (name,)).rowcount == 0:
                raise KeyStoreError(f"no key named {name!r} in {self.path}")

    def encrypt(self, passphrase: str) -> None:
        """Encrypt the store with a passphrase, in one transaction; if it is encrypted, change the passphrase.

        The file then holds no secret as it was; copies of it, and what a disk keeps of earlier versions, may.

        Raises:
            KeyStoreError: if it is encrypted and was not opened with the right passphrase.
            ValueError: if the new passphrase is empty.
        """
        new, stretch = Passphrase(passphrase), Stretch.new()
        with transaction(self.path, create=True) as db:
            old = unlock(db, self.path, self._passphrase) if is_locked(db) else None
            names = db.execute("SELECT name FROM keys").fetchall()
            entries = [read_entry(db, self.path, name) for (name,) in names]
            keys = [read_key(db, self.path, entry, self._passphrase, old) for entry in entries]
            db.execute("DELETE FROM keys")
            for entry, key in zip(entries, keys, strict=True):
                write(db, entry, key, new, stretch)
            set_lock(db, new, stretch)
        self._passphrase = new

    def export(self, name: str, file: str | Path, *, passphrase: str | None = None) -> None:
        """Write a key file with mode 0600, protected by a passphrase of its own if one is given.

        Raises:
            KeyStoreError: if there is no such key, the file exists or cannot be written.
            ValueError: if the passphrase is empty.
        """
        protection = None if passphrase is None else Passphrase(passphrase)
        write_key_file(file, *self._find(name), protection)

    def import_file(self, file: str | Path, *, name: str | None = None, passphrase: str | None = None) -> Entry:
        """Store the key of a key file, under its own name or another.

        Raises:
            KeyStoreError: if the file is damaged, its passphrase is wrong, missing or needless, or the key or its
                name is there already.
            ValueError: if the passphrase is empty.
        """
        entry, key = read_key_file(file, None if passphrase is None else Passphrase(passphrase))
        return self.add(
            name or entry.name,
            key,
            model=entry.model,
            label=entry.label,
            created=entry.created,
            revoked=entry.revoked,
        )

    def _find(self, name: str) -> tuple[Entry, RingKey]:
        """A key with its record."""
        with transaction(self.path) as db:
            entry = read_entry(db, self.path, name)
            return entry, read_key(db, self.path, entry, self._passphrase, unlock(db, self.path, self._passphrase))

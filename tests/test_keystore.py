import os
import sqlite3
import stat
import threading

import pytest

from watermark import KeyStore, RingKey
from watermark.keystore import KeyStoreError


@pytest.fixture
def store(tmp_path):
    return KeyStore(tmp_path / "keys" / "keys.db")


def test_keys_come_back_as_they_were(store):
    made = store.create("alice", label="team A")
    key = RingKey.generate()
    store.add("bob", key)
    assert [e.name for e in store.list()] == ["alice", "bob"]
    assert store.entry("alice") == made
    assert store.get("bob") == key
    assert store.get("alice").id == made.id
    store.delete("alice")
    assert [e.name for e in KeyStore(store.path).list()] == ["bob"]


def test_only_the_owner_can_read_it(store):
    store.create("alice")
    assert stat.S_IMODE(store.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(store.path.parent.stat().st_mode) == 0o700
    store.path.chmod(0o644)
    for use in (store.list, lambda: store.get("alice"), lambda: store.create("bob")):
        with pytest.raises(KeyStoreError, match=r"mode 0644.*chmod 600"):
            use()


def test_deleted_secrets_are_gone_from_the_file(store):
    store.create("alice")
    secret = store.get("alice").secret
    assert secret in store.path.read_bytes()
    store.delete("alice")
    assert secret not in store.path.read_bytes()


def test_secrets_are_in_no_repr_and_no_error(store, tmp_path):
    store.create("alice")
    secret = store.get("alice").secret
    texts = [repr(store), repr(store.list()), repr(store.entry("alice")), repr(store.get("alice"))]
    store.export("alice", tmp_path / "a.key")
    for trouble in (
        lambda: store.create("alice"),
        lambda: store.import_file(tmp_path / "a.key"),
        lambda: store.export("alice", tmp_path / "a.key"),
    ):
        with pytest.raises(KeyStoreError) as error:
            trouble()
        texts.append(str(error.value) + repr(error.getrepr(showlocals=False)))
    for text in texts:
        assert secret.hex() not in text
        assert repr(secret)[2:-1] not in text


def test_names_are_checked(store):
    store.create("a.B-c_1")
    for name in ("", "-a", "../a", "a b", "a\n", "a" * 65, "é"):
        with pytest.raises(KeyStoreError, match="not a valid key name"):
            store.create(name)
    with pytest.raises(KeyStoreError, match="exists already"):
        store.create("a.B-c_1")
    for use in (store.get, store.entry, store.delete, lambda n: store.export(n, "x")):
        with pytest.raises(KeyStoreError, match="no key named 'nobody'"):
            use("nobody")


def test_an_empty_place_has_no_keys_and_makes_no_file(store):
    assert store.list() == ()
    assert not store.path.exists()


def test_key_file_carries_a_key_to_another_store(store, tmp_path):
    entry = store.create("alice", label="ü")
    file = tmp_path / "alice.key"
    store.export("alice", file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    other = KeyStore(tmp_path / "other.db")
    assert other.import_file(file) == entry
    assert other.get("alice") == store.get("alice")
    with pytest.raises(KeyStoreError, match="stored as 'alice' already"):
        other.import_file(file, name="again")
    with pytest.raises(KeyStoreError, match="never overwritten"):
        store.export("alice", file)


def test_every_flipped_byte_of_a_key_file_is_refused(store, tmp_path):
    store.create("alice")
    file = tmp_path / "alice.key"
    store.export("alice", file)
    good = file.read_bytes()
    bad, other = tmp_path / "bad.key", KeyStore(tmp_path / "other.db")
    for i in range(len(good)):
        for flip in (0x01, 0x20, 0x80):
            bad.write_bytes(good[:i] + bytes([good[i] ^ flip]) + good[i + 1 :])
            with pytest.raises(KeyStoreError):
                other.import_file(bad)
    for text in (b"", good[:-1], good + b" ", b"[" * 9000, b"[1]", b'{"format": 1}', good * 30, b"\xff\xfe"):
        bad.write_bytes(text)
        with pytest.raises(KeyStoreError, match="not a key file, or was changed"):
            other.import_file(bad)
    assert other.list() == ()


def test_what_a_newer_version_wrote_is_told_apart(store, tmp_path):
    store.create("alice")
    file = tmp_path / "alice.key"
    store.export("alice", file)
    file.write_text(file.read_text().replace('"version": 1', '"version": 2'))
    with pytest.raises(KeyStoreError, match="newer treering"):
        store.import_file(file)
    with sqlite3.connect(store.path) as db:
        db.execute("PRAGMA user_version = 9")
    with pytest.raises(KeyStoreError, match="version 9, from a newer treering"):
        store.list()


def test_a_damaged_store_is_an_error(store):
    store.create("alice")
    with sqlite3.connect(store.path) as db:
        db.execute("UPDATE keys SET secret = ?", (bytes(32),))
    with pytest.raises(KeyStoreError, match="does not match its id"):
        store.get("alice")
    store.path.write_bytes(b"not a database, but long enough to be one" * 100)
    with pytest.raises(KeyStoreError, match="cannot use the key store"):
        store.list()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_directory_that_cannot_be_written(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(KeyStoreError, match="cannot use the key store"):
        KeyStore(tmp_path / "keys.db").create("alice")


def test_concurrent_writers_lose_nothing(store):
    def work(thread):
        for i in range(10):
            store.create(f"key-{thread}-{i}")

    threads = [threading.Thread(target=work, args=(t,)) for t in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(store.list()) == 80

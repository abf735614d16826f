import base64
import multiprocessing
import os
import random
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
import time
import traceback
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from watermark import KeyStore, Pattern, RingKey
from watermark.keystore import encryption
from watermark.keystore import store as keystore
from watermark.keystore.entries import Entry
from watermark.keystore.store import KeyStoreError

WORDS, OTHER_WORDS = "correct horse", "battery staple"
PATTERNS = (
    Pattern(),
    Pattern("levels", (0, 3), 2, 9),
    Pattern("dense", (15,), 1, None),
    Pattern("zeros", None, 5, 5),
)
VERSION_1 = """
CREATE TABLE keys (name TEXT PRIMARY KEY, id TEXT NOT NULL UNIQUE, secret BLOB NOT NULL, created TEXT NOT NULL,
 label TEXT NOT NULL);
INSERT INTO keys VALUES ('alice', '21ad784154b1387a',
 X'000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f', '2025-05-01T12:00:00+00:00', 'team ü');
PRAGMA user_version = 1;
"""


@pytest.fixture(autouse=True)
def _cheap_scrypt(monkeypatch):
    monkeypatch.setattr(encryption, "COST", 2)


@pytest.fixture
def store(tmp_path):
    return KeyStore(tmp_path / "keys" / "keys.db")


@pytest.fixture
def locked(tmp_path):
    """An encrypted store with the key alice, opened."""
    store = KeyStore(tmp_path / "locked.db", WORDS)
    store.create("alice", PATTERNS[1], model="m", label="team A")
    return store


def change(store, sql, *values):
    with sqlite3.connect(store.path) as db:
        db.execute(sql, values)
    db.close()


def everything_shown(error):
    """All that an exception can show: its texts, its causes, and the variables of the package's frames."""
    texts = []
    while error is not None:
        texts += [str(error), repr(error), repr(vars(error)), "".join(traceback.format_exception(error))]
        for frame, _ in traceback.walk_tb(error.__traceback__):
            if frame.f_globals["__name__"].startswith("watermark."):
                texts.append(repr(frame.f_locals))
        error = error.__cause__ or error.__context__
    return "".join(texts)


def shows(text, secret):
    """Whether a text has a secret in it, raw, as Python or hexadecimal digits, or in base 64."""
    forms = (secret.hex(), secret.decode("latin-1"), repr(secret)[2:-1], base64.b64encode(secret).decode())
    return any(form in text or form.upper() in text for form in forms)


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


@pytest.mark.parametrize("words", [None, WORDS])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_records_come_back_as_they_were(store, pattern, words):
    key = RingKey.generate(pattern)
    entry = KeyStore(store.path, words).add(
        "alice", key, model="sd\n1.5 ü", label="'; --", created="2025-01-01T00:00:00+00:00"
    )
    assert entry == Entry("alice", key.id, "2025-01-01T00:00:00+00:00", "'; --", "sd\n1.5 ü", None, pattern)
    again = KeyStore(store.path, words)
    assert again.list() == (entry,)
    assert again.get("alice") == key
    assert type(again.get("alice").pattern.channels) is type(pattern.channels)


def test_invalid_records_are_refused(store):
    good = RingKey.generate()
    for key, fields, what in (
        (good, {"label": "\ud800"}, "label must be text"),
        (good, {"model": "m" * 10_001}, "model must be text"),
        (good, {"model": None}, "model must be text"),
        (good, {"created": "yesterday"}, "created must be a time in UTC"),
        (good, {"created": "2025-01-01T00:00:00+02:00"}, "created must be a time in UTC"),
        (good, {"revoked": "2025-01-01"}, "revoked must be a time in UTC"),
    ):
        with pytest.raises(KeyStoreError, match=what):
            store.add("alice", key, **fields)
    assert not store.path.exists()


def test_only_the_owner_can_read_it(store):
    store.create("alice")
    assert stat.S_IMODE(store.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(store.path.parent.stat().st_mode) == 0o700
    store.path.chmod(0o644)
    for use in (store.list, lambda: store.get("alice"), lambda: store.create("bob"), lambda: store.encrypt(WORDS)):
        with pytest.raises(KeyStoreError, match=r"mode 0644.*chmod 600"):
            use()


def test_many_keys_are_read_at_once(store, monkeypatch):
    secured = KeyStore(store.path, WORDS)
    keys = {name: RingKey.generate() for name in ("carol", "alice", "bob")}
    for name, key in keys.items():
        secured.add(name, key)
    calls = []
    transaction = keystore.transaction
    monkeypatch.setattr(keystore, "transaction", lambda *a, **k: calls.append(a) or transaction(*a, **k))
    assert secured.get_all(iter(["bob", "carol"])) == {name: keys[name] for name in ("bob", "carol")}
    assert len(calls) == 1
    assert secured.get_all([]) == {}
    with pytest.raises(KeyStoreError, match="'dave'"):
        secured.get_all(["alice", "dave"])


def test_deleted_secrets_are_gone_from_the_file(store):
    store.create("alice")
    secret = store.get("alice").secret
    assert secret in store.path.read_bytes()
    store.delete("alice")
    assert secret not in store.path.read_bytes()


def test_revoked_keys_stay(store):
    store.create("alice")
    store.create("bob")
    key = store.get("alice")
    revoked = store.revoke("alice")
    assert revoked.revoked is not None
    assert revoked == replace(store.entry("alice"), revoked=revoked.revoked)
    assert [e.revoked for e in store.list()] == [revoked.revoked, None]
    assert store.get("alice") == key
    change(store, "UPDATE keys SET revoked = '2025-01-01T00:00:00+00:00' WHERE name = 'alice'")
    assert store.revoke("alice").revoked == "2025-01-01T00:00:00+00:00"  # the first time stays


def test_names_are_checked(store):
    with pytest.raises(KeyStoreError, match="there is no key store"):
        store.get("a")
    store.create("a.B-c_1")
    for name in ("", "-a", "../a", "a b", "a\n", "a" * 65, "é"):
        with pytest.raises(KeyStoreError, match="not a valid key name"):
            store.create(name)
    with pytest.raises(KeyStoreError, match="exists already"):
        store.create("a.B-c_1")
    with pytest.raises(KeyStoreError, match=r"stored as 'a.B-c_1' already"):
        store.add("other", store.get("a.B-c_1"))
    for use in (store.get, store.entry, store.delete, store.revoke, lambda n: store.export(n, "x")):
        with pytest.raises(KeyStoreError, match="no key named 'nobody'"):
            use("nobody")


def test_an_empty_place_has_no_keys_and_makes_no_file(store):
    assert store.list() == ()
    assert not store.encrypted
    assert not store.path.exists()


def test_a_store_of_version_1_is_migrated(tmp_path):
    store = KeyStore(tmp_path / "keys.db")
    with sqlite3.connect(store.path) as db:
        db.executescript(VERSION_1)
    db.close()
    store.path.chmod(0o600)
    entry = Entry("alice", "21ad784154b1387a", "2025-05-01T12:00:00+00:00", "team ü", pattern=Pattern("rings"))
    assert store.list() == (entry,)
    assert store.get("alice") == RingKey(bytes(range(32)), Pattern("rings"))
    store.create("bob", PATTERNS[1])
    with sqlite3.connect(store.path) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (2,)
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert {row[0] for row in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")} == {
            "keys",
            "lock",
        }
    db.close()
    assert store.path.read_bytes().count(bytes(range(32))) == 1  # no second copy is left behind
    store.encrypt(WORDS)
    assert bytes(range(32)) not in store.path.read_bytes()


def test_a_migration_that_fails_changes_nothing(tmp_path):
    store = KeyStore(tmp_path / "keys.db")
    with sqlite3.connect(store.path) as db:
        db.executescript(VERSION_1 + "CREATE TABLE lock (something_else);")
    db.close()
    store.path.chmod(0o600)
    before = store.path.read_bytes()
    with pytest.raises(KeyStoreError, match="table lock already exists"):
        store.list()
    assert store.path.read_bytes() == before


def test_stores_of_newer_versions_are_refused(store):
    store.create("alice")
    change(store, "PRAGMA user_version = 9")
    before = store.path.read_bytes()
    for use in (store.list, lambda: store.get("alice"), lambda: store.create("bob"), lambda: store.encrypt(WORDS)):
        with pytest.raises(KeyStoreError, match="version 9, from a newer treering"):
            use()
    assert store.path.read_bytes() == before


def test_a_damaged_store_is_an_error(store):
    store.create("alice")
    secret = store.get("alice").secret
    for value in (bytes(32), secret[:31], "text", b""):
        change(store, "UPDATE keys SET secret = ?", value)
        with pytest.raises(KeyStoreError, match="does not match its id"):
            store.get("alice")
    for pattern in ("", "{}", "[]", "null", '{"kind": "x", "channels": null, "inner": 3, "outer": null}'):
        change(store, "UPDATE keys SET pattern = ?", pattern)
        with pytest.raises(KeyStoreError, match="its record cannot be read"):
            store.list()
    store.path.write_bytes(b"not a database, but long enough to be one" * 100)
    with pytest.raises(KeyStoreError, match="cannot use the key store"):
        store.list()


def test_what_is_no_store_is_left_as_it_is(tmp_path):
    other = tmp_path / "bookmarks.db"
    with sqlite3.connect(other) as db:
        db.execute("CREATE TABLE bookmarks (address)")
    db.close()
    empty = tmp_path / "empty.db"
    empty.touch()
    for file in (other, empty):
        file.chmod(0o600)
    before = other.read_bytes()
    for act in (KeyStore(other).list, lambda: KeyStore(other).create("alice"), KeyStore(empty).list):
        with pytest.raises(KeyStoreError, match="is not a key store"):
            act()
    assert other.read_bytes() == before
    assert not empty.read_bytes()
    KeyStore(empty).create("alice")  # as a creation that was killed left it
    with pytest.raises(KeyStoreError, match="is not a file"):
        KeyStore(tmp_path).list()


def test_names_and_patterns_that_no_text_or_parser_can_hold(store):
    store.create("alice")
    with pytest.raises(KeyStoreError, match="not a text"):
        store.entry("\udcff")
    change(store, "UPDATE keys SET pattern = ?", "[" * 200_000)
    with pytest.raises(KeyStoreError, match="its record cannot be read"):
        store.list()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_directory_that_cannot_be_written(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(KeyStoreError, match="cannot use the key store"):
        KeyStore(tmp_path / "keys.db").create("alice")


def test_an_encrypted_store_needs_its_passphrase(locked):
    key = locked.get("alice")
    assert locked.encrypted
    assert KeyStore(locked.path, WORDS).get("alice") == key
    assert key.secret not in locked.path.read_bytes()
    for words, message in ((None, "is encrypted, and no passphrase was given"), (OTHER_WORDS, "wrong passphrase")):
        other = KeyStore(locked.path, words)
        assert other.list() == locked.list()
        assert other.entry("alice").pattern == PATTERNS[1]
        for use in (
            lambda other=other: other.get("alice"),
            lambda other=other: other.create("bob"),
            lambda other=other: other.export("alice", locked.path.with_name("a.key")),
            lambda other=other: other.encrypt("new"),
        ):
            with pytest.raises(KeyStoreError, match=message):
                use()
        assert len(locked.list()) == 1
    assert not locked.path.with_name("a.key").exists()
    other = KeyStore(locked.path)
    other.revoke("alice")
    assert locked.get("alice") == key
    other.delete("alice")
    assert locked.list() == ()
    assert locked.encrypted
    with pytest.raises(KeyStoreError, match="is encrypted"):
        other.create("bob")
    with pytest.raises(ValueError, match="passphrase is empty"):
        KeyStore(locked.path, "")


def test_a_plain_store_refuses_a_passphrase_once_it_has_keys(store):
    store.create("alice")
    other = KeyStore(store.path, WORDS)
    for use in (lambda: other.get("alice"), lambda: other.create("bob")):
        with pytest.raises(KeyStoreError, match="is not encrypted, although a passphrase was given"):
            use()
    assert [e.name for e in other.list()] == ["alice"]
    other.delete("alice")
    other.create("bob")
    assert store.encrypted


def test_a_passphrase_is_the_same_however_its_letters_are_composed(tmp_path):
    for name, written, read in (
        ("keys.db", "caf\u00e9", "cafe\u0301"),
        ("raw.db", os.fsdecode(b"\xff\xfe"), os.fsdecode(b"\xff\xfe")),
    ):
        made = KeyStore(tmp_path / name, written).create("alice")
        assert KeyStore(tmp_path / name, read).get("alice").id == made.id
    with pytest.raises(KeyStoreError, match="wrong passphrase"):
        KeyStore(tmp_path / "keys.db", "cafe").get("alice")


def test_encrypted_secrets_are_bound_to_their_records(locked):
    locked.create("bob", PATTERNS[1], model="m")
    original = locked.path.read_bytes()
    swap = "UPDATE keys SET secret = (SELECT secret FROM keys k WHERE k.name != keys.name)"
    plain = bytes(range(32)).hex()
    edits = [
        "UPDATE keys SET name = 'mallory' WHERE name = 'alice'",
        "UPDATE keys SET id = '0000000000000000' WHERE name = 'alice'",
        "UPDATE keys SET created = '2020-01-01T00:00:00+00:00'",
        "UPDATE keys SET model = 'n'",
        "UPDATE keys SET pattern = replace(pattern, 'levels', 'rings')",
        "UPDATE keys SET pattern = replace(pattern, '9', '8')",
        "UPDATE keys SET secret = zeroblob(60)",
        "UPDATE keys SET secret = zeroblob(3)",
        f"UPDATE keys SET secret = X'{plain}', id = '21ad784154b1387a' WHERE name = 'alice'",  # noqa: S608
        swap,
    ]
    for edit in edits:
        locked.path.write_bytes(original)
        change(locked, edit)
        opened = KeyStore(locked.path, WORDS)
        name = next(e.name for e in opened.list() if e.name != "bob")
        with pytest.raises(KeyStoreError, match="does not match its record"):
            opened.get(name)
        with pytest.raises(KeyStoreError, match="does not match its record"):
            opened.encrypt("new")
    locked.path.write_bytes(original)
    ((sealed,),) = sqlite3.connect(locked.path).execute("SELECT secret FROM keys WHERE name = 'alice'").fetchall()
    for bit in range(0, 8 * len(sealed), 29):
        changed = bytearray(sealed)
        changed[bit // 8] ^= 1 << bit % 8
        change(locked, "UPDATE keys SET secret = ? WHERE name = 'alice'", bytes(changed))
        with pytest.raises(KeyStoreError, match="does not match its record"):
            locked.get("alice")
    for edit in (
        "UPDATE lock SET salt = zeroblob(16)",
        "UPDATE lock SET cost = 4",
        "UPDATE lock SET verifier = zeroblob(28)",
        "UPDATE lock SET verifier = 'text'",
        "UPDATE lock SET cost = 1 << 40",
        "UPDATE lock SET salt = 'text'",
        "DELETE FROM lock",
    ):
        locked.path.write_bytes(original)
        change(locked, edit)
        with pytest.raises(KeyStoreError, match=r"wrong passphrase|is damaged|is not encrypted"):
            KeyStore(locked.path, WORDS).get("bob")


def test_a_plain_store_can_be_encrypted_and_the_passphrase_changed(store):
    for i in range(60):
        store.create(f"key-{i}", PATTERNS[i % 4], label=f"label {i}")
    store.revoke("key-3")
    for i in range(0, 60, 7):
        store.delete(f"key-{i}")
    entries = store.list()
    keys = {e.name: store.get(e.name) for e in entries}
    store.encrypt(WORDS)
    stored = store.path.read_bytes()
    assert not any(key.secret in stored for key in keys.values())
    plain = KeyStore(store.path)
    assert plain.list() == entries
    with pytest.raises(KeyStoreError, match="is encrypted"):
        plain.encrypt(OTHER_WORDS)
    other = KeyStore(store.path, WORDS)
    store.encrypt(OTHER_WORDS)  # opened with the old passphrase, as it set it
    assert {name: store.get(name) for name in keys} == keys
    assert {name: KeyStore(store.path, OTHER_WORDS).get(name) for name in keys} == keys
    with pytest.raises(KeyStoreError, match="wrong passphrase"):
        other.get("key-1")
    with pytest.raises(KeyStoreError, match="wrong passphrase"):
        KeyStore(store.path, WORDS).encrypt("new")


def test_a_store_can_be_encrypted_before_its_first_key(store):
    store.encrypt(WORDS)
    assert stat.S_IMODE(store.path.stat().st_mode) == 0o600
    with pytest.raises(KeyStoreError, match="is encrypted"):
        KeyStore(store.path).create("alice")
    store.create("alice")


def test_scrypt_runs_once_for_a_store_object(locked, monkeypatch):
    runs = []
    monkeypatch.setattr(encryption, "Scrypt", lambda *a, **k: runs.append(k) or Scrypt(*a, **k))
    opened = KeyStore(locked.path, WORDS)
    for _ in range(3):
        opened.get("alice")
        opened.create(f"key-{len(opened.list())}")
    assert runs == [{"length": 32, "n": 2, "r": 8, "p": 1}]


def test_the_real_cost_of_scrypt(monkeypatch, tmp_path):
    monkeypatch.undo()
    assert encryption.COST >= 2**15
    KeyStore(tmp_path / "keys.db", WORDS).create("alice")
    KeyStore(tmp_path / "keys.db", WORDS).get("alice")


@pytest.fixture
def derived(monkeypatch):
    """Every key that a passphrase was made into."""
    keys, real = [], encryption.AESGCM
    monkeypatch.setattr(encryption, "AESGCM", lambda key: keys.append(key) or real(key))
    return keys


def test_secrets_are_in_no_repr_and_no_error(store, tmp_path, derived):
    key = RingKey.generate()
    locked, new = KeyStore(tmp_path / "locked.db", WORDS), KeyStore(tmp_path / "new.db")
    store.add("alice", key)
    locked.add("alice", key)
    file, protected = tmp_path / "a.key", tmp_path / "b.key"
    store.export("alice", file)
    store.export("alice", protected, passphrase=WORDS)
    broken = []
    for source, old, bad in (
        (file, b'"secret": "', b'"secret": "\xff'),
        (file, b'"secret": "', b'"secret": "x'),
        (file, b'"secret": "', b'"secret": "00'),
        (file, b'"seal": "', b'"seal": "0'),
        (file, b'"seal": "', b'"seal": '),
        (protected, b'"sealed": "', b'"sealed": "00'),
        (protected, b'"label": "', b'"label": "0'),
    ):
        broken.append(tmp_path / f"broken-{len(broken)}.key")
        broken[-1].write_bytes(source.read_bytes().replace(old, bad))
    shown = [repr(x) for s in (store, locked) for x in (s, vars(s), s.list(), s.entry("alice"), s.get("alice"))]
    for trouble in (
        lambda: store.create("alice"),
        lambda: locked.create("alice"),
        lambda: locked.add("bob", key),
        lambda: store.add("b b", key),
        lambda: store.add("bob", key, label="\ud800"),
        lambda: store.import_file(file),
        lambda: store.import_file(file, passphrase=WORDS),
        lambda: store.import_file(protected),
        lambda: store.import_file(protected, passphrase=WORDS),
        lambda: store.import_file(protected, passphrase=OTHER_WORDS),
        lambda: store.export("alice", file),
        lambda: store.export("alice", tmp_path / "nowhere" / "a.key"),
        lambda: KeyStore(store.path, WORDS).get("alice"),
        lambda: KeyStore(locked.path).get("alice"),
        lambda: KeyStore(locked.path, OTHER_WORDS).get("alice"),
        lambda: KeyStore(locked.path, OTHER_WORDS).encrypt("new"),
        *(lambda path=path: new.import_file(path) for path in broken),
        *(lambda path=path: new.import_file(path, passphrase=WORDS) for path in broken),
    ):
        with pytest.raises(KeyStoreError) as error:
            trouble()
        shown.append(everything_shown(error.value))
    assert len(derived) > 5
    assert any(shows(file.read_text(), secret) for secret in (key.secret, *derived))
    for text in shown:
        assert not any(shows(text, secret) for secret in (key.secret, *derived))


@pytest.mark.parametrize("words", [None, WORDS])
@pytest.mark.parametrize(
    "edit",
    [
        "UPDATE keys SET secret = CAST(secret AS TEXT)",  # which SQLite would show in its message
        "UPDATE keys SET secret = CAST(secret || X'ff' AS TEXT)",
        "UPDATE keys SET secret = substr(secret, 2)",
        "UPDATE keys SET id = '00'",
        "UPDATE keys SET id = CAST(X'ff' AS TEXT)",
        "UPDATE keys SET model = X'ff'",
        "UPDATE keys SET revoked = X'ff'",
        "UPDATE keys SET pattern = '{}'",
        "UPDATE keys SET pattern = CAST(secret AS TEXT)",
        "ALTER TABLE keys RENAME COLUMN secret TO other",
        "DROP TABLE lock",
    ],
)
def test_secrets_are_in_no_error_of_a_damaged_store(store, words, edit, derived):
    store = KeyStore(store.path, words)
    store.create("alice")
    secret = store.get("alice").secret
    change(store, edit)
    for use in (
        store.get,
        lambda name: store.export(name, store.path.with_name("a.key")),
        lambda _: store.encrypt("x"),
    ):
        try:
            use("alice")
        except KeyStoreError as error:
            text = everything_shown(error)
            assert not any(shows(text, s) for s in (secret, secret[1:], *derived))
        else:
            assert edit == "UPDATE keys SET secret = CAST(secret AS TEXT)"  # the same bytes
            break


def test_concurrent_threads_lose_nothing(store):
    def work(thread):
        for i in range(10):
            store.create(f"key-{thread}-{i}")

    threads = [threading.Thread(target=work, args=(t,)) for t in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(store.list()) == 80


def work(path, worker, operations):
    """Add, revoke, delete and list; returns which of the worker's keys are left, and whether they are revoked."""
    store, left, choose = KeyStore(path), {}, random.Random(worker)  # noqa: S311
    for i in range(operations):
        what = choose.choice(("add", "add", "revoke", "delete", "list")) if left else "add"
        name = f"key-{worker}-{i}" if what == "add" else choose.choice(sorted(left))
        if what == "add":
            store.create(name, PATTERNS[i % 4])
            left[name] = False
        elif what == "revoke":
            store.revoke(name)
            left[name] = True
        elif what == "delete":
            store.delete(name)
            del left[name]
        else:
            assert set(left) <= {entry.name for entry in store.list()}
    return left


@pytest.mark.parametrize(("workers", "operations"), [(4, 50), pytest.param(16, 1000, marks=pytest.mark.slow)])
def test_concurrent_processes_lose_nothing(store, workers, operations):
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        results = pool.starmap(work, [(store.path, w, operations) for w in range(workers)], chunksize=1)
    expected = {name: revoked for left in results for name, revoked in left.items()}
    assert {entry.name: entry.revoked is not None for entry in store.list()} == expected
    assert all(store.get(name).id == store.entry(name).id for name in list(expected)[:100])
    with sqlite3.connect(store.path) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    db.close()


def test_a_writer_that_is_killed_loses_nothing_else(store):
    store.create("first")
    script = """
import sys
from watermark import KeyStore
store = KeyStore(sys.argv[1])
for i in range(100000):
    store.create(f"key-{sys.argv[2]}-{i}")
    print(f"key-{sys.argv[2]}-{i}", flush=True)
"""
    told = {"first"}
    for run in range(6):
        command = [sys.executable, "-c", script, store.path, str(run)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        told.add(process.stdout.readline().strip())
        time.sleep(0.03 + 0.017 * run)
        process.send_signal(signal.SIGKILL)
        told |= set(process.communicate()[0].split())
        assert process.returncode == -signal.SIGKILL
        there = {entry.name for entry in store.list()}
        assert told <= there
        assert len(there - told) <= run + 1  # stored, but killed before it could say so
        assert all(store.get(name).id == store.entry(name).id for name in there)
    store.create("last")


def test_a_change_of_passphrase_that_is_killed_changes_nothing(store):
    for i in range(100):
        store.create(f"key-{i}")
    keys = {entry.name: store.get(entry.name) for entry in store.list()}
    store.encrypt("0")
    script = """
import sys
from watermark import KeyStore
from watermark.keystore import encryption
from watermark.keystore import store as keystore
encryption.COST = 2
store = KeyStore(sys.argv[1], sys.argv[2])
for i in range(int(sys.argv[2]) + 1, 100000):
    store.encrypt(str(i))
    print(i, flush=True)
"""
    now = 0
    for run in range(4):
        command = [sys.executable, "-c", script, store.path, str(now)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        first = process.stdout.readline()
        time.sleep(0.02 + 0.013 * run)
        process.send_signal(signal.SIGKILL)
        now = int((first + process.communicate()[0]).split()[-1])
        opened = KeyStore(store.path, str(now))
        try:
            opened.get("key-0")
        except KeyStoreError:  # changed, but killed before it could say so
            now += 1
            opened = KeyStore(store.path, str(now))
        assert {name: opened.get(name) for name in keys} == keys


def test_a_full_disk_leaves_the_store_as_it_was(store):
    resource = pytest.importorskip("resource")
    for i in range(50):
        store.create(f"key-{i}")
    entries, size = store.list(), store.path.stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        with pytest.raises(KeyStoreError, match="cannot use the key store"):
            store.create("more", label="x" * 9000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert store.list() == entries
    assert all(store.get(e.name).id == e.id for e in store.list())
    store.create("last")

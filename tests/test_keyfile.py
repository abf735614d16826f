import errno
import json
import os
import stat
from dataclasses import replace

import pytest

from watermark import KeyStore, Pattern, RingKey
from watermark.keystore import encryption, keyfile
from watermark.keystore.entries import Entry
from watermark.keystore.store import KeyStoreError

WORDS, OTHER_WORDS = "correct horse", "battery staple"
PATTERN = Pattern("levels", (0, 3), 2, 9)
VERSION_1 = """{
 "format": "treering-key",
 "version": 1,
 "name": "alice",
 "id": "21ad784154b1387a",
 "created": "2025-05-01T12:00:00+00:00",
 "label": "team \\u00fc",
 "secret": "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f",
 "seal": "612918356d206a920cd2438890bf5ed433aa9c0afc664b037ec8041f2b93883c"
}
"""


@pytest.fixture(autouse=True)
def _cheap_scrypt(monkeypatch):
    monkeypatch.setattr(encryption, "COST", 2)


@pytest.fixture
def store(tmp_path):
    """A store with the key alice, which has everything that a key can have."""
    store = KeyStore(tmp_path / "keys.db")
    store.create("alice", PATTERN, model="sd 1.5", label="ü")
    store.revoke("alice")
    return store


@pytest.fixture
def other(tmp_path):
    return KeyStore(tmp_path / "other.db")


def file_of(store, words):
    """A key file's path and its bytes."""
    file = store.path.with_name("alice.key")
    store.export("alice", file, passphrase=words)
    return file, file.read_bytes()


@pytest.mark.parametrize("words", [None, WORDS])
def test_a_key_file_carries_everything_to_another_store(store, other, words):
    file, raw = file_of(store, words)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert keyfile.is_protected(file) == (words is not None)
    assert (store.get("alice").secret.hex() in raw.decode()) == (words is None)
    assert other.import_file(file, passphrase=words) == store.entry("alice")
    assert other.get("alice") == store.get("alice")
    with pytest.raises(KeyStoreError, match="stored as 'alice' already"):
        other.import_file(file, name="again", passphrase=words)
    other.delete("alice")
    assert other.import_file(file, name="again", passphrase=words).name == "again"
    with pytest.raises(KeyStoreError, match="never overwritten"):
        store.export("alice", file)
    assert file.read_bytes() == raw


def test_a_key_file_goes_from_an_encrypted_store_to_another(store, tmp_path):
    key, entry = store.get("alice"), store.entry("alice")
    store.encrypt(WORDS)
    file, _ = file_of(store, "the file's own")
    target = KeyStore(tmp_path / "other.db", OTHER_WORDS)
    assert target.import_file(file, passphrase="the file's own") == entry  # noqa: S106
    assert target.get("alice") == key


@pytest.mark.parametrize("words", [None, WORDS])
def test_every_flipped_bit_of_a_key_file_is_refused(store, words):
    file, raw = file_of(store, words)
    passphrase = None if words is None else encryption.Passphrase(words)
    assert keyfile.read_key_file(file, passphrase)[1] == store.get("alice")
    with file.open("r+b", buffering=0) as handle:
        for bit in range(8 * len(raw)):
            for byte in (raw[bit // 8] ^ 1 << bit % 8, raw[bit // 8]):
                handle.seek(bit // 8)
                handle.write(bytes([byte]))
                if byte != raw[bit // 8]:
                    with pytest.raises(KeyStoreError):
                        keyfile.read_key_file(file, passphrase)
    assert file.read_bytes() == raw


@pytest.mark.parametrize("words", [None, WORDS])
def test_other_spellings_of_a_key_file_are_refused(store, words, tmp_path):
    _, raw = file_of(store, words)
    passphrase = None if words is None else encryption.Passphrase(words)
    fields, text = json.loads(raw), raw.decode()
    hexadecimal = fields["secret" if words is None else "sealed"]
    bad = tmp_path / "bad.key"
    cut = [raw[:end] for end in range(len(raw))]
    spelled = [
        raw + b"\n",
        raw + b" ",
        raw + b"\0",
        b"\xef\xbb\xbf" + raw,
        b" " + raw,
        raw.replace(b"\n", b"\r\n"),
        text.encode("utf-16"),
        text.encode("utf-32"),
        json.dumps(fields).encode(),
        json.dumps(fields, indent=2).encode() + b"\n",
        json.dumps(fields, indent=1, ensure_ascii=False).encode() + b"\n",
        json.dumps(dict(reversed(fields.items())), indent=1).encode() + b"\n",
        json.dumps(fields | {"more": 1}, indent=1).encode() + b"\n",
        text.replace(hexadecimal, hexadecimal.upper()).encode(),
        text.replace(hexadecimal, f"{hexadecimal[:2]} {hexadecimal[2:]}").encode(),
        text.replace('"version": 2', '"version": 2.0').encode(),
        text.replace('"version": 2', '"version": "2"').encode(),
        text.replace('"version": 2', '"version": 1').encode(),
        text.replace('"version": 2', '"version": true').encode(),
        text.replace('"version": 2', '"version": 0').encode(),
        text.replace('"name": "alice"', '"name": "bob", "name": "alice"').encode(),
        text.replace('"name": "alice"', '"name": "\\u0061lice"').encode(),
        text.replace('"inner": 2', '"inner": 2.0').encode(),
        raw * 2,
    ]
    for field in fields:
        for value in (None, "", 0, 1, -1, 2**70, [], {}, "x", ["x"], True):
            if fields[field] != value or type(fields[field]) is not type(value):
                spelled.append(json.dumps(fields | {field: value}, indent=1).encode() + b"\n")
        spelled.append(json.dumps({k: v for k, v in fields.items() if k != field}, indent=1).encode() + b"\n")
    bad.touch(0o600)  # nothing is wrong with its mode
    bad.write_bytes(raw)
    assert keyfile.read_key_file(bad, passphrase)[1] == store.get("alice")
    nonsense = [b"", b"[" * 9000, b"[" * 250_000, b"[1]", b'{"format": 1}', raw * 900, b"\xff\xfe", b"9" * 5000]
    for changed in (*cut, *spelled, *nonsense):
        bad.write_bytes(changed)
        with pytest.raises(KeyStoreError):
            keyfile.read_key_file(bad, passphrase)
    for changed in (*cut, *nonsense):
        bad.write_bytes(changed)
        with pytest.raises(KeyStoreError, match="not a key file, or was changed"):
            keyfile.read_key_file(bad, passphrase)


def test_passphrases_of_key_files(store, other):
    file, _ = file_of(store, WORDS)
    for words, message in ((None, "protected by a passphrase, and none"), (OTHER_WORDS, "wrong passphrase")):
        with pytest.raises(KeyStoreError, match=message):
            other.import_file(file, passphrase=words)
    file.unlink()
    file_of(store, None)
    with pytest.raises(KeyStoreError, match="has no passphrase, although one was given"):
        other.import_file(file, passphrase=WORDS)
    for use in (store.export, lambda name, file, passphrase: store.import_file(file, passphrase=passphrase)):
        with pytest.raises(ValueError, match="passphrase is empty"):
            use("alice", file, passphrase="")
    assert other.list() == ()


def test_a_costly_file_is_refused_before_it_costs_anything(store, other, monkeypatch):
    monkeypatch.setattr(encryption, "COST", 2**19)
    monkeypatch.setattr(encryption, "Scrypt", lambda *a, **k: pytest.fail("scrypt ran"))
    monkeypatch.setattr(encryption.Passphrase, "seal", lambda *a: bytes(60))
    file, raw = file_of(store, WORDS)
    file.write_bytes(raw.replace(str(2**19).encode(), str(2**34).encode()))
    with pytest.raises(KeyStoreError, match="not a key file"):
        other.import_file(file, passphrase=WORDS)


@pytest.mark.skipif(os.name != "posix", reason="modes of POSIX")
def test_a_secret_that_others_may_read_is_not_imported(store, other):
    file, _ = file_of(store, None)
    file.chmod(0o640)
    with pytest.raises(KeyStoreError, match=r"mode 0640.*chmod 600"):
        other.import_file(file)
    assert other.list() == ()
    file.chmod(0o600)
    other.import_file(file)
    file.unlink()
    protected, _ = file_of(store, WORDS)
    protected.chmod(0o644)  # nobody reads the secret without the passphrase
    assert keyfile.read_key_file(protected, encryption.Passphrase(WORDS))[1] == store.get("alice")


def test_key_files_of_version_1_can_be_read(other, tmp_path):
    file = tmp_path / "alice.key"
    file.write_text(VERSION_1, encoding="utf-8")
    file.chmod(0o600)
    entry = Entry("alice", "21ad784154b1387a", "2025-05-01T12:00:00+00:00", "team ü", pattern=Pattern("rings"))
    assert other.import_file(file) == entry
    assert other.get("alice") == RingKey(bytes(range(32)), Pattern("rings"))
    for i in range(len(VERSION_1)):
        for flip in (0x01, 0x20, 0x80):
            raw = VERSION_1.encode()
            file.write_bytes(raw[:i] + bytes([raw[i] ^ flip]) + raw[i + 1 :])
            with pytest.raises(KeyStoreError, match=r"not a key file|newer treering"):
                keyfile.read_key_file(file)


def test_key_files_of_newer_versions_are_told_apart(store, other):
    file, raw = file_of(store, None)
    file.write_bytes(raw.replace(b'"version": 2', b'"version": 3'))
    with pytest.raises(KeyStoreError, match=r"newer treering \(version 3\)"):
        other.import_file(file)


def test_a_full_disk_leaves_no_half_file(store, tmp_path):
    resource = pytest.importorskip("resource")
    before = set(tmp_path.iterdir())
    entry, key = store.entry("alice"), store.get("alice")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        with pytest.raises(KeyStoreError, match="cannot write"):
            keyfile.write_key_file(tmp_path / "alice.key", entry, key)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert set(tmp_path.iterdir()) == before
    for target, message in (
        (tmp_path / "nowhere" / "a.key", "No such file"),
        (tmp_path, "exists"),
        (tmp_path / ("a" * 300), "too long"),
    ):
        with pytest.raises(KeyStoreError, match=message):
            store.export("alice", target)
    assert set(tmp_path.iterdir()) == before


def test_names_that_lead_elsewhere_are_not_written_through(store, tmp_path):
    (tmp_path / "alice.key").symlink_to(tmp_path / "target")
    with pytest.raises(KeyStoreError, match="never overwritten"):
        store.export("alice", tmp_path / "alice.key")
    assert not (tmp_path / "target").exists()


def test_disks_without_hard_links(store, other, tmp_path, monkeypatch):
    def link(*_):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    before = set(tmp_path.iterdir())
    file, _ = file_of(store, None)
    assert set(tmp_path.iterdir()) == before | {file}
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert other.import_file(file) == store.entry("alice")
    with pytest.raises(KeyStoreError, match="never overwritten"):
        store.export("alice", file)


def test_a_file_that_cannot_be_read(other, tmp_path):
    for file, message in ((tmp_path / "missing", "No such file"), (tmp_path, "Is a directory")):
        assert not keyfile.is_protected(file)
        with pytest.raises(KeyStoreError, match=f"cannot read.*{message}"):
            other.import_file(file)


@pytest.mark.parametrize("mode", [0o640, 0o620, 0o610, 0o604, 0o602, 0o601])
def test_what_others_may_read_or_write_is_refused(tmp_path, mode):
    store, file = KeyStore(tmp_path / "k.db"), tmp_path / "a.key"
    store.create("alice")
    store.export("alice", file)
    file.chmod(mode)
    with pytest.raises(KeyStoreError, match="chmod 600"):
        keyfile.read_key_file(file)
    store.path.chmod(mode)
    with pytest.raises(KeyStoreError, match="chmod 600"):
        store.list()


def test_costs_beyond_a_gibibyte_are_refused():
    encryption.Stretch(bytes(16), 2**20)
    with pytest.raises(ValueError, match="cost"):
        encryption.Stretch(bytes(16), 2**21)


def test_no_file_is_written_that_could_not_be_read(tmp_path):
    store = KeyStore(tmp_path / "k.db")
    entry = store.create("alice")
    with pytest.raises(KeyStoreError, match="label"):
        keyfile.write_key_file(tmp_path / "a.key", replace(entry, label="x" * 10_001), store.get("alice"))
    assert not (tmp_path / "a.key").exists()

import contextlib
import csv
import io
import json
import os
import shlex
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from tests.test_cli import OTHER_WORDS, WORDS, run
from watermark import KeyStore, Pattern, keys
from watermark.commands import errors, stores
from watermark.commands import keys as key_commands
from watermark.keystore import encryption


@pytest.fixture
def desk(tmp_path, monkeypatch):
    """A directory with an empty place for a store, where scrypt is cheap and nobody sits at the terminal."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TREERING_STORE", str(tmp_path / "keys.db"))
    monkeypatch.setattr(encryption, "COST", 2)
    for name in ("", "NEW_", "FILE_"):
        monkeypatch.delenv(f"TREERING_{name}PASSPHRASE", raising=False)
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    return tmp_path


def told(capsys):
    """What was printed, to stdout and stderr."""
    return "".join(capsys.readouterr())


def test_patterns_from_the_command_line(desk, capsys):
    assert key_commands.KINDS == keys.KINDS
    assert run("treering key create a") == 0
    assert run("treering key create b --kind levels --channels '3, 0' --inner 2 --outer 9 --model 'sd 1.5'") == 0
    store = KeyStore(desk / "keys.db")
    assert store.get("a").pattern == Pattern()
    assert store.get("b").pattern == Pattern("levels", (3, 0), 2, 9)
    told(capsys)
    assert run("treering key list --json") == 0
    a, b = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert list(a) == ["name", "id", "created", "label", "model", "revoked", "pattern"]
    assert a["pattern"] == {"kind": "dense", "channels": None, "inner": 3, "outer": None}
    assert (b["pattern"]["channels"], b["model"], b["revoked"]) == ([3, 0], "sd 1.5", None)
    assert run("treering key show b --csv") == 0
    (shown,) = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert (shown["pattern"], shown["model"], shown["revoked"]) == (
        "levels; channels 3,0; radius 2 to 9",
        "sd 1.5",
        "",
    )
    for wrong in ("--kind x", "--channels a", "--channels ''", "--channels 0,0", "--channels=-1", "--inner 0"):
        assert run(f"treering key create c {wrong}") == 2
    assert run("treering key create c --inner 5 --outer 4") == 2
    assert "outer must be at least inner" in told(capsys)
    assert len(store.list()) == 2


def test_keys_of_other_code_become_files(desk, capsys):
    from watermark.foreign import read_array_key
    from watermark.published_keys import constant_ring_key, tree_ring_key

    assert run("treering key foreign tree-ring --seed 5 --shape 4,32,32 --radius 4 -o a.safetensors") == 0
    assert "wrote a.safetensors: 49 marked bins of latents 4 × 32 × 32" in told(capsys)
    expected = tree_ring_key(5, (4, 32, 32), radius=4)
    read = read_array_key(desk / "a.safetensors")
    assert np.array_equal(read.values, expected.values)
    assert np.array_equal(read.mask, expected.mask)
    assert (desk / "a.safetensors").stat().st_mode & 0o777 == 0o600
    assert run("treering key foreign constant-rings --number 2 --shape 4,32,32 --level 40 -o b.safetensors") == 0
    rings = constant_ring_key(2, (4, 32, 32), level=40)
    assert np.array_equal(read_array_key(desk / "b.safetensors").values, rings.values)
    centred = [np.fft.fftshift(a, axes=(-2, -1)) for a in (rings.values, rings.mask)]
    for name, part in zip(("values.npy", "mask.npy"), centred, strict=True):
        np.save(desk / name, part)
    assert run("treering key foreign array values.npy mask.npy -o c.safetensors") == 0
    assert np.array_equal(read_array_key(desk / "c.safetensors").values, rings.values)
    told(capsys)
    for wrong, message in (
        ("tree-ring --shape 4,32", "--shape must be channels,height,width"),
        ("tree-ring --shape 4,x", "numbers between commas"),
        ("tree-ring --radius 40", "radius must be"),
        ("array values.npy", "a mask is needed"),
    ):
        assert run(f"treering key foreign {wrong} -o d.safetensors") == 2
        assert message in told(capsys)
    assert not (desk / "d.safetensors").exists()


def test_keys_of_users_come_from_a_master(desk, capsys):
    run("treering key create master --kind levels --model sapling")
    assert run("treering key derive master bob --label tenant") == 0
    store = KeyStore(desk / "keys.db")
    assert store.get("bob") == store.get("master").user("bob")
    assert (store.entry("bob").model, store.entry("bob").label) == ("sapling", "tenant")
    assert run("treering key derive master bob") == 2
    assert run("treering key derive nobody carol") == 2
    run("treering key revoke master")
    assert run("treering key derive master carol") == 2
    assert "nothing is derived from it" in told(capsys)


def test_revoking_from_the_command_line(desk, capsys):
    run("treering key create alice")
    assert run("treering key revoke alice") == 0
    revoked = KeyStore(desk / "keys.db").entry("alice").revoked
    assert f"key alice is revoked since {revoked}" in told(capsys)
    assert run("treering key list") == 0
    assert revoked in told(capsys)
    assert run("treering key revoke nobody") == 2
    assert run("treering key export alice") == 0
    run("treering key delete alice --yes")
    assert run("treering key import alice.key") == 0
    store = KeyStore(desk / "keys.db")
    assert store.entry("alice").revoked == revoked
    store.create("bob", model="sapling")
    with pytest.raises(errors.Trouble, match="'alice' is revoked since"):
        stores.marking_key(store, "alice", "sapling")
    assert stores.marking_key(store, "bob", "sapling") == store.get("bob")
    with pytest.raises(errors.Trouble, match="'bob' is meant for the model 'sapling', not 'other'"):
        stores.marking_key(store, "bob", "other")
    told(capsys)
    stores.warn_of_revoked(store.list())
    assert capsys.readouterr().err == f"treering: warning: the key 'alice' is revoked since {revoked}\n"


def test_an_encrypted_store_from_the_command_line(desk, capsys, monkeypatch):
    assert run("treering key encrypt") == 2
    assert "set TREERING_PASSPHRASE, or run this in a terminal" in told(capsys)
    run("treering key create alice")
    store = KeyStore(desk / "keys.db")
    secret = store.get("alice").secret
    monkeypatch.setenv("TREERING_PASSPHRASE", WORDS)
    assert run("treering key create bob") == 2
    assert "is not encrypted, although a passphrase was given" in told(capsys)
    assert run("treering key encrypt") == 0
    assert run("treering key create bob") == 0
    assert run("treering key encrypt") == 2
    assert "set TREERING_NEW_PASSPHRASE" in told(capsys)
    monkeypatch.delenv("TREERING_PASSPHRASE")
    for line in ("list", "show alice", "revoke alice"):
        assert run(f"treering key {line}") == 0
    for line in ("create carol", "export alice", "encrypt"):
        assert run(f"treering key {line}") == 2
        assert "is encrypted; give its passphrase in TREERING_PASSPHRASE" in told(capsys)
    (desk / "words").write_text(f"{WORDS}\nand a comment\n")
    (desk / "wrong").write_text(OTHER_WORDS)
    (desk / "empty").write_text("\n")
    assert run("treering key create carol --passphrase-file words") == 0
    assert run("treering key create dave --passphrase-file wrong") == 2
    assert run("treering key create dave --passphrase-file empty") == 2
    assert run("treering key create dave --passphrase-file missing") == 2
    shown = told(capsys)
    for message in (
        "wrong passphrase for",
        "empty has no passphrase in its first line",
        "'missing' does not exist",
    ):
        assert message in shown
    monkeypatch.setenv("TREERING_NEW_PASSPHRASE", OTHER_WORDS)
    assert run("treering key encrypt --passphrase-file words") == 0
    assert run("treering key create dave --passphrase-file wrong") == 0
    assert run("treering key delete dave --yes") == 0
    assert KeyStore(store.path, OTHER_WORDS).get("alice").secret == secret
    shown += told(capsys)
    assert not any(word in shown for word in (WORDS, OTHER_WORDS, secret.hex()))


def test_key_files_that_are_none_and_questions_that_nobody_answers(desk, capsys):
    run("treering key create alice")
    os.mkfifo(desk / "pipe")
    assert run("treering key import pipe") == 2
    assert "pipe is a pipe" in told(capsys)
    os.mkfifo(desk / "pipe.safetensors")
    Image.new("RGB", (128, 128)).save(desk / "x.png")
    for command in (
        "verify x.png --foreign-key pipe.safetensors",
        "verify x.png --key alice --calibration pipe",
        "key foreign array pipe pipe -o new.safetensors",
        "key foreign array pipe.safetensors -o new.safetensors",
    ):
        assert run(f"treering {command}") == 2
        assert "is a pipe" in told(capsys), command
    assert run("treering key delete alice") == 2
    assert "give --yes" in told(capsys)
    assert KeyStore(desk / "keys.db").get("alice")


def test_protected_key_files_from_the_command_line(desk, capsys, monkeypatch):
    run("treering key create alice")
    secret = KeyStore(desk / "keys.db").get("alice").secret
    assert run("treering key export alice -o a.key --protect") == 2
    assert "no passphrase for a.key: set TREERING_FILE_PASSPHRASE" in told(capsys)
    monkeypatch.setenv("TREERING_FILE_PASSPHRASE", OTHER_WORDS)
    assert run("treering key export alice -o a.key --protect") == 0
    assert run("treering key export alice -o plain.key") == 0
    assert secret.hex() in (desk / "plain.key").read_text()
    assert secret.hex() not in (desk / "a.key").read_text()
    assert run("treering key import a.key --store two.db") == 0
    assert run("treering key import plain.key --store three.db") == 0
    for store in ("two.db", "three.db"):
        assert KeyStore(desk / store).get("alice").secret == secret
    monkeypatch.setenv("TREERING_PASSPHRASE", WORDS)
    run("treering key encrypt")
    assert run("treering key export alice -o b.key") == 0  # as the store is, so is the file
    assert run("treering key export alice -o c.key --no-protect") == 0
    assert secret.hex() not in (desk / "b.key").read_text()
    assert secret.hex() in (desk / "c.key").read_text()
    shown = told(capsys)
    monkeypatch.delenv("TREERING_PASSPHRASE")
    monkeypatch.setenv("TREERING_FILE_PASSPHRASE", WORDS)
    assert run("treering key import b.key --store four.db") == 2
    assert "wrong passphrase for b.key" in told(capsys)
    monkeypatch.delenv("TREERING_FILE_PASSPHRASE")
    assert run("treering key import b.key --store four.db") == 2
    shown += told(capsys)
    assert "b.key is protected by a passphrase, and none was given" in shown
    assert not (desk / "four.db").exists()
    assert not any(word in shown for word in (WORDS, OTHER_WORDS, secret.hex()))


def at_terminal(line, *answers):
    """Run a command at a terminal of its own, where someone types answers; returns exit code and what was shown."""
    ours, theirs = os.openpty()
    code = "import sys; from watermark.cli import main; sys.exit(main())"
    process = subprocess.Popen(
        [sys.executable, "-c", code, *shlex.split(line)[1:]],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    shown, left = b"", list(answers)
    with contextlib.suppress(OSError):  # which Linux raises at the end
        while some := os.read(ours, 1000):
            shown += some
            if left and shown.endswith(b": "):
                time.sleep(0.2)  # until it listens without echo
                os.write(ours, left.pop(0).encode() + b"\n")
                shown += b"\n"
    os.close(ours)
    assert left == []
    return process.wait(timeout=60), shown.decode()


def test_a_passphrase_file_means_the_same_under_every_locale(desk, monkeypatch):
    monkeypatch.setenv("TREERING_PASSPHRASE", "Schlüssel")
    assert run("treering key create alice") == 0
    monkeypatch.delenv("TREERING_PASSPHRASE")
    (desk / "words").write_text("Schlüssel\n", "utf-8")
    ascii_only = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    code = "import sys; from watermark.cli import main; sys.exit(main())"
    line = [sys.executable, "-c", code, "key", "create", "bob", "--passphrase-file", "words"]
    subprocess.run(line, env=os.environ | ascii_only, check=True)
    assert [entry.name for entry in KeyStore(desk / "keys.db").list()] == ["alice", "bob"]


def test_passphrases_are_asked_for_at_a_terminal(desk):
    code, shown = at_terminal("treering key encrypt", WORDS, OTHER_WORDS, WORDS, WORDS)
    assert code == 0, shown
    assert "Repeat for confirmation" in shown
    told = shown
    code, shown = at_terminal("treering key create alice", WORDS)
    assert code == 0, shown
    told += shown
    assert at_terminal("treering key list")[0] == 0
    code, shown = at_terminal("treering key create bob", OTHER_WORDS)
    assert (code, "wrong passphrase" in shown) == (2, True)
    code, shown = at_terminal("treering key export alice", WORDS, OTHER_WORDS, OTHER_WORDS)
    assert code == 0, shown
    told += shown
    code, shown = at_terminal("treering key import alice.key --store two.db", OTHER_WORDS)
    assert code == 0, shown
    told += shown
    assert WORDS not in told
    assert OTHER_WORDS not in told

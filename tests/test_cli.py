import contextlib
import csv
import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import click
import numpy as np
import pytest

from watermark import KeyStore, Pattern, cli_keys, cli_options, encryption, keys
from watermark.calibration import Calibration
from watermark.cli import cli, main

WORDS, OTHER_WORDS = "correct horse", "battery staple"


def commands(group=cli, path=()):
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


def examples(command):
    return re.findall(r"^ *(treering .*)$", command.help, flags=re.MULTILINE)


@pytest.fixture
def workplace(tmp_path, monkeypatch, folder, alice):
    """A directory with marked pictures in out/ and the key alice in the store."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TREERING_STORE", str(tmp_path / "keys.db"))
    monkeypatch.setattr(encryption, "COST", 2)
    KeyStore(tmp_path / "keys.db").add("alice", alice)
    (tmp_path / "out").mkdir()
    for i in range(2):
        (tmp_path / "out" / f"marked-{i}.png").write_bytes((folder / f"marked-{i}.png").read_bytes())
    return tmp_path


def run(line):
    words = shlex.split(line)
    assert words[0] == "treering"
    return main([w for word in words[1:] for w in (sorted(map(str, Path().glob(word))) if "*" in word else [word])])


@pytest.mark.parametrize(("path", "command"), [pytest.param(p, c, id=" ".join(p)) for p, c in commands()])
def test_every_command_has_help_with_an_example_that_runs(path, command, workplace, capsys, monkeypatch):
    assert main([*path, "--help"]) == 0
    shown = capsys.readouterr().out
    assert examples(command)
    for example in examples(command):
        assert example in shown  # click did not fold it
    line = examples(command)[0]
    assert line.startswith("treering " + " ".join(path))
    if path == ("demo",):
        return  # test_demo runs it
    if path == ("key", "create"):
        main(["key", "delete", "alice", "--yes"])
    if path == ("key", "import"):
        main(["key", "export", "alice", "-o", "alice.key"])
        main(["key", "delete", "alice", "--yes"])
    if path == ("key", "delete"):
        line += " --yes"
    if path == ("key", "foreign", "array"):
        np.save("values.npy", np.ones((4, 32, 32), dtype=complex))
        np.save("mask.npy", np.ones((4, 32, 32), dtype=bool))
    if path == ("key", "encrypt"):
        monkeypatch.setenv("TREERING_PASSPHRASE", WORDS)
    if path == ("calibrate",):
        (workplace / "out").rename(workplace / "photographs")
        assert run(line) == 0, capsys.readouterr()
        assert Calibration.load(workplace / "sapling.safetensors").counts == {"given": 2}
        return
    (workplace / "suspect.png").write_bytes((workplace / "out" / "marked-0.png").read_bytes())
    assert run(line) == 0, capsys.readouterr()


def test_keys_from_the_command_line(workplace, capsys):
    secret = KeyStore(workplace / "keys.db").get("alice").secret.hex()
    assert run("treering key create bob --label 'team B'") == 0
    assert run("treering key create bob") == 2
    assert run("treering key show bob") == 0
    assert run("treering key export alice -o a.key") == 0
    assert run("treering key export alice -o a.key") == 2
    assert run("treering key delete bob --yes") == 0
    assert run("treering key delete bob --yes") == 2
    assert run("treering key show nobody") == 2
    assert run("treering key list") == 0
    everything = "".join(capsys.readouterr())
    assert "team B" in everything
    assert "a key named 'bob' exists already" in everything
    assert secret not in everything
    assert run("treering key list --json") == 0
    assert [json.loads(line)["name"] for line in capsys.readouterr().out.splitlines()] == ["alice"]
    assert run("treering key list --csv") == 0
    assert next(csv.DictReader(io.StringIO(capsys.readouterr().out)))["name"] == "alice"


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
    assert cli_keys.KINDS == keys.KINDS
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
    from watermark.foreign import constant_ring_key, read_array_key, tree_ring_key

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
    with pytest.raises(cli_options.Trouble, match="'alice' is revoked since"):
        cli_options.marking_key(store, "alice", "sapling")
    assert cli_options.marking_key(store, "bob", "sapling") == store.get("bob")
    with pytest.raises(cli_options.Trouble, match="'bob' is meant for the model 'sapling', not 'other'"):
        cli_options.marking_key(store, "bob", "other")
    told(capsys)
    cli_options.warn_of_revoked(store, ["alice", "bob"])
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


def test_embed_then_verify(workplace, capsys):
    assert run("treering embed 'a strawberry' 'a rose' -n 2 --key alice --seed 5 --steps 25 -o new --json") == 0
    made = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [m["seed"] for m in made] == [5, 6, 7, 8]
    assert run("treering verify new/*.png --key alice --json --fpr 1e-4") == 0
    verdicts = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [v["name"] for v in verdicts] == sorted(m["path"] for m in made)
    assert all(v["status"] == "watermarked" for v in verdicts)
    assert run("treering embed 'a strawberry' --key alice --seed 5") == 0
    assert run("treering embed 'a strawberry' --key alice --seed 5") == 2
    assert "exists; choose another --seed" in capsys.readouterr().err


def test_exit_codes_and_outputs_of_verify(workplace, folder, capsys):
    unmarked = folder / "unmarked-0.png"
    assert run("treering verify out/*.png --key alice") == 0
    table = capsys.readouterr().out
    assert "out/marked-0.png" in table
    assert "watermarked" in table
    assert run(f"treering verify out/marked-0.png {unmarked} --key alice") == 1
    assert run(f"treering verify out/marked-0.png missing.png {unmarked} --key alice") == 2
    assert run("treering verify out/marked-0.png --key nobody") == 2
    assert "no key named 'nobody'" in capsys.readouterr().err
    assert run("treering verify out/marked-0.png") == 2
    assert run("treering verify out/marked-0.png --key alice --model ./nowhere") == 2
    assert "no model './nowhere'" in capsys.readouterr().err
    run("treering key create bob")
    capsys.readouterr()
    assert run("treering verify out/marked-0.png --all-keys --csv") == 0
    (row,) = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert (row["key"], row["keys_tried"], row["status"]) == ("alice", "2", "watermarked")


def test_what_is_looked_at_has_limits_and_a_syntax(workplace, capsys):
    verify = "treering verify out/marked-0.png --key alice"
    for wrong, message in (
        ("--crop 0.01", "share from 0.1 to 1"),
        ("--crop 1x2", "share from 0.1 to 1"),
        ("--crop axb", "share from 0.1 to 1"),
        ("--numbers 5-", "17 or 0-999"),
        ("--numbers 9-3", "17 or 0-999"),
        ("--numbers 0-99999999", "at most 1,000,000 of them"),
        ("--rotations 90000", "more than 100,000"),
        ("--steps 0", "steps"),
    ):
        assert run(f"{verify} {wrong}") == 2
        assert message in capsys.readouterr().err
    assert run("treering calibrate --generate 2 -o missing/nulls.safetensors") == 2
    assert "there is no folder" in capsys.readouterr().err


def test_a_key_that_does_not_fit_the_model_is_left_out_of_all_and_refused_by_name(workplace, capsys):
    run("treering key create odd --channels 0,7")
    assert run("treering verify out/marked-0.png --all-keys --json") == 0
    shown = capsys.readouterr()
    assert "'odd' is left out, it does not fit the model: channels (0, 7)" in shown.err
    (verdict,) = map(json.loads, [line for line in shown.out.splitlines() if line.startswith("{")])
    assert (verdict["key"], verdict["keys_tried"], verdict["fpr"]) == ("alice", 1, 1e-6)
    assert run("treering verify out/marked-0.png --key odd") == 2
    assert "the key 'odd' does not fit the model" in capsys.readouterr().err


def test_odd_file_names(workplace, capsys):
    for name in ("-dash.png", "new\nline.png", os.fsdecode(b"\xff\xfe.png"), "[red]x.png"):
        (workplace / name).write_bytes(b"nonsense")
        for form in ([], ["--json"], ["--csv"]):
            assert main(["verify", "--key", "alice", *form, "--", name]) == 2
            out = capsys.readouterr().out
            if form == ["--json"]:
                assert json.loads(out)["name"] == name
            assert "nonsense" not in out
            assert out.isprintable() or "\n" in out
            if name.startswith("[red]"):
                assert name in out


def test_inspect_draws_a_figure(workplace, folder, capsys):
    assert run("treering inspect out/marked-0.png --key alice") == 0
    assert (workplace / "out" / "marked-0-rings.png").stat().st_size > 10_000
    assert run(f"treering inspect {folder / 'unmarked-0.png'} --key alice -o u.png") == 1
    (workplace / "bad.png").write_bytes(b"nonsense")
    assert run("treering inspect bad.png --key alice") == 2


def test_usage_errors_exit_with_2(capsys):
    for line in ("treering", "treering nonsense", "treering verify", "treering verify x --fpr 2 --key a"):
        assert run(line) == 2
    assert run("treering --version") == 0
    assert run("treering --help") == 0


def test_a_bug_is_trouble_and_not_a_verdict(monkeypatch, capsys):
    monkeypatch.setattr("watermark.keystore.KeyStore.list", lambda self: 1 / 0)
    assert main(["key", "list"]) == 2
    assert "this is a bug" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["watermark", "inversion"])
def test_name_clash_is_detected(name, tmp_path, monkeypatch, capsys):
    info = tmp_path / f"{name}-2.6.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 2.6.0\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert main(["key", "list"]) == 2
    assert f"pip uninstall {name}" in capsys.readouterr().err


def test_help_starts_without_torch():
    code = "import sys; from watermark.cli import main; main(['--help']); print('torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.splitlines()[-1] == "False"


def test_interrupt_exits_with_130(workplace):
    command = [sys.executable, "-c", "import sys; from watermark.cli import main; sys.exit(main())"]
    arguments = ["embed", "a tiger", "-n", "64", "--key", "alice", "-o", "many"]
    process = subprocess.Popen([*command, *arguments], stderr=subprocess.PIPE, text=True)
    deadline = time.time() + 60
    while not (workplace / "many").exists() and time.time() < deadline:
        time.sleep(0.1)
    time.sleep(3)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted" in err
    assert "Traceback" not in err


def test_closed_pipe_is_not_a_verdict(workplace):
    command = f"{sys.executable} -c 'import sys; from watermark.cli import main; sys.exit(main())'"
    script = f"set -o pipefail; {command} key list --json | (exec 0<&-; sleep 1)"
    result = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
    assert result.returncode not in {0, 1} or result.stderr == ""

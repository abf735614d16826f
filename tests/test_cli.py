import base64
import csv
import errno
import io
import json
import os
import re
import resource
import shlex
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from itertools import islice
from pathlib import Path

import click
import numpy as np
import pytest
import torch
from PIL import Image

from watermark import KeyStore
from watermark.calibration import Calibration
from watermark.cli import cli, main
from watermark.commands.errors import understood
from watermark.keystore import encryption
from watermark.reports import tables
from watermark.transforms import wide_transforms

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
def test_every_command_has_help_with_an_example_that_runs(path, command, workplace, folder, capsys, monkeypatch):
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
        assert run(line) == 2
        assert "give --resume to add to it" in capsys.readouterr().err
        assert run(f"{line} --resume") == 0
        assert "2 given; supports" in capsys.readouterr().out
        return
    (workplace / "suspect.png").write_bytes((workplace / "out" / "marked-0.png").read_bytes())
    (workplace / "photo.png").write_bytes((folder / "unmarked-0.png").read_bytes())
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


def test_embed_then_verify(workplace, capsys):
    assert run("treering embed 'a strawberry' 'a rose' -n 2 --key alice --seed 5 --steps 25 -o new --json") == 0
    made = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [m["seed"] for m in made] == [5, 6, 7, 8]
    assert run("treering verify new/*.png --key alice --json --fpr 1e-4") == 0
    verdicts = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [v["name"] for v in verdicts] == sorted(m["path"] for m in made)
    assert all(v["status"] == "watermarked" for v in verdicts)
    assert run("treering embed 'a strawberry' --key alice --seed 5 --steps 1") == 0
    assert run("treering embed 'a strawberry' --key alice --seed 5 --steps 1") == 2
    assert "exists; choose another --seed" in capsys.readouterr().err
    assert run("treering embed 'a rose' -n 2 --key alice --seed 4294967295 --steps 1") == 2
    assert "seeds of all pictures" in capsys.readouterr().err


def test_pictures_of_a_run_that_ended_early_are_reported(workplace, monkeypatch, capsys):
    from watermark import generate as module

    honest = module.generate

    def stopped(*arguments, **settings):
        yield from islice(honest(*arguments, **settings), 2)
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "generate", stopped)
    assert run("treering embed 'a rose' -n 4 --key alice --steps 1 -o new --json") == 130
    made = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [Path(m["path"]) for m in made] == sorted(Path("new").iterdir())
    assert len(made) == 2


def test_devices_that_are_not_here_are_named(workplace, capsys):
    for device in ("bogus", "cuda:99"):
        assert run(f"treering embed 'a rose' --key alice --device {device}") == 2
        shown = capsys.readouterr().err
        assert f"the device '{device}' cannot be used here" in shown
        assert "this is a bug" not in shown


def test_names_in_messages_do_not_reach_the_terminal_as_they_are(workplace, capsys):
    odd = "a\x1b]0;b\x07.png"
    Path(odd).touch()
    assert run(f"treering inspect out/marked-0.png --key alice -o '{odd}'") == 2
    shown = capsys.readouterr().err
    assert "a\\x1b]0;b\\x07.png exists" in shown
    assert "\x1b" not in shown


def test_long_paths_are_shown_whole(workplace, capsys):
    folder = "d" * 150
    assert run(f"treering embed 'a rose' --key alice --steps 1 -o {folder}") == 0
    assert f"{folder}/a-rose-1.png" in capsys.readouterr().out.replace("\n", "").replace(" ", "")


def test_pictures_without_a_seed_are_counted_and_overwrite_nothing(workplace, capsys):
    for expected in (["a-rose-1.png", "a-rose-2.png"], ["a-rose-3.png", "a-rose-4.png"]):
        assert run("treering embed 'a rose' -n 2 --key alice --steps 1 -o new --json") == 0
        made = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert [Path(m["path"]).name for m in made] == expected
        assert [m["seed"] for m in made] == [None, None]
    assert len({file.read_bytes() for file in Path("new").iterdir()}) == 4


def test_a_picture_that_cannot_be_made_again_is_not_lost_to_another_of_its_name(workplace, monkeypatch, capsys):
    from watermark import generate as module

    honest, other = module.generate, b"another run was faster"

    def slow(*arguments, **settings):
        made = list(honest(*arguments, **settings))
        Path("new/a-rose-1.png").write_bytes(other)
        return iter(made)

    monkeypatch.setattr(module, "generate", slow)
    assert run("treering embed 'a rose' --key alice --steps 1 -o new --json") == 0
    assert Path(json.loads(capsys.readouterr().out)["path"]) == Path("new/a-rose-2.png")
    assert Path("new/a-rose-1.png").read_bytes() == other


def test_exit_codes_and_outputs_of_verify(workplace, folder, capsys):
    unmarked = folder / "unmarked-0.png"
    assert run("treering verify out/*.png --key alice") == 0
    table = capsys.readouterr().out
    assert "out/marked-0.png" in table
    assert "watermarked" in table
    assert "--wide" not in table
    assert run(f"treering verify out/marked-0.png {unmarked} --key alice") == 1
    assert "needs --wide" in capsys.readouterr().out
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
    assert run(f"treering verify out/marked-0.png {unmarked} missing.png --all-keys --coarse --json") == 2
    found, other, missing = map(json.loads, capsys.readouterr().out.splitlines())
    assert (found["key"], found["status"], found["p_value"], found["rho"]) == ("alice", "watermarked", 1e-6, None)
    assert (other["key"], other["status"], other["rho"], other["p_value"]) == (None, "not_detected", None, 1.0)
    assert missing["reason"] == "not_found: no such file"


QUICK = "--decoder encoder --steps 2 --workers 0"


def rows(file):
    return [json.loads(line) for line in Path(file).read_text("ascii").splitlines()]


def test_a_report_of_folders_lists_and_patterns(workplace, folder, capsys, monkeypatch):
    (workplace / "more").mkdir()
    for name in ("unmarked-0.png", "marked-0.png"):
        (workplace / "more" / name).write_bytes((folder / name).read_bytes())
    verify = f"treering verify --key alice {QUICK}"
    assert run(f"{verify} out more --recursive -o report.jsonl --fpr 1e-3") == 1
    shown = capsys.readouterr()
    names = ["out/marked-0.png", "out/marked-1.png", "more/marked-0.png", "more/unmarked-0.png"]
    assert [row["name"] for row in rows("report.jsonl")] == names
    assert rows("report.jsonl")[2] == rows("report.jsonl")[0] | {"name": names[2]}
    assert re.search(r"watermarked +3\n +alice +3\nnot_detected +1\n", shown.out)
    assert re.search(r"images +4\ntime .* images a second\nlevel 0.001, ", shown.out)
    assert "report: report.jsonl" in shown.out
    assert "needs --wide" in shown.out
    assert run(f"{verify} more --recursive -o turned.jsonl --fpr 1e-3 --rotations 8") == 1
    assert "--wide" not in capsys.readouterr().out
    before = Path("report.jsonl").read_bytes()
    assert run(f"{verify} out more --recursive -o report.jsonl --fpr 1e-3") == 2
    assert "report.jsonl exists; choose another name, or go on with it: --resume" in capsys.readouterr().err
    assert run(f"{verify} out more --recursive -o report.jsonl --resume") == 2
    assert "was made with other keys, settings, calibration or model" in capsys.readouterr().err
    assert run(f"{verify} out more --recursive -o report.jsonl --fpr 1e-3 --resume") == 1
    assert Path("report.jsonl").read_bytes() == before
    Path("list").write_bytes(b"more/marked-0.png\0out\0missing\nfile\0")
    assert run(f"{verify} --from-file list --recursive -o listed.jsonl --fpr 1e-3") == 2
    assert [row["name"] for row in rows("listed.jsonl")] == [names[2], *names[:2], "missing\nfile"]
    assert re.search(r"unreadable +1\nimages +4\nnot tested +1\n +not_found +1\n", capsys.readouterr().out)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"out/marked-0.png\n")))
    assert main([*verify.split()[1:], "more/un*.png", "--from-file", "-", "--json", "--fpr", "1e-3"]) == 1
    named = [json.loads(line)["name"] for line in capsys.readouterr().out.splitlines()]
    assert named == ["more/unmarked-0.png", "out/marked-0.png"]


def test_what_does_not_go_together_is_refused_before_anything_is_loaded(workplace, capsys, monkeypatch):
    monkeypatch.setattr("watermark.commands.verify.load_model", lambda **_: 1 / 0)
    (workplace / "empty").mkdir()
    for words, message in (
        ("", "give images, folders with --recursive, or --from-file LIST"),
        ("x --resume", "--resume goes on with the file of --output"),
        ("x -o r.jsonl --json", "--json is for standard output"),
        ("x -o r.csv", "must be called something.jsonl or something.parquet"),
        ("x --from-file nowhere", "does not exist"),
        ("x -o r.jsonl --coarse", "--coarse is for what is shown"),
    ):
        assert run(f"treering verify --key alice {words}") == 2
        assert message in capsys.readouterr().err


def test_no_images_are_no_verdict(workplace, capsys):
    (workplace / "empty").mkdir()
    for output in ("", "-o r.jsonl"):
        assert run(f"treering verify empty --recursive --key alice {QUICK} {output}") == 2
        assert "there are no images" in capsys.readouterr().err
    assert not (workplace / "r.jsonl").exists()
    assert run(f"treering verify out/*.png --key alice {QUICK} -o r.jsonl") == 0
    before = (workplace / "r.jsonl").read_bytes()
    assert run(f"treering verify empty --recursive --key alice {QUICK} -o r.jsonl --resume") == 2
    assert (workplace / "r.jsonl").read_bytes() == before


def test_a_list_that_can_be_read_but_once(workplace, capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    os.mkfifo("list")
    thread = threading.Thread(target=Path("list").write_text, args=("out/marked-0.png\n",))
    thread.start()
    assert run(f"treering verify --from-file list --key alice {QUICK} --json") == 0
    thread.join()
    assert len(capsys.readouterr().out.splitlines()) == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_streams_that_are_full_closed_or_of_few_characters(workplace):
    command = f"{sys.executable} -c 'import sys; from watermark.cli import main; sys.exit(main())'"

    def code(line):
        return subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)

    assert code(f"{command} verify x.png --key nobody 2>/dev/full").returncode == 2
    assert code(f"{command} verify x.png --key nobody 2>&-").returncode == 2
    for end in (" >/dev/full", " --csv >/dev/full", " --json | true; exit ${PIPESTATUS[0]}"):
        for unbuffered in ("", "1"):
            full = code(f"PYTHONUNBUFFERED={unbuffered} {command} key list{end}")
            assert full.returncode in ((0, 2) if "true" in end else (2,))  # a pipe may close too late to be noticed
            assert "this is a bug" not in full.stderr
            assert "ignored" not in full.stderr
    assert code(f"{command} key list >&- <&-").returncode == 0
    few = code(f"PYTHONIOENCODING=ascii {command} verify out/marked-0.png --key alice {QUICK}")
    assert few.returncode == 0, few.stderr
    assert "\\u03c1" in few.stdout


def test_a_report_that_cannot_be_written_is_trouble(workplace, capsys):
    verify = f"treering verify out/*.png --key alice {QUICK}"
    assert run(f"{verify} -o nowhere/r.jsonl") == 2
    assert f"there is no folder {workplace / 'nowhere'}" in capsys.readouterr().err
    most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (800, most[1]))
    try:
        assert run(f"{verify} -o r.jsonl") == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, most)
    shown = capsys.readouterr().err
    assert "1 verdicts are in r.jsonl; go on with --resume" in shown
    assert "File too large: 'r.jsonl'" in shown
    assert [row["name"] for row in rows("r.jsonl")] == ["out/marked-0.png"]
    assert run(f"{verify} -o r.jsonl --resume") == run(f"{verify} -o whole.jsonl")
    assert Path("r.jsonl").read_bytes() == Path("whole.jsonl").read_bytes()


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is closed to root")
def test_a_report_in_a_closed_folder_is_trouble(workplace, capsys):
    (workplace / "closed").mkdir(mode=0o500)
    assert run(f"treering verify out/*.png --key alice {QUICK} -o closed/r.jsonl") == 2
    assert "Permission denied: 'closed/r.jsonl'" in capsys.readouterr().err


def test_a_locked_key_store_is_trouble_and_leaves_the_report_alone(workplace, capsys, monkeypatch):
    monkeypatch.setattr("watermark.keystore.database.PATIENCE", 0.1)
    (workplace / "r.jsonl").write_bytes(b"")
    with closing(sqlite3.connect(workplace / "keys.db")) as db:
        db.execute("BEGIN EXCLUSIVE")
        assert run(f"treering verify out/*.png --key alice {QUICK} -o r.jsonl --resume") == 2
    assert "keys.db" in capsys.readouterr().err
    assert (workplace / "r.jsonl").read_bytes() == b""


def test_no_secret_is_in_anything_that_verify_writes(workplace, alice, capfdbinary, monkeypatch):
    for arguments in (
        f"out/marked-0.png {QUICK} -o r.jsonl",
        f"out/marked-0.png missing {QUICK} --json",
        f"out/marked-0.png {QUICK}",
        f"out/marked-0.png {QUICK} -o r.jsonl --fpr 1e-3 --resume",
    ):
        run(f"treering verify --key alice {arguments}")
    monkeypatch.setattr("watermark.verify.Verifier.recover_noise", lambda self, x: 1 / 0)
    assert run(f"treering verify --key alice out/marked-1.png {QUICK} -o broken.jsonl") == 2
    shown = capfdbinary.readouterr()
    assert b"this is a bug" in shown.err
    written = [file.read_bytes() for file in workplace.rglob("*") if file.is_file() and file.suffix != ".db"]
    assert len(written) == 3
    everything = b"".join((shown.out, shown.err, *written))
    assert b"watermarked" in everything
    raw = alice.secret
    for form in (raw, raw.hex().encode(), base64.b64encode(raw), base64.urlsafe_b64encode(raw), repr(raw).encode()):
        assert form not in everything
        assert form[4:20] not in everything
        assert form.upper() not in everything.upper() or form == raw


def test_what_is_looked_at_has_limits_and_a_syntax(workplace, capsys):
    verify = "treering verify out/marked-0.png --key alice"
    for wrong, message in (
        ("--crop 0.01", "share from 0.1 to 1"),
        ("--crop 1x2", "share from 0.1 to 1"),
        ("--crop axb", "share from 0.1 to 1"),
        ("--numbers 5-", "17 or 0-999"),
        ("--numbers 9-3", "17 or 0-999"),
        ("--numbers 0-99999999", "at most 1,000,000 of them"),
        (f"--numbers 0-{'9' * 5000}", "17 or 0-999"),
        ("--numbers 0-99999999999999999999", "17 or 0-999"),
        ("--rotations 90000", "more than 100,000"),
        ("--shifts 1000000000", "more than 100,000"),
        ("--steps 0", "steps"),
        ("--wide --shifts 1", "give no --rotations"),
        ("--wide --no-mirrored", "give no --rotations"),
    ):
        assert run(f"{verify} {wrong}") == 2
        assert message in capsys.readouterr().err
    assert run("treering calibrate --generate 2 -o missing/nulls.safetensors") == 2
    assert "there is no folder" in capsys.readouterr().err


def test_a_wide_search_finds_what_was_cropped_anywhere_or_turned(workplace, capsys):
    run("treering key create carol")
    run("treering embed strawberry --key carol --seed 3 --steps 10 -o made")
    (name,) = Path("made").iterdir()
    image = Image.open(name)
    image.crop((20, 2, 122, 104)).resize(image.size, Image.Resampling.BICUBIC).save("cropped.png")
    image.rotate(36, Image.Resampling.BICUBIC).save("turned.png")
    verify = f"treering verify cropped.png turned.png --key carol --json {QUICK}"
    assert run(verify) == 1
    capsys.readouterr()
    assert run(f"{verify} --wide") == 0
    cropped, turned = map(json.loads, capsys.readouterr().out.splitlines())
    assert "cropped to 0.8" in cropped["transform"]
    assert cropped["transforms_tried"] == turned["transforms_tried"] == len(wide_transforms((4, 32, 32)))
    assert turned["transform"] == "turned by 35°"
    inspect = "treering inspect cropped.png --key carol --decoder encoder --steps 2"
    assert run(f"{inspect} --wide --shifts 1") == 2
    assert run(inspect) == 1
    assert run(f"{inspect} --wide -o wide.png") == 0
    assert tables.p_text(cropped["p_value"]) in capsys.readouterr().out
    assert Path("wide.png").read_bytes() != Path("cropped-rings.png").read_bytes()


def test_a_key_that_does_not_fit_the_model_is_left_out_of_all_and_refused_by_name(workplace, capsys):
    run("treering key create odd --channels 0,7")
    assert run("treering verify out/marked-0.png --all-keys --json") == 0
    shown = capsys.readouterr()
    assert "'odd' is left out, it does not fit the model: channels (0, 7)" in shown.err
    (verdict,) = map(json.loads, [line for line in shown.out.splitlines() if line.startswith("{")])
    assert (verdict["key"], verdict["keys_tried"], verdict["fpr"]) == ("alice", 1, 1e-6)
    assert run("treering verify out/marked-0.png --key odd") == 2
    assert "the key 'odd' does not fit the model" in capsys.readouterr().err


def test_a_key_for_another_model_is_refused_by_name_and_left_out_of_all(workplace, capsys):
    run("treering key create theirs --model stabilityai/sd-turbo")
    for command in ("verify", "inspect"):
        assert run(f"treering {command} out/marked-0.png --key theirs {QUICK if command == 'verify' else ''}") == 2
        assert "meant for the model 'stabilityai/sd-turbo', not 'sapling': give that" in capsys.readouterr().err
    assert run(f"treering verify out/marked-0.png --key theirs --any-model {QUICK}") == 1
    capsys.readouterr()
    assert run(f"treering verify out/marked-0.png --all-keys --json {QUICK}") == 0
    shown = capsys.readouterr()
    assert "'theirs' is meant for the model 'stabilityai/sd-turbo', not 'sapling', and left out" in shown.err
    (verdict,) = map(json.loads, [line for line in shown.out.splitlines() if line.startswith("{")])
    assert (verdict["key"], verdict["keys_tried"]) == ("alice", 1)
    run("treering key delete alice --yes")
    assert run(f"treering verify out/marked-0.png --all-keys {QUICK}") == 2
    assert "at least one key that fits the model" in capsys.readouterr().err


def test_a_foreign_key_has_a_name_of_its_own_and_is_written_once(workplace, capsys):
    make = "treering key foreign constant-rings --shape 4,32,32 -o alice.safetensors"
    assert [run(make), run(make)] == [0, 2]
    assert "exists by now" in capsys.readouterr().err
    assert run("treering verify out/marked-0.png --key alice --foreign-key alice.safetensors") == 2
    assert "two keys are called 'alice'; rename alice.safetensors" in capsys.readouterr().err


def test_memory_that_runs_out_is_no_bug(workplace, monkeypatch, capsys):
    def greedy(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("watermark.verify.invert_decoder", greedy)
    assert run(f"treering verify out/marked-0.png --key alice {QUICK}") == 2
    shown = capsys.readouterr().err
    assert "memory ran out" in shown
    assert "bug" not in shown


def test_odd_file_names(workplace, capsys):
    names = ["-dash.png", "new\nline.png", os.fsdecode(b"\xff\xfe.png"), "[red]x.png", "a\x1b]0;b\x07.png"]
    for name in names:
        (workplace / name).write_bytes(b"nonsense")
    for form in ([], ["--json"], ["--csv"]):
        assert main(["verify", "--key", "alice", *form, "--", *names]) == 2
        out = capsys.readouterr().out
        if form == ["--json"]:
            assert [json.loads(line)["name"] for line in out.splitlines()] == names
        assert "nonsense" not in out
        assert all(line.isprintable() for line in out.replace("\r\n", "\n").split("\n"))
        assert "new\nline" not in out
        assert "-dash.png" in out
        assert "[red]x.png" in out


def test_inspect_draws_a_figure(workplace, folder, capsys):
    assert run("treering inspect out/marked-0.png --key alice") == 0
    assert (workplace / "out" / "marked-0-rings.png").stat().st_size > 10_000
    assert run(f"treering inspect {folder / 'unmarked-0.png'} --key alice -o u.png") == 1
    (workplace / "bad.png").write_bytes(b"nonsense")
    assert run("treering inspect bad.png --key alice") == 2
    capsys.readouterr()
    before = (workplace / "out" / "marked-0.png").read_bytes()
    assert run("treering inspect out/marked-0.png --key alice -o out/marked-0.png") == 2
    assert "exists; choose another --output" in capsys.readouterr().err
    assert (workplace / "out" / "marked-0.png").read_bytes() == before


def test_a_picture_that_changes_while_it_is_inspected_is_not_drawn(workplace, monkeypatch, capsys):
    from watermark.verify import Verifier

    examine = Verifier.examine

    def slow(self, images):
        yield from examine(self, images)
        Image.new("RGB", (128, 128), "red").save("changing.png")

    Path("changing.png").write_bytes(Path("out/marked-0.png").read_bytes())
    monkeypatch.setattr(Verifier, "examine", slow)
    assert run("treering inspect changing.png --key alice --decoder encoder --steps 2") == 2
    assert "was changed while it was tested" in capsys.readouterr().err
    assert not Path("changing-rings.png").exists()


def test_usage_errors_exit_with_2(capsys):
    for line in ("treering", "treering nonsense", "treering verify", "treering verify x --fpr 2 --key a"):
        assert run(line) == 2
    assert "--fpr" in capsys.readouterr().err  # of the last line
    assert run("treering --version") == 0
    assert run("treering --help") == 0


def test_a_bug_is_trouble_and_not_a_verdict(monkeypatch, capsys):
    monkeypatch.setattr("watermark.keystore.store.KeyStore.list", lambda self: 1 / 0)
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


def test_a_pipe_that_is_closed_is_no_message():
    with pytest.raises(BrokenPipeError), understood():
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")


def test_interrupt_exits_with_130(workplace):
    command = [sys.executable, "-c", "import sys; from watermark.cli import main; sys.exit(main())"]
    arguments = ["embed", "a tiger", "-n", "64", "--key", "alice", "-o", "many"]
    process = subprocess.Popen([*command, *arguments], stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.time() + 60
        while not (workplace / "many").exists() and time.time() < deadline:
            time.sleep(0.1)
        time.sleep(3)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "interrupted" in err
    assert "Traceback" not in err


def test_closed_pipe_is_not_a_verdict(workplace):
    command = f"{sys.executable} -c 'import sys; from watermark.cli import main; sys.exit(main())'"
    script = f"set -o pipefail; {command} key list --json | (exec 0<&-; sleep 1)"
    result = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
    assert result.returncode not in {0, 1}

"""treering mark and treering edit."""

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from watermark import KeyStore
from watermark.cli import main

QUICK = "--decoder encoder --steps 2"


@pytest.fixture
def workplace(tmp_path, monkeypatch, folder, alice):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TREERING_STORE", str(tmp_path / "keys.db"))
    KeyStore(tmp_path / "keys.db").add("alice", alice)
    (tmp_path / "photo.png").write_bytes((folder / "unmarked-1.png").read_bytes())
    return tmp_path


def run(line):
    words = shlex.split(line)
    assert words[0] == "treering"
    return main(words[1:])


def lines(capsys):
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_marked_files_are_verified_written_and_reported(workplace, capsys):
    (workplace / "bad.png").write_bytes(b"nonsense")
    mark = f"treering mark photo.png --key alice {QUICK}"
    assert run(f"{mark} --json") == 0
    (row,) = lines(capsys)
    assert (row["path"], row["status"], row["reason"]) == ("marked/photo.png", "watermarked", "")
    assert row["psnr"] > 30
    assert 0.9 < row["ssim"] < 1
    assert run(f"treering verify marked/photo.png --key alice {QUICK} --workers 0 --json") == 0
    (verdict,) = lines(capsys)
    assert verdict["p_value"] == pytest.approx(row["p_value"], rel=1e-3)
    assert verdict["rho"] == pytest.approx(row["rho"], abs=1e-4)
    assert run(mark) == 2
    assert "marked/photo.png exists; choose another --output" in capsys.readouterr().err
    assert run(f"treering mark bad.png missing.png --key alice {QUICK} -o other --json") == 2
    assert [row["reason"].partition(":")[0] for row in lines(capsys)] == ["unreadable", "not_found"]
    assert run("treering mark photo.png ./photo.png x/photo.png --key alice -o third") == 2
    assert "two pictures would be written to third/photo.png" in capsys.readouterr().err


def test_a_mark_that_does_not_hold_is_not_written(workplace, capsys):
    refused = f"treering mark photo.png --key alice {QUICK} --min-psnr 60"
    assert run(f"{refused} --json") == 1
    (row,) = lines(capsys)
    assert row["path"] is None
    assert row["status"] == "not_detected"
    assert row["psnr"] >= 60
    assert row["reason"].startswith("refused: the mark does not hold")
    assert not list(Path("marked").iterdir())
    assert run(refused) == 1
    assert "refused" in capsys.readouterr().out


def test_keys_that_may_not_mark_are_refused(workplace, capsys):
    run("treering key create empty --kind zeros")
    assert run("treering mark photo.png --key empty") == 2
    assert "no values to write" in capsys.readouterr().err
    run("treering key revoke alice")
    assert run("treering mark photo.png --key alice") == 2
    assert "is revoked since" in capsys.readouterr().err


def test_an_edit_keeps_what_is_outside_the_mask(workplace, capsys):
    area = np.zeros((128, 128, 3), np.uint8)
    area[32:96, 32:96] = 255
    Image.fromarray(area).save("mask.png")
    edit = "treering edit photo.png --prompt 'a strawberry' --mask mask.png --decoder encoder --steps 3"
    assert run(f"{edit} --save-mask where.png --json") == 0
    (row,) = lines(capsys)
    assert row["path"] == "photo-edited.png"
    assert row["edited_share"] == pytest.approx(0.25)
    before, after, where = (np.asarray(Image.open(f)).astype(int) for f in ("photo.png", row["path"], "where.png"))
    assert (where[..., 0] == 0).any()
    far = np.ones((128, 128), bool)
    far[16:112, 16:112] = False
    assert np.abs(after - before)[far].max() <= 2
    assert np.abs(after - before)[48:80, 48:80].mean() > 5
    assert run(edit) == 2
    assert "photo-edited.png exists" in capsys.readouterr().err


def test_what_cannot_be_edited_is_said_before_anything_is_loaded(workplace, capsys, monkeypatch):
    monkeypatch.setattr("watermark.commands.edit.load_model", lambda **_: 1 / 0)
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save("small.png")
    for words, message in (
        ("missing.png --prompt x", "not_found: no such file"),
        ("photo.png --prompt x --mask small.png", "the mask is 16 × 16, the image 128 × 128 pixels"),
        ("photo.png --prompt x --mask nowhere.png", "does not exist"),
        ("photo.png", "--prompt"),
        ("photo.png --prompt x -o small.png", "small.png exists"),
    ):
        assert run(f"treering edit {words}") == 2
        assert message in capsys.readouterr().err

"""treering mark and treering edit."""

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from watermark import KeyStore
from watermark.cli import main
from watermark.reports import tables

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
    assert verdict["p_value"] == pytest.approx(row["p_value"], rel=1e-3, abs=0)
    assert verdict["rho"] == pytest.approx(row["rho"], abs=1e-4)
    assert run(mark) == 2
    assert "marked/photo.png exists; choose another --output" in capsys.readouterr().err
    assert run(f"treering mark bad.png missing.png --key alice {QUICK} -o other --json") == 2
    assert [row["reason"].partition(":")[0] for row in lines(capsys)] == ["unreadable", "not_found"]
    assert run("treering mark photo.png ./photo.png x/photo.png --key alice -o third") == 2
    assert "two pictures would be written to third/photo.png" in capsys.readouterr().err
    assert run("treering mark photo.png Photo.jpg --key alice -o third") == 2
    assert "two pictures would be written to third/Photo.png" in capsys.readouterr().err


def test_a_default_mark_is_found_as_it_was_reported(workplace, capsys):
    """By the model's calibration too, which is for the default settings."""
    assert run("treering mark photo.png --key alice --json") == 0
    (row,) = lines(capsys)
    assert run("treering verify marked/photo.png --key alice --workers 0 --json") == 0
    (verdict,) = lines(capsys)
    assert (verdict["status"], verdict["null_images"]) == ("watermarked", 1000)
    assert verdict["p_value"] == pytest.approx(row["p_value"], rel=1e-2, abs=0)


def test_marking_and_drawing_take_the_calibration_that_verifying_takes(workplace, capsys):
    assert run(f"treering calibrate --generate 3 -o nulls.safetensors {QUICK}") == 0
    nulls = f"--key alice {QUICK} --calibration nulls.safetensors"
    p = {}
    for options in (f"--key alice {QUICK} -o plain", nulls):
        capsys.readouterr()
        assert run(f"treering mark photo.png {options} --json") == 0
        (row,) = lines(capsys)
        p[row["path"]] = row["p_value"]
    assert run(f"treering verify marked/photo.png {nulls} --workers 0 --json") == 0
    (verdict,) = lines(capsys)
    assert verdict["null_images"] == 3
    assert verdict["p_value"] == pytest.approx(p["marked/photo.png"], rel=1e-3, abs=0)
    assert verdict["p_value"] != pytest.approx(p["plain/photo.png"], rel=1e-2, abs=0)
    assert run(f"treering inspect marked/photo.png {nulls} --fpr 0.9") == 0
    assert tables.p_text(verdict["p_value"]) in capsys.readouterr().out
    for command in ("mark", "inspect"):
        assert (
            run(f"treering {command} photo.png --key alice --calibration nulls.safetensors -o {command}.png") == 2
        )
        assert "the calibration was made with" in capsys.readouterr().err
    assert not Path("inspect.png").exists()


def test_what_was_not_plain_about_a_picture_is_said(workplace, capsys):
    photo = np.asarray(Image.open("photo.png"))
    clear = np.full((128, 128, 1), 255, np.uint8)
    clear[:4] = 0
    Image.fromarray(np.concatenate([photo, clear], -1)).save("clear.png")
    Image.fromarray(np.concatenate([photo, photo[:, ::-1]], 1)).save("wide.png")
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(photo).save("turned.jpg", quality=95, exif=exif)
    names = ("clear.png", "bad.png", "wide.png", "turned.jpg")
    assert run(f"treering mark {' '.join(names)} --key alice {QUICK} --json") == 2
    found = lines(capsys)
    assert [row["image"] for row in found] == list(names)
    clear, bad, wide, turned = found
    assert any("transparent" in note for note in clear["warnings"])
    assert bad["status"] == "unreadable"
    assert any("cropped around the centre" in note for note in wide["warnings"])
    assert Image.open(wide["path"]).size == (256, 128)
    written = Image.open(turned["path"])
    assert not written.getexif()
    upright = np.rot90(np.asarray(Image.open("turned.jpg")), -1).astype(int)
    assert np.abs(np.asarray(written) - upright).mean() < 8


def test_what_was_marked_before_an_early_end_is_reported_and_left_out_later(workplace, capsys, monkeypatch):
    from watermark.commands import mark as command

    for name in ("one.png", "two.png"):
        (workplace / name).write_bytes((workplace / "photo.png").read_bytes())
    honest = command.write_png

    def full(image, file):
        if file.name == "two.png":
            raise OSError(28, "No space left on device", str(file))
        honest(image, file)

    monkeypatch.setattr(command, "write_png", full)
    line = f"treering mark one.png two.png --key alice {QUICK} --json"
    assert run(line) == 2
    shown = capsys.readouterr()
    assert [json.loads(row)["path"] for row in shown.out.splitlines()] == ["marked/one.png"]
    assert "No space left" in shown.err
    monkeypatch.setattr(command, "write_png", honest)
    assert run(line) == 2
    assert "exists; choose another --output, or --resume" in capsys.readouterr().err
    assert run(f"{line} --resume") == 0
    assert [row["path"] for row in lines(capsys)] == ["marked/two.png"]
    assert sorted(file.name for file in Path("marked").iterdir()) == ["one.png", "two.png"]
    assert run(f"{line} --resume") == 0
    Path("marked/two.png").write_bytes(Path("photo.png").read_bytes())  # not ours
    capsys.readouterr()
    assert run(f"{line} --resume") == 1
    (row,) = lines(capsys)
    assert (row["image"], row["path"], row["status"]) == ("two.png", None, "not_detected")
    assert "marked/two.png is there already, and is not detected" in row["reason"]


def test_a_picture_that_could_not_be_verified_is_not_written(workplace, capsys, monkeypatch):
    Image.open("photo.png").save("small.jpg", quality=60)
    Image.open("photo.png").resize((32, 32)).resize((64, 64), Image.Resampling.BICUBIC).save("tiny.png")
    monkeypatch.setattr("watermark.reading.images.MAX_BYTES", 20_000)
    assert run(f"treering mark small.jpg tiny.png --key alice {QUICK} --batch-size 1 --json") == 1
    large, small = lines(capsys)
    assert (large["status"], large["path"]) == ("inconclusive", None)
    assert "could not be verified" in large["reason"]
    assert small["path"] == "marked/tiny.png"
    assert [file.name for file in Path("marked").iterdir()] == ["tiny.png"]


def test_two_spellings_of_a_name_are_one(tmp_path):
    from watermark.commands.errors import Trouble
    from watermark.commands.pictures import check_new

    (tmp_path / "sub").mkdir()
    with pytest.raises(Trouble, match="two pictures would be written"):
        check_new(tmp_path / "a.png", tmp_path / "sub" / ".." / "a.png")


def test_no_file_is_written_over_one_that_came_meanwhile(tmp_path, monkeypatch):
    from watermark.commands.pictures import write_png

    image = Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3))
    write_png(image, tmp_path / "one.png")
    with pytest.raises(FileExistsError, match="exists by now"):
        write_png(image, tmp_path / "one.png")
    monkeypatch.setattr("os.link", lambda *_: (_ for _ in ()).throw(OSError(95, "Operation not supported")))
    write_png(image, tmp_path / f"{'x' * 246}.png")
    assert len(list(tmp_path.iterdir())) == 2
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "one.png")), np.asarray(image))


def test_a_folder_that_cannot_be_written_to_is_noticed_at_once(workplace, capsys, monkeypatch):
    monkeypatch.setattr("watermark.commands.mark.load_model", lambda **_: 1 / 0)
    (workplace / "file").write_text("")
    assert run("treering mark photo.png --key alice -o file/below") == 2
    assert "file/below" in capsys.readouterr().err


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
    run("treering key create theirs --model stabilityai/sd-turbo")
    assert run("treering mark photo.png --key theirs") == 2
    assert "is meant for the model 'stabilityai/sd-turbo', not 'sapling'" in capsys.readouterr().err
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
    assert np.abs(after - before)[far].max() == 0
    assert np.abs(after - before)[48:80, 48:80].mean() > 5
    assert run(edit) == 2
    assert "photo-edited.png exists" in capsys.readouterr().err


def test_what_cannot_be_edited_is_said_before_anything_is_loaded(workplace, capsys, monkeypatch):
    monkeypatch.setattr("watermark.commands.edit.load_model", lambda **_: 1 / 0)
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save("small.png")
    Image.fromarray(np.full((128, 128, 3), (255, 0, 0), np.uint8)).save("dark.png")
    Image.fromarray(np.full((128, 128, 4), (255, 255, 255, 0), np.uint8)).save("clear.png")
    for words, message in (
        ("missing.png --prompt x", "not_found: no such file"),
        ("photo.png --prompt x --mask small.png", "the mask is 16 × 16, the image 128 × 128 pixels"),
        ("photo.png --prompt x --mask nowhere.png", "does not exist"),
        ("photo.png", "--prompt"),
        ("photo.png --prompt x --mask dark.png", "the mask is black"),
        ("photo.png --prompt x --mask clear.png", "the mask is transparent in places"),
        ("photo.png --prompt x -o small.png", "small.png exists"),
        ("photo.png --prompt x -o a.jpg", "a.jpg is not a .png"),
        ("photo.png --prompt x -o a.png --save-mask a.png", "two pictures would be written to a.png"),
        ("photo.png --prompt x -o missing/a.png", "there is no folder"),
        (". --prompt x", "not_a_file"),
        (f"{'a' * 300} --prompt x", "unreadable"),
    ):
        assert run(f"treering edit {words}") == 2
        assert message in capsys.readouterr().err


def test_masks_are_white_or_black(workplace, capsys):
    """What a lossy format leaves in the dark part of a mask is not edited."""
    area = np.random.default_rng(0).integers(0, 100, (128, 128, 3), np.uint8)
    area[32:96, 32:96] = 255
    Image.fromarray(area).save("mask.jpg", quality=90)
    edit = "treering edit photo.png --prompt 'a strawberry' --decoder encoder --steps 2 --json"
    assert run(f"{edit} --mask mask.jpg") == 0
    assert lines(capsys)[0]["edited_share"] == pytest.approx(0.25)


def test_an_edit_that_changes_nothing_is_said(workplace, capsys):
    edit = "treering edit photo.png --prompt 'a strawberry' --source 'a strawberry' --decoder encoder --steps 3"
    assert run(edit) == 2
    assert "both prompts lead to the same picture everywhere" in capsys.readouterr().err
    assert not Path("photo-edited.png").exists()
    assert run("treering edit photo.png --prompt x --decoder encoder --steps 1 --guidance nan") == 2
    assert "guidance must be finite" in capsys.readouterr().err


def test_a_mask_that_the_model_does_not_see_is_said(workplace, capsys):
    photo = np.asarray(Image.open("photo.png"))
    Image.fromarray(np.concatenate([photo, photo], 1)).save("wide.png")
    area = np.zeros((128, 256, 3), np.uint8)
    area[:, :60] = 255
    Image.fromarray(area).save("mask.png")
    assert run("treering edit wide.png --prompt x --mask mask.png --decoder encoder --steps 2") == 2
    assert "the mask is black wherever the model looks" in capsys.readouterr().err

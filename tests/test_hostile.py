"""Every hostile file gets what is due to it, and none of them harms the others."""

import hashlib
import os
from collections import Counter

import numpy as np
import pytest
from PIL import Image, features

from tests.hostile_bytes import PIXELS, SIZE, encoded
from tests.hostile_files import hostile_files, sound, special_files
from watermark.reading.content import ImageError
from watermark.reading.decoding import decoded
from watermark.reading.images import MAX_BYTES, read_picture
from watermark.reading.png import MOST_NOTES


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Every hostile file, with its path; its name says that it is a PNG."""
    folder = tmp_path_factory.mktemp("hostile")
    out = []
    for i, file in enumerate(hostile_files()):
        path = folder / f"{i}.png"
        path.write_bytes(file.raw)
        out.append((path, file))
    return out


def test_there_are_enough_of_them():
    names = Counter(file.name for file in hostile_files())
    assert len(names) >= 350
    assert names.most_common(1)[0][1] == 1
    codes = Counter(file.code for file in hostile_files())
    assert codes.keys() == {None, "inconclusive", "unreadable", "unsupported_format", "too_large"}
    assert codes[None] > 100


def fault(file, item):
    """What is wrong with what came of a file; empty if nothing is."""
    got = item.status if item.status != "unreadable" else item.reason.partition(":")[0]
    if got != file.code:
        return f"{file.name}: {got} instead of {file.code}: {item.reason} {item.warnings}"
    if item.sha256 != hashlib.sha256(file.raw).hexdigest() and file.raw:
        return f"{file.name}: the wrong hash"
    fitting = ("resized", "cropped")
    notes = [note for note in item.warnings if not any(word in note for word in fitting)]
    if file.code in {None, "inconclusive"} and (file.warnings or file.code is None):
        missing = [part for part in file.warnings if not any(part in note for note in notes)]
        more = [note for note in notes if not any(part in note for part in file.warnings)]
        if missing or more:
            return f"{file.name}: {missing} missing of {notes}, not due {more}"
    if not f"{item.reason}{item.warnings}".isprintable():
        return f"{file.name}: its content in a message"
    return ""


def test_each_gets_its_status_its_code_and_its_warnings(files):
    found = list(decoded((path for path, _ in files), SIZE))
    assert [item.name for item in found] == [str(path) for path, _ in files]
    assert not [text for (_, file), item in zip(files, found, strict=True) if (text := fault(file, item))]


def test_pixels_are_those_that_are_due(files):
    wrong = []
    for path, file in files:
        if file.pixels is not None:
            seen = read_picture(path).pixels.astype(int)
            if seen.shape != file.pixels.shape or np.abs(seen - file.pixels).max() > file.tolerance:
                wrong.append(file.name)
    assert not wrong


def test_workers_find_the_same(files):
    chosen = [path for path, file in files if len(file.raw) < 10_000][::3]
    for alone, isolated in zip(decoded(chosen, SIZE), decoded(chosen, SIZE, workers=1), strict=True):
        assert (alone.name, alone.sha256, alone.warnings) == (isolated.name, isolated.sha256, isolated.warnings)
        assert (alone.status, alone.reason) == (isolated.status, isolated.reason)
        assert np.array_equal(alone.pixels, isolated.pixels)


def picture_or_code(path):
    """A picture, or the code of its refusal."""
    try:
        return read_picture(path)
    except ImageError as error:
        return error.code


@pytest.mark.parametrize("name", sound())
def test_a_file_cut_anywhere_is_never_taken_for_whole(name, tmp_path):
    raw, pixels = sound()[name]
    path = tmp_path / "cut"
    for end in sorted({*range(1, len(raw), 1 + len(raw) // 60), *range(max(1, len(raw) - 24), len(raw))}):
        path.write_bytes(raw[:end])
        found = picture_or_code(path)
        if isinstance(found, str):
            assert found == "unreadable" or (found == "unsupported_format" and name == "avif" and end < 32)
        else:
            assert np.array_equal(found.pixels, pixels)
            assert "cut off" in " ".join(found.warnings), end


def test_a_jpeg_that_ends_anywhere_is_never_taken_for_whole(tmp_path):
    path = tmp_path / "cut"
    for name in ("jpeg", "jpeg restarts", "jpeg progressive", "jpeg progressive restarts", "jpeg cmyk"):
        raw, pixels = sound()[name]
        for end in range(raw.index(b"\xff\xda") + 20, len(raw) - 2, 1 + len(raw) // 60):
            path.write_bytes(raw[:end] + b"\xff\xd9")
            found = picture_or_code(path)
            if isinstance(found, str):
                assert found == "unreadable"
            else:
                assert np.array_equal(found.pixels, pixels) or "detailed" in " ".join(found.warnings), end


def test_what_is_not_a_file_is_refused(tmp_path):
    cases = special_files(tmp_path)
    for item, (_, code) in zip(decoded([path for path, _ in cases], SIZE), cases, strict=True):
        assert item.reason.partition(":")[0] == code, item
        assert (item.status, item.sha256, item.pixels) == ("unreadable", "", None)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_without_permission_is_refused(tmp_path):
    (tmp_path / "x.png").write_bytes(encoded("PNG"))
    (tmp_path / "x.png").chmod(0)
    (item,) = decoded([tmp_path / "x.png"], SIZE)
    assert item.reason == "unreadable: Permission denied"


def test_a_warning_is_given_once(tmp_path):
    raw = encoded("PNG")
    spoilt = b"".join(b"\0\0\0\0te%ct\0\0\0\0" % (65 + i % 26) for i in range(1000))
    (tmp_path / "x.png").write_bytes(raw[:33] + spoilt + raw[33:])
    (item,) = decoded([tmp_path / "x.png"], SIZE)
    assert item.status is None
    damaged = [note for note in item.warnings if "chunk" in note]
    assert damaged[0] == "a chunk b'teAt' is damaged and was ignored"
    assert len(set(damaged)) == len(damaged) == MOST_NOTES


def test_a_codec_that_is_missing_is_no_property_of_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(features, "check", lambda name: False)
    (tmp_path / "x.avif").write_bytes(encoded("AVIF"))
    (item,) = decoded([tmp_path / "x.avif"], SIZE)
    assert item.reason.startswith("unsupported_format: ")
    assert item.sha256 == ""


def test_a_file_of_too_many_bytes_is_refused(tmp_path):
    with (tmp_path / "long.png").open("wb") as file:
        file.write(encoded("PNG"))
        file.truncate(MAX_BYTES + 1)  # a hole: nothing is written
    (item,) = decoded([tmp_path / "long.png"], SIZE)
    assert item.reason.startswith("too_large: more than 64 MiB")


@pytest.mark.parametrize("workers", [0, 1])
def test_odd_names_are_names(tmp_path, workers, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = [
        "-rf.png",
        "new\nline.png",
        os.fsdecode(b"caf\xe9.png"),
        "\x1b[31m.png",
        "a b.png",
        "$(id).png",
        "ü.png",
    ]
    for name in names:
        Image.fromarray(PIXELS).save(name, "PNG")
    found = list(decoded(names, SIZE, workers=workers))
    assert [item.name for item in found] == names
    assert all(item.status is None for item in found)

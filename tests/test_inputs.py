"""Names of images from arguments, folders, patterns and lists."""

import io
import os
import socket
import subprocess
import tracemalloc
from itertools import islice
from pathlib import Path

import pytest

from watermark.inputs import listed, names_in, walk


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of files, folders, links and a pipe, in which the test runs."""
    monkeypatch.chdir(tmp_path)
    for name in ("b.png", "a.png", "sub/z.png", "sub/deep/y.jpg", "other/x.png", ".hidden.png", "sub/[1].png"):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"")
    (tmp_path / "link.png").symlink_to("a.png")
    (tmp_path / "linked").symlink_to("sub")
    (tmp_path / "round").symlink_to(".")
    os.mkfifo(tmp_path / "pipe")
    return tmp_path


def test_folders_are_gone_through_in_order_without_links_and_pipes(folder):
    own = [".hidden.png", "a.png", "b.png", "other/x.png", "sub/[1].png", "sub/z.png", "sub/deep/y.jpg"]
    assert list(names_in(["."], recursive=True)) == [f"./{name}" for name in own]
    assert list(names_in(["sub", "b.png"], recursive=True)) == [*own[4:], "b.png"]
    assert list(names_in(["sub", "b.png"])) == ["sub", "b.png"]
    assert list(names_in(["link.png", "linked"], recursive=True)) == [
        "link.png",  # a link that somebody named is meant
        *("linked/[1].png", "linked/z.png", "linked/deep/y.jpg"),
    ]


def test_sockets_are_left_out(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
        assert list(walk(str(tmp_path))) == []


def test_names_that_no_file_can_have_come_back():
    names = ["x" * 300, "a\0b", "y.png"]
    assert list(names_in(names, recursive=True)) == names


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is closed to root")
def test_a_folder_that_is_closed_is_named(folder):
    (folder / "sub").chmod(0)
    try:
        assert "./sub" in names_in(["."], recursive=True)
    finally:
        (folder / "sub").chmod(0o700)


def test_a_folder_that_vanishes_is_named(folder):
    names = names_in(["."], recursive=True)
    first = list(islice(names, 4))
    (folder / "sub").rename(folder / "gone")
    assert [*first, *names][4:] == ["./sub"]


def test_patterns_that_no_shell_expanded(folder):
    assert list(names_in(["*.png"])) == ["a.png", "b.png", "link.png"]
    assert list(names_in([".h*"])) == [".hidden.png"]
    around = ["round/a.png", "round/b.png"]  # links count, as they do for shells
    assert list(names_in(["*/?.png"])) == ["linked/z.png", "other/x.png", *around, "sub/z.png"]
    assert list(names_in([f"{folder}/sub/*"], recursive=True)) == [
        f"{folder}/sub/[1].png",
        *(f"{folder}/sub/deep/y.jpg", f"{folder}/sub/z.png"),
    ]
    assert list(names_in(["sub/[1].png"])) == ["sub/[1].png"]  # it is there
    assert list(names_in(["sub/[1].png", "*.png"], patterns=False)) == ["sub/[1].png", "*.png"]
    assert list(names_in(["*.gif", "no/*/x", "[", "/*nothing"])) == ["*.gif", "no/*/x", "[", "/*nothing"]


def test_odd_names_come_back(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    odd = ["-dash", "new\nline", os.fsdecode(b"\xff\xfe"), " blank ", "日本", "\r"]
    for name in odd:
        Path(name).write_bytes(b"")
    assert sorted(os.path.relpath(name) for name in names_in([str(tmp_path)], recursive=True)) == sorted(odd)
    nul = b"".join(os.fsencode(name) + b"\0" for name in odd)
    assert list(listed(io.BytesIO(nul))) == odd
    assert list(listed(io.BytesIO(nul[:-1]))) == odd
    assert list(listed(io.BytesIO(nul.replace(b"new\nline\0", b"").replace(b"\0", b"\n")))) == odd[:1] + odd[2:-1]


def test_lists_of_any_length_are_read_bit_by_bit():
    assert list(listed(io.BytesIO(b""))) == []
    assert list(listed(io.BytesIO(b"\n\na\n\nb"))) == ["a", "b"]
    names = [f"folder/{i:06}.png" for i in range(20_000)]
    assert list(listed(io.BytesIO("\n".join(names).encode()))) == names
    assert list(listed(io.BytesIO("\0".join(names).encode()))) == names
    with pytest.raises(ValueError, match="no list"):
        list(listed(io.BytesIO(bytes([65]) * 2_000_000)))


def test_lists_from_windows():
    assert list(listed(io.BytesIO(b"\xef\xbb\xbfa.png\r\nb c.png\r\n\r\n"))) == ["a.png", "b c.png"]
    assert list(listed(io.BytesIO(b"odd\r\0b\0"))) == ["odd\r", "b"]
    for order in ("utf-16-le", "utf-16-be"):
        with pytest.raises(ValueError, match="UTF-16"):
            list(listed(io.BytesIO("\ufeffa.png\n".encode(order))))


def test_a_pattern_of_more_parts_than_a_path_can_have_matches_nothing():
    pattern = "/".join(["[a]"] * 3000)
    assert list(names_in([pattern])) == [pattern]


def test_names_are_not_held(tmp_path):
    for i in range(30):
        (tmp_path / f"{i:02}").mkdir()
        for j in range(100):
            (tmp_path / f"{i:02}" / f"{j:03}-{'x' * 200}").touch()
    tracemalloc.start()
    try:
        assert sum(1 for _ in names_in([str(tmp_path)], recursive=True)) == 3000
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 150_000  # a folder's own hundred names, not all three thousand


def test_folders_may_be_as_deep_as_the_system_allows(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    here = os.open(".", os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("d", dir_fd=here)
        deeper = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = deeper
    os.close(os.open("x.png", os.O_CREAT, dir_fd=here))
    os.close(here)
    try:
        assert list(names_in(["d"], recursive=True)) == ["/".join(["d"] * 1500) + "/x.png"]
    finally:
        subprocess.run(["rm", "-rf", "d"], check=True)  # Python's own is not deep enough

"""Decoders that hang, crash and fill the memory cost one image each."""

import ctypes
import os
import signal
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from pebble import ProcessPool
from PIL import Image

from tests.hostile_bytes import END, PIXELS, chunk, encoded, header
from watermark.reading import decoding
from watermark.reading.decoding import AHEAD, Decoded, _decoded, decoded
from watermark.reading.images import read_picture

SIZE = (32, 32)
ROOT = Path(__file__).resolve().parent.parent
MEMORY = 2**30


def misbehaves(image, name, size):
    """A reader that does what its file is called."""
    match Path(image).name.split()[0]:
        case "hangs":
            time.sleep(1000)
        case "rests":
            time.sleep(1)
        case "spins":
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
            while True:
                pass
        case "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        case "segfault":
            ctypes.string_at(0)
        case "exits":
            os._exit(3)
        case "eats":
            hoard = []
            while True:
                hoard.append(bytearray(2**24))
        case "where":
            return Decoded(name, reason=f"{Path.cwd()} {'torch' in sys.modules}")
    return Decoded(name, np.zeros((*size, 3), np.uint8))


def reasons(names, workers=1, timeout=1.0, memory=MEMORY):
    return {item.name: item.reason for item in _decoded(names, SIZE, misbehaves, workers, timeout, memory)}


def children():
    """The processes below this one, also those of the fork server, without ended ones."""
    out = subprocess.run(["ps", "-eo", "pid,ppid,stat,args"], capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, 3) for line in out.splitlines()[1:]]
    found = {os.getpid()}
    for _ in range(4):
        found |= {int(pid) for pid, parent, stat, _ in rows if int(parent) in found and stat[0] != "Z"}
    names = {int(row[0]): row[3] for row in rows}
    # the fork server and the resource tracker live as long as the program
    servers = {pid for pid in found if int(next(r[1] for r in rows if int(r[0]) == pid)) == os.getpid()}
    return {pid: names[pid] for pid in found - servers - {os.getpid()}}


def test_what_a_decoder_does_costs_one_image():
    bad = ("killed", "segfault", "exits", "hangs", "killed 2")
    names = ["first", *(name for i, what in enumerate(bad) for name in (what, f"good {i}")), "last"]
    found = reasons(names, workers=2, timeout=2.0)
    assert list(found) == names
    crashed = "crashed: the decoder crashed (signal {})"
    assert found["killed"] == found["killed 2"] == crashed.format(9)
    assert found["segfault"] == crashed.format(11)
    assert found["exits"] == "crashed: the decoder crashed (exit code 3)"
    assert found["hangs"] == "timeout: it took more than 2 seconds to decode"
    assert all(found[name] is None for name in names if name.split()[0] in {"first", "good", "last"})
    assert children() == {}


def test_memory_is_bounded():
    found = reasons(["eats", "good"], timeout=60.0)
    assert found == {"eats": "too_large: not enough memory to decode it", "good": None}


@pytest.mark.slow
def test_memory_of_decoders_is_bounded(tmp_path):
    rows = zlib.compress(bytes(7000 * (1 + 4 * 7000)), 1)
    (tmp_path / "large").write_bytes(header(7000, 7000, 8, 6) + chunk(b"IDAT", rows) + END)
    for memory, reason in ((512 * 2**20, "too_large: not enough memory to decode it"), (2**31, None)):
        (item,) = decoded([tmp_path / "large"], SIZE, workers=1, timeout=120.0, memory=memory)
        assert item.reason == (reason or "flat: all pixels have nearly the same colour")


@pytest.mark.slow
def test_a_decoder_that_does_not_listen_is_killed():
    assert reasons(["spins", "good"]) == {"spins": "timeout: it took more than 1 seconds to decode", "good": None}
    assert children() == {}


def test_time_is_that_of_computing_where_the_machine_is_busy():
    found = reasons(["rests", "good"], timeout=0.5)
    assert found == {"rests": None, "good": None}


def test_where_no_worker_starts_no_image_is_blamed(tmp_path, monkeypatch):
    class Broken(ProcessPool):
        def schedule(self, *_, **__):
            raise RuntimeError("the pool is broken")

    monkeypatch.setattr(decoding, "ProcessPool", Broken)
    with pytest.raises(OSError, match=r"do not start: the pool is broken; --workers 0 does without"):
        reasons(["good"])


def test_names_are_the_same_for_workers(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.png").write_bytes(encoded("PNG"))
    names = ["x.png", "./x.png", "x.png/", ""]
    alone, isolated = (list(decoded(names, SIZE, workers=n)) for n in (0, 1))
    assert [item.reason for item in alone] == [item.reason for item in isolated]
    assert [item.status for item in isolated] == [None, None, "unreadable", "unreadable"]


def test_a_crash_of_each_image_is_told_from_its_neighbours():
    names = [f"{what} {i}" for i in range(3) for what in ("killed", "good")]
    found = reasons(names, workers=2, timeout=20.0)
    assert list(found) == names
    assert {name.split()[0] for name, reason in found.items() if reason is None} == {"good"}
    assert {name.split()[0] for name, reason in found.items() if reason} == {"killed"}


def test_workers_are_light_and_where_the_program_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert reasons(["where"]) == {"where": f"{tmp_path} False"}
    program = "import watermark.reading.decoding, sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)


@pytest.fixture
def files(tmp_path):
    for i in range(12):
        pixels = np.roll(PIXELS, i, 1)
        (tmp_path / f"{i:02}.png").write_bytes(encoded("PNG", pixels))
    return sorted(tmp_path.iterdir())


def same(a, b):
    return (a.name, a.sha256, a.warnings, a.reason, a.pixels.tobytes()) == (
        *(b.name, b.sha256, b.warnings, b.reason, b.pixels.tobytes()),
    )


def test_order_and_pixels_are_the_same_with_workers(files):
    images = [files[0], Image.fromarray(PIXELS), str(files[1]), *files[2:], Image.fromarray(255 - PIXELS)]
    alone, isolated = list(decoded(images, SIZE)), list(decoded(images, SIZE, workers=2))
    assert [item.name for item in alone] == [str(files[0]), "image 1", *map(str, files[1:]), "image 13"]
    assert all(map(same, alone, isolated))
    assert all(item.pixels.shape == (32, 32, 3) and item.pixels.dtype == np.uint8 for item in isolated)
    assert isolated[1].sha256 == ""


def test_whole_pictures_come_from_a_process(files, tmp_path):
    large, bad = tmp_path / "large.png", tmp_path / "bad.png"
    large.write_bytes(encoded("PNG", np.tile(PIXELS, (3, 2, 1))))
    bad.write_bytes(header(8, 8) + b"no chunk")
    images = [files[0], bad, large, tmp_path / "none.png"]
    found = list(decoding.whole(images))
    assert [item.name for item in found] == list(map(str, images))
    for item, path in ((found[0], files[0]), (found[2], large)):
        picture = read_picture(path)
        assert np.array_equal(item.pixels, picture.pixels)
        assert (item.sha256, item.warnings) == (picture.sha256, picture.warnings)
    assert found[2].pixels.shape == (3 * PIXELS.shape[0], 2 * PIXELS.shape[1], 3)
    assert [item.reason.partition(":")[0] for item in (found[1], found[3])] == ["unreadable", "not_found"]
    assert children() == {}


def test_it_reads_a_bounded_number_ahead(files):
    taken = []

    def names():
        for i in range(10_000):
            taken.append(i)
            yield files[i % len(files)]

    found = decoded(names(), SIZE, workers=1)
    for i in range(3):
        next(found)
        assert len(taken) <= i + 2 + AHEAD
    found.close()
    assert len(taken) <= 4 + AHEAD
    assert children() == {}


def test_workers_that_are_killed_while_idle_are_replaced(files):
    found = decoded(files, SIZE, workers=1)
    items = [next(found)]
    time.sleep(1)  # all that is ahead is done
    for worker in children():
        os.kill(worker, signal.SIGKILL)
    items += found
    assert [item.name for item in items] == [str(file) for file in files]
    assert all(item.status is None for item in items)
    assert children() == {}


def test_workers_end_with_an_error_of_the_caller(files):
    def names():
        yield from files[:8]
        raise RuntimeError("the list broke")

    found = decoded(names(), SIZE, workers=1)
    with pytest.raises(RuntimeError, match="the list broke"):
        list(found)
    assert children() == {}


def test_relative_names_are_those_of_the_moment(files, monkeypatch, tmp_path_factory):
    monkeypatch.chdir(files[0].parent)
    found = decoded(("00.png" for _ in range(AHEAD + 3)), SIZE, workers=1)
    assert next(found).status is None
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    assert [item.status for item in found] == [None] * AHEAD + ["unreadable"] * 2  # the last were not yet begun


def test_broken_images_in_memory_are_refused(tmp_path):
    (tmp_path / "cut.png").write_bytes(encoded("PNG")[:-3000])
    strange = Image.fromarray(np.full((40, 48), np.nan, np.float32))
    with Image.open(tmp_path / "cut.png") as cut:
        found = [item.reason.partition(":")[0] for item in decoded([cut, strange], SIZE)]
    assert found == ["unreadable", "unsupported_format"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"workers": -1}, "workers must be at least 0, got -1"),
        ({"timeout": 0}, "timeout must be positive and finite, got 0"),
        ({"timeout": float("nan")}, "timeout must be positive"),
        ({"memory": 1}, "memory must be at least 536870912 bytes, got 1"),
    ],
)
def test_wrong_arguments_are_refused_at_once(wrong, message):
    with pytest.raises(ValueError, match=message):
        decoded([], SIZE, **wrong)


PROGRAM = """
import sys
from watermark.reading.decoding import decoded, _decoded
from tests.test_decoding import misbehaves
print("started", flush=True)
found = _decoded([*["good"] * 3, *[sys.argv[2]] * 20], (32, 32), misbehaves, 2, float(sys.argv[3]), 2**30)
for item in found:
    print(item.name, flush=True)
    if sys.argv[1] == "leave":
        break
"""


def program(tmp_path, *arguments):
    """A script without a guard for its main module, in a session of its own."""
    script = tmp_path / "script.py"
    script.write_text(PROGRAM)
    return subprocess.Popen(
        [sys.executable, script, *arguments],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def members(session):
    out = subprocess.run(["ps", "-eo", "sess,stat,args"], capture_output=True, text=True, check=True).stdout
    rows = (line.split(None, 2) for line in out.splitlines()[1:])
    return [row[2] for row in rows if row[0] == str(session) and row[1][0] != "Z"]


def all_gone(session, seconds):
    end = time.monotonic() + seconds
    while members(session) and time.monotonic() < end:
        time.sleep(0.1)
    return members(session) == []


@pytest.mark.parametrize(
    "how", [signal.SIGINT, signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_no_worker_outlives_an_interrupted_program(tmp_path, how):
    run = program(tmp_path, "stay", "hangs", "600" if how == signal.SIGINT else "1")
    assert [run.stdout.readline() for _ in range(4)] == ["started\n", *["good\n"] * 3]
    if how == signal.SIGINT:
        os.killpg(run.pid, how)  # as a terminal does
    else:
        run.send_signal(how)
    out, error = run.communicate(timeout=60)
    assert run.returncode == -how
    assert out == ""
    assert error.count("Traceback") == (how == signal.SIGINT)
    assert all_gone(run.pid, 30)


def test_a_program_ends_that_leaves_its_images_unread(tmp_path):
    run = program(tmp_path, "leave", "good", "60")
    out, error = run.communicate(timeout=60)
    assert (run.returncode, out, error) == (0, "started\ngood\n", "")
    assert all_gone(run.pid, 30)

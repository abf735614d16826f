"""Runs of ``treering verify -o`` that are killed at random instants and gone on with."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.quick_verifier import QuickVerifier, run
from watermark import KeyStore
from watermark.batch import journal_of
from watermark.cli import main
from watermark.inputs import names_in

ROOT = Path(__file__).resolve().parents[1]
QUICK = [sys.executable, "-m", "tests.quick_verifier"]
TREERING = [sys.executable, "-c", "import sys; from watermark.cli import main; sys.exit(main())"]
ALWAYS = ["--key", "alice", "--decoder", "encoder", "--steps", "2", "--batch-size", "2", "--workers", "1"]

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there are no such signals")


@pytest.fixture
def images(tmp_path):
    """A folder of 120 files of all kinds, some twice, for the verifier without networks."""
    kinds = [b"marked", b"plain", b"bad", b"small", b"lost", b"plain"]
    for i in range(120):
        file = tmp_path / "images" / str(i % 3) / f"{i:03}"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(kinds[i % len(kinds)] + b" %d" % (i % 70))
    return tmp_path / "images"


def killed(command, report, wait):
    """Start a command and kill it; whether it was quicker."""
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    while not journal_of(report).exists() and process.poll() is None:
        time.sleep(0.001)
    try:
        _, err = process.communicate(timeout=wait)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return False
    assert process.returncode == 0, err
    return True


def kill_until_done(images, report, rng, most):
    """Go on with a run and kill it again, as often as given; then let it end. Returns how often it was killed."""
    kills = 0
    command = [*QUICK, str(images), str(report), "--resume"]
    while kills < most and not killed(command, report, rng.uniform(0, 0.2)):
        kills += 1
    subprocess.run(command, cwd=ROOT, check=True)
    return kills


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_a_few_kills_lose_and_double_nothing(images, tmp_path, ending):
    if ending == "parquet":
        pytest.importorskip("pyarrow")
    names = list(names_in([str(images)], recursive=True))
    run(QuickVerifier(), names, tmp_path / f"whole.{ending}")
    report = tmp_path / f"report.{ending}"
    kills = kill_until_done(images, report, np.random.default_rng(7), 2)
    assert kills
    assert report.read_bytes() == (tmp_path / f"whole.{ending}").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["images", report.name, f"whole.{ending}"])


@pytest.mark.slow
def test_two_hundred_kills_lose_and_double_nothing(images, tmp_path):
    names = list(names_in([str(images)], recursive=True))
    run(QuickVerifier(), names, tmp_path / "whole.jsonl")
    whole = (tmp_path / "whole.jsonl").read_bytes()
    rng, kills, runs = np.random.default_rng(0), 0, 0
    while kills < 200:
        report = tmp_path / f"report-{runs}.jsonl"
        kills += kill_until_done(images, report, rng, 10)
        assert report.read_bytes() == whole
        assert [json.loads(line)["name"] for line in whole.splitlines()] == names
        runs += 1


@pytest.fixture
def pictures(tmp_path, monkeypatch, alice):
    """A folder of 17 pictures of noise, and the key alice in the store."""
    monkeypatch.setenv("TREERING_STORE", str(tmp_path / "keys.db"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    KeyStore(tmp_path / "keys.db").add("alice", alice)
    (tmp_path / "pictures").mkdir()
    rng = np.random.default_rng(0)
    for i in range(17):
        pixels = rng.integers(0, 256, (128, 128, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "pictures" / f"{i:02}.png")
    return tmp_path / "pictures"


def session(leader):
    """Processes of a session."""
    out = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdecimal() and os.getsid(int(entry.name)) == leader:
                out += [] if (entry / "stat").read_text().rpartition(")")[2].split()[0] == "Z" else [entry.name]
        except OSError:
            continue
    return out


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc")
def test_signals_end_the_command_with_its_workers_and_keep_what_is_done(pictures, tmp_path):
    report = tmp_path / "report.jsonl"
    command = [*TREERING, "verify", str(pictures), "--recursive", *ALWAYS, "-o", str(report), "--resume"]
    done = 0
    for which, code, word in (
        (signal.SIGTERM, 143, "terminated"),
        (signal.SIGINT, 130, "interrupted"),
        (signal.SIGKILL, -9, None),
    ):
        process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True)
        while process.poll() is None and not (
            report.exists() and report.read_bytes().count(b"\n") >= done + 2 and len(session(process.pid)) > 1
        ):
            time.sleep(0.01)
        (os.killpg if which == signal.SIGINT else os.kill)(process.pid, which)
        _, err = process.communicate(timeout=120)
        assert process.returncode == code, err
        assert "Traceback" not in err
        assert word is None or f"treering: {word}\n" in err
        assert word is None or f"verdicts are in {report}; go on with --resume" in err
        done = report.read_bytes().count(b"\n")
        deadline = time.monotonic() + 60
        while session(process.pid) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert session(process.pid) == []
    assert 6 <= done < 17
    arguments = ["verify", str(pictures), "--recursive", *ALWAYS]
    assert main([*arguments, "-o", str(report), "--resume"]) == 1
    assert main([*arguments, "-o", str(tmp_path / "whole.jsonl")]) == 1
    assert report.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert len(report.read_bytes().splitlines()) == 17

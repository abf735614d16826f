"""Whatever is done to the bytes of a file, it is read, or refused with a code, and nothing else happens."""

import base64
import json
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks import fuzz
from benchmarks.fuzz import TARGETS, key_files, mutate, outcome, pictures

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = settings(
    max_examples=200,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
EDITS = st.lists(
    st.tuples(st.floats(0, 1, exclude_max=True), st.binary(max_size=6), st.integers(0, 40)), max_size=4
)


def edited(raw, edits):
    """A file in which some bytes are replaced by others, or taken out."""
    out = bytearray(raw)
    for share, new, gone in edits:
        at = int(share * len(out))
        out[at : at + gone] = new
    return bytes(out)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


@SETTINGS
@given(st.sampled_from(sorted(pictures())), EDITS, st.booleans())
def test_edited_pictures(folder, name, edits, sealed):
    found = outcome("picture", edited(pictures()[name], edits), folder, sealed=sealed)
    assert found in TARGETS["picture"], found


@SETTINGS
@given(st.sampled_from(sorted(key_files())), EDITS)
def test_edited_keys(folder, name, edits):
    raw = key_files()[name]
    changed = edited(raw, edits)
    found = outcome("key", changed, folder)
    assert found in TARGETS["key"], found
    assert (found == "read") == (changed == raw)


@pytest.mark.parametrize("target", TARGETS)
def test_random_mutations(folder, target):
    files = pictures() if target == "picture" else key_files()
    rng = np.random.default_rng(3)
    names = sorted(files)
    found = {
        outcome(target, mutate(files[names[i % len(names)]], rng), folder, sealed=i % 2 == 1) for i in range(400)
    }
    assert found <= set(TARGETS[target])
    assert len(found) > 1


@pytest.fixture
def _old_handler():
    before = signal.getsignal(signal.SIGPROF)
    yield
    signal.signal(signal.SIGPROF, before)


@pytest.mark.usefixtures("_old_handler")
def test_failures_are_recorded_with_their_files(monkeypatch):
    def broken(file, name, size):
        raise KeyError("broken")

    def hanging(file, name, size):
        while True:
            pass

    monkeypatch.setattr(fuzz, "SLOW", 0.05)
    for reader, what in ((broken, "KeyError: 'broken'"), (hanging, "HangError: more than 0.05 seconds")):
        monkeypatch.setattr(fuzz, "read_fitted", reader)
        found = fuzz.run_chunk(8, 4)
        assert [failure["what"] for failure in found["failures"]] == [what] * 3
        assert [failure["mutation"] for failure in found["failures"]] == [8, 9, 10]
        assert base64.b64decode(found["failures"][0]["file"]) == fuzz.mutation(8)[2]
        assert sum(found["counts"].values()) == 1


def test_a_changed_key_that_is_read_is_a_failure(folder, monkeypatch):
    monkeypatch.setattr(fuzz, "read_key_file", lambda file, passphrase: None)
    raw = key_files()["plain 0"]
    assert outcome("key", raw, folder) == "read"
    assert outcome("key", raw + b" ", folder) == "read, although it was changed"


@pytest.mark.usefixtures("_old_handler")
def test_a_run_goes_on_where_it_stopped(tmp_path):
    runs = []
    for mutations in (5, 12, 12):
        arguments = ["--mutations", str(mutations), "--workers", "1", "-o", str(tmp_path)]
        run = CliRunner().invoke(fuzz.main, arguments)
        assert run.exit_code == 0, run.output
        runs.append(json.loads((tmp_path / "fuzz.json").read_text()))
    assert [run["mutations"] for run in runs] == [5, 12, 12]
    assert runs[1]["counts"] == runs[2]["counts"]
    assert sum(runs[2]["counts"].values()) == 12
    whole = fuzz.run_chunk(0, 12)["counts"]
    assert runs[2]["counts"] == dict(sorted(whole.items()))
    assert "| any | neither" in fuzz.readme_table(runs[2])


@pytest.mark.skipif(find_spec("atheris") is None, reason="there is no atheris here")
def test_fuzzing_by_coverage(tmp_path):
    command = [sys.executable, "-m", "benchmarks.fuzz_guided", "--runs", "2000", "-o", str(tmp_path)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    result = json.loads((tmp_path / "fuzz_guided.json").read_text())
    assert result["found"].keys() == TARGETS.keys()
    for target, found in result["found"].items():
        assert set(found["counts"]) <= set(TARGETS[target])
        assert sum(found["counts"].values()) == 2000
        assert found["counts"]["read"] > 0
        assert found["corpus"] > len(pictures() if target == "picture" else key_files())

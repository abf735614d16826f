"""The benchmark of throughput measures what it says, on few files."""

import json
import sys
from dataclasses import replace

import pytest
from click.testing import CliRunner

from benchmarks import throughput
from benchmarks.throughput_report import growth

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def test_growth_is_from_a_tenth_to_the_end():
    samples = [(i, 500 + i / 10) for i in range(1001)]
    found = growth(samples)
    assert found["MiB early"] == pytest.approx(510, abs=1)
    assert found["MiB late"] == pytest.approx(597.5, abs=1)
    assert found["growth"] == pytest.approx(597.5 / 510 - 1, abs=0.005)


def test_memory_of_this_process_is_counted():
    before = throughput.resident()
    held = bytearray(b"x") * (200 << 20)
    assert 190 << 20 < throughput.resident() - before < 400 << 20
    del held


def test_a_small_run(monkeypatch, tmp_path):
    small = replace(throughput.QUICK, pictures=1, files=6, rounds=1, files_a_round=2, steps=1, batch_size=2)
    monkeypatch.setattr(throughput, "QUICK", small)
    run = CliRunner().invoke(throughput.main, ["--quick", "-o", str(tmp_path)], catch_exceptions=False)
    assert run.exit_code == 0, run.output
    result = json.loads((tmp_path / "throughput.json").read_text())
    assert result["memory"]["images"] == 6
    assert 0 < result["in turns"]["ratio"]["median"] < 2
    assert all(cost > 0 for cost in result["milliseconds an image"].values())
    assert 100 < result["memory"]["MiB at most"] < 4000
    assert "| speed of the command" in run.output
    assert (tmp_path / "throughput.png").stat().st_size > 10_000

"""The benchmark of diffusion inversion runs, goes on where it stopped, and reports what it found."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks import diffusion_inversion, diffusion_inversion_report
from benchmarks.diffusion_inversion import run_cell
from benchmarks.diffusion_inversion_report import bars, column, exact_table, means, readme_table, weaker_table
from benchmarks.latents import GUIDANCE, generated


def cell(log10_p, evaluations=10.0):
    """Two pictures of every guidance scale."""
    count = len(GUIDANCE) * len(log10_p)
    same = {"nmse": -20.0, "correlation": 0.9, "rho": 0.7, "evaluations": evaluations}
    columns = {name: [value] * count for name, value in same.items()}
    guidance = [g for g in GUIDANCE for _ in log10_p]
    return {"pictures": columns | {"guidance": guidance, "log10 p": [*log10_p] * len(GUIDANCE)}}


def test_means_are_of_one_guidance_scale_or_of_all():
    found = cell((-3.0, -9.0))
    found["pictures"]["nmse"][0] = -40.0
    assert means(found, 1)["nmse"] == -30
    assert means(found, 3)["nmse"] == -20
    assert means(found)["found"]["hits"] == 3
    assert means(found)["log10 p, median"] == -6


def test_few_steps_are_compared_with_many_on_the_same_pictures():
    cells = {
        "midpoint | 10 | unknown | decoder inversion": cell((-9.0, -8.0)),
        "naive | 50 | unknown | decoder inversion": cell((-5.0, -7.5)),
    }
    found = bars({"cells": cells})["10 steps of midpoint against 50 naive ones"]
    assert (found["found by few only"], found["found by many only"]) == (3, 0)
    assert found["McNemar p"] == pytest.approx(0.25)
    assert found["decades of p lost, median"] == pytest.approx(np.median([-4, -0.5]))
    assert found["ci95"] == pytest.approx([-4, -0.5])


def test_every_picture_is_inverted_with_its_own_prompt(sapling):
    pictures = generated(1, seed=3, steps=25, all_marked=True, kind="dense")
    found = {
        prompt: run_cell(sapling, pictures, pictures.z, ("implicit", 25, prompt, "truth"))
        for prompt in ("known", "unknown")
    }
    (known,), (unknown,) = (column(found[prompt], "nmse") for prompt in ("known", "unknown"))
    assert known < -40
    assert known + 10 < unknown < 0


@pytest.mark.slow
def test_a_small_run_resumes_and_reports(monkeypatch, tmp_path):
    for module in (diffusion_inversion, diffusion_inversion_report):
        monkeypatch.setattr(module, "METHODS", ("midpoint", "naive"))
    run = CliRunner().invoke(diffusion_inversion.main, ["--quick", "-o", str(tmp_path)], catch_exceptions=False)
    assert run.exit_code == 0, run.output
    file = tmp_path / "diffusion_inversion.json"
    result = json.loads(file.read_text())
    assert len(result["cells"]) == 2 * 2 * 3
    assert all(len(each["pictures"]["nmse"]) == 6 for each in result["cells"].values())
    assert set(result) >= {"costs", "exact", "second order", "bf16", "bars", "environment", "settings"}
    assert result["exact"]["implicit"]["1"]["nmse"] < result["exact"]["naive"]["1"]["nmse"] - 10
    assert result["exact"]["shooting"]["1"]["nmse"] < result["exact"]["naive"]["1"]["nmse"] + 0.1
    assert result["exact"]["implicit"]["1"]["nmse of the latent"] < -50
    weaker = result["weaker guidance"]["made under 7.5 | truth"]
    assert list(weaker) == ["1", "2", "3", "5", "7.5"]
    same = column(result["cells"]["midpoint | 2 | known | truth"], "nmse", 7.5)
    assert column(weaker["7.5"], "nmse") == pytest.approx(same, abs=0.1)
    assert column(weaker["1"], "nmse") != pytest.approx(same, abs=0.1)
    assert "| 7.5, encoder |" in weaker_table(result)
    assert result["second order"]["dpm_solver"]["1"]["evaluations"] > 4
    assert "| DPM-Solver++(2M)" in exact_table(result)
    assert "guidance 7.5" in readme_table(result)
    assert (tmp_path / "diffusion_inversion.png").stat().st_size > 10_000

    del result["cells"]["naive | 2 | known | truth"]
    result["cells"]["naive | 2 | unknown | truth"] = cell((-1.0, -2.0))
    file.write_text(json.dumps(result))
    monkeypatch.setattr(diffusion_inversion, "costs", None)  # what is there is not measured again
    run = CliRunner().invoke(diffusion_inversion.main, ["--quick", "-o", str(tmp_path)], catch_exceptions=False)
    assert run.exit_code == 0, run.output
    again = json.loads(file.read_text())
    assert len(again["cells"]) == 12
    assert again["cells"]["naive | 2 | unknown | truth"] == cell((-1.0, -2.0))

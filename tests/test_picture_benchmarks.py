"""The benchmarks of editing and marking, on models whose networks cost nothing, and what they measure with."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from benchmarks import editing, editing_report, marking, marking_report
from inversion import LatentDiffusionModel
from tests.problems import gaussian_model


@pytest.fixture
def model(monkeypatch):
    plain = gaussian_model()
    ae = replace(plain.autoencoder, decode_with_grad=plain.autoencoder.decode)
    made = replace(plain, autoencoder=ae)
    monkeypatch.setattr(LatentDiffusionModel, "load", lambda *_, **__: made)
    return made


def run(benchmark, folder):
    done = CliRunner().invoke(benchmark.main, ["--quick", "-o", str(folder)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_editing_runs_resumes_and_reports(model, tmp_path, monkeypatch):
    out = run(editing, tmp_path)
    result = json.loads((tmp_path / "editing.json").read_text("utf-8"))
    assert set(result["methods"]) == set(editing.METHODS)
    assert all(len(m["preserved"]) == len(m["recovered"]) == 2 for m in result["methods"].values())
    assert editing_report.readme_table(result) in out
    assert (tmp_path / "editing.png").stat().st_size > 10_000
    means = {name: cell["recovered"]["mean"] for name, cell in result["summary"].items()}
    encoder, default, oracle = (means[m] for m in (editing.ENCODER, editing.DEFAULT, editing.ORACLE))
    assert oracle <= default < encoder
    for cell in result["summary"].values():  # this autoencoder does not bleed
        assert cell["preserved"]["mean"] == pytest.approx(cell["recovered"]["mean"], abs=0.01)
    assert result["equal time"][editing.GRADIENT]["iterations"] >= 1
    monkeypatch.setattr(editing, "iterations", lambda *_: 1 / 0)
    monkeypatch.setattr(editing, "add", lambda *_: 1 / 0)
    run(editing, tmp_path)
    again = json.loads((tmp_path / "editing.json").read_text("utf-8"))
    assert again["methods"] == result["methods"]


def test_edits_are_of_other_things_on_the_same_background():
    told = editing.prompts(editing.FULL)
    assert len(told) == len(set(told)) == 64
    for before, after in told:
        assert before != after
        assert before.partition(" on ")[2] == after.partition(" on ")[2] != ""


def test_what_is_preserved_is_measured_outside_the_mask():
    x = torch.full((2, 3, 8, 8), 0.6)
    y = x.clone()
    y[:, :, :4] = -1
    y[1, :, 4:] += 0.06
    background = torch.zeros(2, 1, 8, 8)
    background[:, :, 4:] = 1
    same, off = editing.preserved(y, editing.round_to_8_bits(x), background)
    assert same < -60
    assert off == pytest.approx(-20, abs=0.5)
    assert editing.square((8, 16)).sum() == 4 * 8


def test_the_default_is_compared_picture_by_picture():
    rng = np.random.default_rng(0)
    base = rng.normal(-20, 5, 40)
    methods = {
        "default": {"preserved": base.tolist()},
        "worse": {"preserved": (base + rng.normal(1, 0.5, 40)).tolist()},
    }
    against = editing_report.summary(methods, "default")["worse"]["preserved"]["default against it"]
    assert 0.8 < against["ci95"][0] < against["gain"] < against["ci95"][1] < 1.4
    assert against["better"]["hits"] > 35
    assert against["wilcoxon p"] < 1e-6


def test_marking_runs_resumes_and_reports(model, tmp_path, monkeypatch):
    pytest.importorskip("skimage")
    out = run(marking, tmp_path)
    result = json.loads((tmp_path / "marking.json").read_text("utf-8"))
    assert marking_report.readme_table(result) in out
    assert (tmp_path / "marking.png").stat().st_size > 10_000
    cells = result["summary"]
    assert len(cells) == 3 * 3 + 1
    for kind in marking.QUICK.pictures:
        cell = cells[f"{kind} | gradient, ρ = 0.5"]
        assert cell["conditions"]["clean"]["found"]["hits"] == 1
        assert cell["conditions"]["clean"]["rho median"] == pytest.approx(0.5, abs=0.05)
        assert cell["bar"]["hits"] == int(cell["psnr least"] >= 30 - 1e-6)
        assert list(cells[f"{kind} | before"]["conditions"]) == ["clean"]
    monkeypatch.setattr(marking, "record_of", lambda *_: 1 / 0)
    run(marking, tmp_path)
    again = json.loads((tmp_path / "marking.json").read_text("utf-8"))
    assert again["records"] == result["records"]


def test_summaries_count_what_is_found_and_what_is_visible():
    def one(p, psnr):
        return {"psnr": psnr, "ssim": 0.9, "rounds": 2, "seen": {"clean": {"p": p, "rho": 0.4, "status": ""}}}

    pictures = [one(1e-4, 31.0), one(1e-2, 35.0), one(1e-5, 29.0), one(1e-9, None)]
    name = "generated | gradient, ρ = 0.4"
    cell = marking_report.summary({name: pictures}, 1e-3)[name]
    assert cell["conditions"]["clean"]["found"]["hits"] == 3
    assert cell["bar"]["hits"] == 2
    assert cell["psnr least"] == 29
    assert cell["psnr median"] == 33


def test_every_attack_is_looked_for_as_it_should(model):
    verifier_for = marking.verifiers(model, marking.own_key(marking.GENERATED, 0), marking.FULL)
    assert len(verifier_for("rotation 75°").transforms) == 72
    assert any(t.angle == 75 for t in verifier_for("rotation 75°").transforms)
    assert any(t.crop == 0.75 for t in verifier_for("crop 0.75").transforms)
    assert verifier_for("JPEG 25") is verifier_for("clean")
    assert verifier_for(marking.ENCODER).decoder == "encoder"


@pytest.mark.slow
@pytest.mark.parametrize("benchmark_module", [editing, marking])
def test_quick_runs_on_sapling(benchmark_module, tmp_path):
    assert "wrote" in run(benchmark_module, tmp_path)

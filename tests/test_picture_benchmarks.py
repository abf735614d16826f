"""The benchmarks of editing and marking, on models whose networks cost nothing, and what they measure with."""

import json
from dataclasses import replace
from inspect import signature

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from benchmarks import (
    editing,
    editing_costs,
    editing_report,
    marking,
    marking_noise,
    marking_report,
    marking_summary,
    pairs,
)
from inversion import LatentDiffusionModel
from inversion.editing import edit
from tests.problems import gaussian_model
from watermark.commands.edit import edit as edit_command


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
    exact = {editing.TRUE, editing.ORACLE}
    assert all(len(m["preserved"]) == len(m["changed inside"]) == 2 for m in result["methods"].values())
    for what in ("recovered", "latent"):
        assert {name for name, m in result["methods"].items() if len(m.get(what, ())) == 2} == {
            *editing.METHODS
        } - exact
    assert all(len(m["seconds"]) == 2 for m in result["methods"].values())  # batches of one
    for m in result[
        "methods"
    ].values():  # the oracle's edit inside is the oracle's own, and all edits are alike here
        assert m["same inside"] == pytest.approx(m["preserved"], abs=0.5)
        assert len(m["preference"]) == 2
    assert result["equal time"][editing.CHOSEN]["rate"] in editing.RATES
    assert result["summary"][editing.DEFAULT]["relative time"] == 1
    assert editing_report.readme_table(result) in out
    assert (tmp_path / "editing.png").stat().st_size > 10_000
    means = {name: cell["preserved"]["mean"] for name, cell in result["summary"].items()}
    encoder, default, *truth = (means[m] for m in (editing.ENCODER, editing.DEFAULT, editing.TRUE, editing.ORACLE))
    assert max(truth) <= default < encoder
    latent = {name: cell["latent"]["mean"] for name, cell in result["summary"].items() if name not in exact}
    assert latent[editing.DEFAULT] < latent[editing.ENCODER]
    for name, cell in result["summary"].items():  # this autoencoder does not bleed
        if name not in exact:
            assert cell["preserved"]["mean"] == pytest.approx(cell["recovered"]["mean"], abs=0.01)
    oracle = result["summary"][editing.ORACLE]  # nor do prompts change anything: no edit is seen as none
    assert oracle["changed inside"] == pytest.approx(oracle["preserved"]["mean"], abs=5)
    assert result["equal time"][editing.GRADIENT]["iterations"] >= 1
    (progress,) = tmp_path.glob("editing-*.json")
    half = json.loads(progress.read_text("utf-8"))
    for method in (editing.DEFAULT, editing.ORACLE):  # as if stopped in the second batch
        half["methods"][method] = {what: values[:1] for what, values in half["methods"][method].items()}
    progress.write_text(json.dumps(half), "utf-8")
    monkeypatch.setattr(editing, "costs", lambda *_: 1 / 0)
    run(editing, tmp_path)
    again = json.loads((tmp_path / "editing.json").read_text("utf-8"))
    for method, errors in result["methods"].items():
        assert again["methods"][method] | {"seconds": 0} == errors | {"seconds": 0}
    monkeypatch.setattr(editing, "add", lambda *_: 1 / 0)
    run(editing, tmp_path)


def test_equal_time_is_that_of_the_default(model, monkeypatch):
    """By a clock on which an evaluation of a method takes what it is said to."""
    now, default = [0.0], editing_costs.KINDS[editing.DEFAULT]
    each = {"encoder": 1.0, default: 20.0, "forward_step": 1.0, "adam": 2.0, "gradient": 4.0}
    monkeypatch.setattr(editing_costs.time, "process_time", lambda: now[0])

    def spend(name, count):
        now[0] += each["encoder"] + each[name] * count

    def latents(model, x, way, counts, long):
        spend(
            editing_costs.KINDS.get(way, "gradient"), 1 if way == editing.DEFAULT else counts[way]["iterations"] + 1
        )

    monkeypatch.setattr(editing_costs, "latents", latents)
    ae = replace(model.autoencoder, encode=lambda x: spend("encoder", 0))
    found = editing_costs.equal_time(replace(model, autoencoder=ae), [torch.zeros(1), torch.zeros(1)], 3)
    assert found["default / encoder"] == 21
    assert found[editing.FORWARD]["iterations"] == 20 - 1
    assert found[editing.ADAM]["iterations"] == 20 / 2 - 1
    assert found[editing.GRADIENT]["iterations"] == found[editing.CHOSEN]["iterations"] == 20 / 4 - 1


def test_the_default_that_is_measured_is_that_of_users():
    measured = editing_costs.KINDS[editing.DEFAULT]
    assert signature(edit).parameters["decoder"].default == measured
    (option,) = (p for p in edit_command.params if p.name == "decoder")
    assert option.default == measured


def test_edits_are_of_other_things_on_the_same_background():
    told = editing.prompts(editing.FULL)
    assert len(told) == len(set(told)) == 48
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
        "default": {"preserved": base.tolist(), "seconds": [1.0, 3.0]},
        "worse": {"preserved": (base + rng.normal(1, 0.5, 40)).tolist(), "seconds": [1.0, 1.0]},
    }
    for method in methods.values():
        method["changed inside"] = method["preference"] = method["preserved"]
    methods["worse"]["recovered"] = (base + rng.normal(0, 1, 40)).tolist()
    methods["default"]["recovered"] = base.tolist()
    found = editing_report.summary(methods, "default", (), ())["worse"]
    assert found["relative time"] == 0.5
    against = found["preserved"]["default against it"]
    assert 0.8 < against["ci95"][0] < against["gain"] < against["ci95"][1] < 1.4
    assert against["better"]["hits"] > 35
    assert against["wilcoxon p"] < 1e-6
    assert against["Holm p"] == pytest.approx(2 * against["wilcoxon p"])
    recovered = found["recovered"]["default against it"]
    assert recovered["Holm p"] == recovered["wilcoxon p"]
    summed = editing_report.summary(methods, "default", ("worse",), ())
    assert "Holm p" not in summed["worse"]["preserved"]["default against it"]
    told = [(f"thing {i % 5} on ground {i % 4}", "") for i in range(40)]
    bar = editing_report.bar(methods, summed, "default", ("worse",), told)
    assert not bar["passed"]  # it had half of the time
    assert bar["p, both"] == against["wilcoxon p"]
    assert bar["worse"]["p over things"] == 2 / 2**5
    assert bar["worse"]["p over backgrounds"] == 2 / 2**4


def test_sign_flips_know_what_is_shared():
    rng = np.random.default_rng(3)
    units = [str(i // 10) for i in range(80)]
    shared = np.repeat(rng.normal(size=(300, 8)), 10, axis=1)
    p = [pairs.sign_flips(values, units) for values in shared]
    assert np.mean(np.array(p) <= 0.05) < 0.1  # by edits, almost all would be significant
    assert pairs.sign_flips(np.ones(80), units) == pytest.approx(2 / 2**8, rel=1e-3)


def test_marking_runs_resumes_and_reports(model, tmp_path, monkeypatch):
    pytest.importorskip("skimage")
    monkeypatch.setattr(marking_noise, "BETWEEN_SAVES", -1)
    whole, jobs = marking_noise.made, []

    def stopped(model, job, run):
        if len(jobs) == 3:
            raise KeyboardInterrupt
        jobs.append(job)
        return whole(model, job, run)

    monkeypatch.setattr(marking_noise, "made", stopped)
    CliRunner().invoke(marking.main, ["--quick", "-o", str(tmp_path)])
    assert len(jobs) == 3
    assert not (tmp_path / "marking.json").exists()
    again = []
    monkeypatch.setattr(marking_noise, "made", lambda *job: again.append(job[1]) or whole(*job))
    out = run(marking, tmp_path)
    assert jobs + again == marking.QUICK.jobs()
    result = json.loads((tmp_path / "marking.json").read_text("utf-8"))
    assert marking_report.readme_table(result) in out
    assert (tmp_path / "marking.png").stat().st_size > 10_000
    cells = result["summary"]["cells"]
    assert len(cells) == 3 + 2 * 2 + 3 + 1
    for kind, count in marking.QUICK.pictures.items():
        cell = cells[f"{kind} | gradient, ρ = 0.5"]
        assert cell["conditions"]["clean"]["found"]["hits"] == cell["bar"]["hits"] == count
        assert cell["conditions"]["clean"]["rho median"] == pytest.approx(0.5, abs=0.05)
        assert list(cells[f"{kind} | before"]["conditions"]) == ["clean", "clean, not whitened"]
    assert "change copied" in cells["generated | gradient, ρ = 0.5"]["conditions"]
    assert "JPEG 25" not in cells["large photographs | gradient, ρ = 0.5"]["conditions"]
    assert result["summary"]["false"]["clean"]["tests"] == 100 * (4 + 2 + 2 + 4 + 2)
    monkeypatch.setattr(marking_noise, "made", lambda *_: 1 / 0)
    run(marking, tmp_path)
    assert json.loads((tmp_path / "marking.json").read_text("utf-8"))["records"] == result["records"]


def test_summaries_count_what_is_found_and_what_is_visible():
    def one(p, psnr, rho=0.4, survives=True):
        seen = {"clean": {"p": p, "rho": rho, "decoys found": [7]}}
        seen["JPEG 25"] = {"p": p if survives else 1.0, "rho": rho, "decoys found": []}
        seen["JPEG 25, wide search"] = seen["JPEG 25"] | {"p": p}
        unit = {"unit": str(p), "at bound": psnr == 30.0, "holds": p < 1e-4}
        return {"psnr": psnr, "ssim": 0.9, "rounds": 2, "seen": seen} | unit

    pictures = [one(1e-5, 31.0), one(1e-2, 35.0, 0.1), one(1e-6, 29.0, survives=False), one(1e-9, None)]
    pictures += [one(5e-4, 30.0, 0.2)]
    default, start = "generated | gradient, ρ = 0.5", "generated | from the start"
    names = ("generated | gradient, ρ = 0.4", "generated | sampling, ρ = 0.4", default, start)
    records = dict.fromkeys(names, pictures)
    records[start] = [{"seen": p["seen"], "unit": p["unit"]} for p in pictures]
    run = replace(marking.QUICK, decoys=200, fewer={"generated": 2}, rounds=2)
    found = marking_summary.summary(records, 1e-3, run)
    name = names[0]
    assert found["frontier"][name]["psnr median"] == 33
    assert found["frontier"][name]["conditions"]["clean"]["found"]["trials"] == 2
    cell = found["cells"][name]
    assert cell["conditions"]["clean"]["found"]["hits"] == 4
    assert cell["conditions"]["clean"]["found at 1e-06"]["hits"] == 2
    assert (cell["bar"]["hits"], cell["held bar"]["hits"]) == (3, 2)
    assert (cell["at the bound"], cell["out of rounds"]) == (1, 1)
    assert cell["psnr least"] == 29
    assert cell["six attacks, default search"]["mean"] == 3 / 5
    assert cell["six attacks, wide search"]["mean"] == 4 / 5
    assert found["false"]["clean"]["rate"] == 1 / 200
    assert found["false"]["clean"]["tests"] == 200 * 5 * 4
    assert found["false"]["clean"]["worst key"]["rate"] == 1
    assert found["false"]["JPEG 25"]["worst key"]["hits"] == 0
    same = found["paired"]["PSNR, generated | gradient, ρ = 0.4 less generated | sampling, ρ = 0.4"]
    assert (same["gain"], same["better"]["trials"], same["Holm p"]) == (0, 4, 1)
    assert found["paired"][f"six attacks, wide search, {default} less {start}"]["gain"] == 0


def test_every_attack_is_looked_for_as_it_should_and_meets_every_way_alike(model):
    assert {name: len(looked) for name, looked in marking.looks("rotation 75°", (4, 32, 32)).items()} == {
        "rotation 75°": 8,
        "rotation 75°, wide search": 598,
    }
    assert list(marking.looks("JPEG 25", (4, 32, 32))) == ["JPEG 25", "JPEG 25, wide search"]
    assert {name: len(looked) for name, looked in marking.looks("JPEG 75", (4, 32, 32)).items()} == {"JPEG 75": 8}
    picture = np.random.default_rng(0).integers(0, 255, (128, 128, 3), np.uint8)
    one, same, other = (marking_noise.treated(picture, "brightness", i) for i in (3, 3, 4))
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()
    prompts = marking_noise.prompts()
    assert len(set(prompts)) == len(prompts) == marking.FULL.pictures["generated"]


def test_a_decoy_is_found_as_often_as_the_level_says():
    z = np.random.default_rng(0).standard_normal((40, 4, 32, 32))
    key, (looked,) = marking.own_key("generated", 0), marking.looks("clean", (4, 32, 32)).values()
    found = [marking.tested(one, key, looked, None, 1000)["decoys found"] for one in z]
    assert 5 < sum(map(len, found)) < 80  # 8 × 1e-3 corrected, 40,000 tests


@pytest.mark.slow
@pytest.mark.parametrize("benchmark_module", [editing, marking])
def test_quick_runs_on_sapling(benchmark_module, tmp_path):
    assert "wrote" in run(benchmark_module, tmp_path)

"""The classification benchmark: its keys, rules, counts, and that it goes on where it stopped."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from scipy import stats

from benchmarks import classification, classification_latents, classification_report
from benchmarks.classification_keys import NONE, KeySet, angles, distances, key_sets, marked_noise, mcnemar, share
from benchmarks.classification_latents import AS_PUBLISHED, KNOWN, METHODS, TRUE, Run, ways
from watermark.detection import detect
from watermark.features import noise_vector
from watermark.foreign import detect_array
from watermark.keys import RingKey
from watermark.search import holm

SHAPE = (4, 32, 32)


@pytest.fixture(scope="module")
def sets():
    return key_sets(SHAPE)


def noise_of(own, count):
    return torch.cat([marked_noise(own, i, SHAPE) for i in range(count)]).double().numpy()


def test_both_rules_find_the_key_that_noise_was_marked_with(sets):
    assert [len(own.keys) for own in sets] == [3, 3, 3, 3, 3, 1000, 1000, 0]
    assert [own.name for own in key_sets((4, 64, 64)) if "constant" in own.name] == [
        "constant rings, radius 6, channel 0",
        "constant rings, radius 6, channel 1",
    ]
    unmarked = noise_of(sets[-1], 6)
    for own in sets[:-2]:
        z = noise_of(own, 6)
        cell = classification.classify(own, classification.ANGLE, z, unmarked)
        assert cell["right"] == "111111"
        assert cell["unmarked named"]["hits"] == 0
        assert (cell["named right"], cell["none"], cell["another"]) == ("111111", 0, 0)
        _, p = angles(own, z)
        key = own.keys[1]
        expected = detect(z, key) if isinstance(key, RingKey) else detect_array(z, key)
        np.testing.assert_allclose(p[:, 1], expected.p_value, rtol=1e-6)
        if not isinstance(key, RingKey):
            spectrum = np.fft.fft2(z[4])
            distance = distances(own.keys, z)
            assert distance[4, 2] == pytest.approx(np.abs(spectrum - own.keys[2].values)[key.mask].mean())
            nearest = "".join("01"[int(row.argmin() == i % 3)] for i, row in enumerate(distance))
            assert classification.classify(own, classification.L1, z, unmarked)["right"] == nearest
            mended = classification.classify(own, classification.HERMITIAN, z, unmarked)
            assert mended["right"] == mended["named right"] == "111111"
            assert mended["unmarked named"]["trials"] == 3
            held = np.fft.fft2(z[4])[own.keys[2].mark != 0] - own.keys[2].mark[own.keys[2].mark != 0]
            assert distances(own.keys, z, hermitian=True)[4, 2] == pytest.approx(np.abs(held).mean())


def test_weak_keys_are_one_for_each_picture_and_others_three_for_each_prompt(sets):
    lines = [f"prompt {i}" for i in range(100)]
    assert [sets[5].key_of(i) for i in (0, 7, 99)] == [0, 7, 99]
    assert sets[5].prompts(lines) == lines
    assert [sets[0].key_of(i) for i in range(4)] == [0, 1, 2, 0]
    assert sets[0].prompts(lines)[:4] == ["prompt 0"] * 3 + ["prompt 1"]
    y, _ = noise_vector(noise_of(sets[5], 40), sets[5].keys[0].pattern)
    assert set(sets[5].keys[0].pattern.channels) == {1}
    cosine = [angles(sets[5], noise_of(sets[5], 40))[0][i, i] for i in range(40)]
    assert np.mean(cosine) == pytest.approx(0.5, abs=0.03)
    assert y.shape == (40, 328)
    weaker = sets[6]
    assert [weaker.key_of(i) for i in (0, 7, 199)] == [0, 7, 199]
    assert weaker.prompts(lines)[:3] == ["prompt 0", "prompt 0", "prompt 1"]
    assert weaker.prompts(lines)[199] == "prompt 99"
    cosine = [angles(weaker, noise_of(weaker, 40))[0][i, i] for i in range(40)]
    assert np.mean(cosine) == pytest.approx(0.25, abs=0.03)
    seeds = [set(range(own.seed, own.seed + own.pictures)) for own in sets]
    assert seeds.pop(6).isdisjoint(set.union(*seeds))


def test_confusion_counts_truths_in_rows_and_none_last(sets):
    own = sets[0]
    z = noise_of(own, 6)
    z[3] = noise_of(own, 5)[4]  # carries key 1, and is said to carry key 0
    unmarked = noise_of(sets[-1], 2)
    cell = classification.classify(own, classification.ANGLE, z, unmarked)
    assert cell["confusion"] == [[1, 1, 0, 0], [0, 2, 0, 0], [0, 0, 2, 0], [0, 0, 0, 2]]
    assert cell["right"] == "111011"
    near = classification.classify(own, classification.HERMITIAN, z, np.concatenate([unmarked, z[:1], z[1:2]]))
    assert near["unmarked named"]["trials"] == 2  # the nearest of the others sets the limit
    assert near["none"] + near["another"] + near["named"]["hits"] == 6


def test_intervals_and_paired_tests_are_the_textbook_ones():
    low, high = share(np.arange(10) < 8)["ci95"]
    z = stats.norm.ppf(0.975)
    centre, half = (0.8 + z**2 / 20) / (1 + z**2 / 10), z * np.sqrt(0.016 + z**2 / 400) / (1 + z**2 / 10)
    assert (low, high) == pytest.approx((centre - half, centre + half))
    same = share(np.repeat(np.arange(100) < 80, 3), 3)  # of one prompt all or none
    assert (same["hits"], same["trials"]) == (240, 300)
    assert same["ci95"] == pytest.approx(share(np.arange(100) < 80)["ci95"], abs=0.002)  # 100 pictures in effect
    one_key_never = np.tile([True, True, False], 100)
    assert share(one_key_never, 3)["ci95"] == share(np.arange(300) < 200)["ci95"]  # no more than there are
    lows = [share(np.arange(300) < hits, 3)["ci95"][0] for hits in (298, 299, 300)]
    assert lows == sorted(lows)
    ours, theirs = np.array([1, 1, 1, 1, 1, 0, 1]) == 1, np.array([0, 0, 0, 0, 0, 1, 1]) == 1
    assert mcnemar(ours, theirs) == {"gained": 5, "lost": 1, "p": pytest.approx(14 / 64)}
    assert mcnemar(ours, ours) == {"gained": 0, "lost": 0, "p": 1.0}
    assert mcnemar(ours, theirs, 3) == {"gained": 5, "lost": 1, "p": 0.5}  # prompts: 3, 1 and 0 more


def made_up(sets, pictures):
    """Noise that comes back with errors of its own for every method, none with the true latent."""
    rng = np.random.default_rng(0)
    errors = {"encoder": 3.0, "anderson": 1.1, "ours": 1.0, "gradient-free": 1.5, "gradient": 0.5, TRUE: 0.0}
    noise = {}
    for own in sets:
        z = noise_of(own, pictures)
        for method, error in errors.items():
            for way in ways(own):
                noise[f"{own.name} | {method} | {way}"] = z + error * rng.standard_normal(z.shape)
    return noise


def test_methods_are_compared_on_the_same_pictures_and_reported(sets, tmp_path):
    noise = made_up(sets, 30)
    cells = classification.analyse(sets, noise)
    assert cells[f"{sets[5].name} | unknown | angle"][TRUE]["right"] == "1" * 30
    weak = cells[f"{sets[6].name} | unknown | angle"]
    hits = [weak[method]["classified"]["hits"] for method in ("encoder", "ours", TRUE)]
    assert hits == sorted(set(hits))
    right = [np.array([int(c) for c in weak[m]["right"]]) for m in ("ours", "encoder")]
    test = weak["ours"]["against encoder"]
    assert (test["gained"], test["lost"]) == ((right[0] > right[1]).sum(), (right[0] < right[1]).sum())
    assert test["p"] < 0.01
    assert test["primary"]
    assert "p, Holm" not in test
    tests = [
        c[f"against encoder{w}"]
        for e in cells.values()
        for m, c in e.items()
        for w in ("", ", with none")
        if m not in ("encoder", TRUE)
    ]
    assert sum(t["primary"] for t in tests) == 1
    raw, corrected = (np.array([t[name] for t in tests if not t["primary"]]) for name in ("p", "p, Holm"))
    np.testing.assert_allclose(corrected, holm(raw), rtol=1e-3)
    recovered = classification.recovery(noise)
    np.testing.assert_allclose(recovered[f"{TRUE} | known"], 1)
    assert np.mean(recovered["ours | unknown"]) == pytest.approx(2**-0.5, abs=0.02)
    cost = {
        "of the gradient's": dict.fromkeys(METHODS, 0.25),
        "seconds": dict.fromkeys(METHODS, 1.5),
        "evaluations": {},
    }
    result = {
        "cells": cells,
        "recovery": recovered,
        "exact noise": classification.exact(sets, SHAPE),
        "cost": cost,
        "memory": {name: {"of one decode": 2.0, "bytes": 3e6} for name in METHODS},
    }
    table = classification_report.readme_table(json.loads(json.dumps(result)))
    assert f"{weak['encoder']['classified']['hits']} of 30" in table
    assert f"+{test['gained']} −{test['lost']}" in table
    known = result["exact noise"]
    assert all(r["classified"]["rate"] > 0.9 for name, r in known.items() if not name.endswith("| L1"))
    exact = known[f"{sets[0].name} | L1"]
    assert exact["classified"]["hits"] <= 200  # all of the first key's pictures are nearer to the second
    assert known[f"{sets[0].name} | L1, Hermitian part"]["classified"]["hits"] == 300
    classification_report.draw(result, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000


def test_latents_are_kept_and_only_the_missing_ones_made(sapling, sets, tmp_path, monkeypatch):
    monkeypatch.setattr(classification_latents, "METHODS", {"encoder": "encoder", "gradient": "gradient"})
    monkeypatch.setattr(classification_latents, "BATCH", 1)
    run = Run(most=1, iterations=1, steps=2, inversion_steps=2)
    own = (sets[1],)
    first = classification_latents.recovered(sapling, ["a rose"], own, run, tmp_path)
    assert {len(z) for z in first.values()} == {1}
    made = []
    generate = classification_latents.generated

    def counted(*arguments):
        made.append(arguments[-1])
        return generate(*arguments)

    monkeypatch.setattr(classification_latents, "generated", counted)
    more = classification_latents.recovered(sapling, ["a rose"], own, replace(run, most=2), tmp_path)
    assert made == [range(1, 2)]
    for name, z in more.items():
        assert len(z) == 2
        np.testing.assert_array_equal(z[:1], first[name])
    again = classification_latents.recovered(sapling, ["a rose"], own, run, tmp_path)
    assert made == [range(1, 2)]
    assert {len(z) for z in again.values()} == {1}
    with np.load(classification_latents.file_of(sapling, ["a rose"], own, run, tmp_path)) as kept:
        z, encoded = (torch.from_numpy(kept[f"{own[0].name} | {m}"]) for m in (TRUE, "encoder"))
    x = classification_latents.pictures(sapling, z)
    torch.testing.assert_close(
        sapling.autoencoder.encode(x), encoded, atol=0.02, rtol=0
    )  # a level of 8 bits, here and there
    classification_latents.recovered(sapling, ["a tiger"], own, run, tmp_path)
    assert made[-1] == range(1)
    assert len(list(tmp_path.iterdir())) == 2  # other prompts destroy nothing


def test_noise_is_recovered_with_the_prompt_of_each_picture(sapling):
    own = KeySet(NONE, (), 2)
    told, run = ["a rose", "a tiger"], Run(most=2, iterations=1, steps=2, inversion_steps=2)
    z = classification_latents.generated(sapling, own, told, 16, range(2))
    start = noise_of(own, 2)
    kept = {"none": z.numpy()}
    more = replace(run, inversion_steps=16)

    def error(prompts, way=KNOWN):
        found = classification_latents.noise(sapling, kept, "none", prompts, way, more, range(2))
        return float(((found.double().numpy() - start) ** 2).mean())

    assert error(told) < 0.2
    assert error(told) < error(told[::-1]) / 2
    assert 0 < error(told, AS_PUBLISHED) < error(told[::-1], AS_PUBLISHED)


def test_models_of_videos_are_refused(sapling, tmp_path, monkeypatch):
    monkeypatch.setattr(
        classification.LatentDiffusionModel, "load", lambda *_, **__: replace(sapling, latent_shape=(4, 2, 8, 8))
    )
    done = CliRunner().invoke(classification.main, ["--quick", "--model", "wan", "-o", str(tmp_path)])
    assert done.exit_code == 2
    assert "'wan' is a model of videos" in done.output


@pytest.mark.slow
def test_quick_run(tmp_path):
    done = CliRunner().invoke(classification.main, ["--quick", "-o", str(tmp_path)], catch_exceptions=False)
    assert done.exit_code == 0
    result = json.loads((tmp_path / "classification.json").read_text(encoding="utf-8"))
    assert classification_report.readme_table(result) in done.output
    assert set(result["cost"]["seconds"]) == set(METHODS)
    assert result["memory"]["gradient"]["of one decode"] > 2 * result["memory"]["ours"]["of one decode"]
    again = CliRunner().invoke(classification.main, ["--quick", "-o", str(tmp_path)], catch_exceptions=False)
    assert json.loads((tmp_path / "classification.json").read_text(encoding="utf-8")) == result
    assert again.exit_code == 0

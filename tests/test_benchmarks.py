"""What the benchmarks measure with."""

import json
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from scipy import stats

from benchmarks import (
    calibration,
    calibration_report,
    identification,
    identification_keys,
    identification_noise,
    null_images,
    null_noise,
    null_tests,
    own_keys,
    power,
    rates,
    usual_recipes,
)
from benchmarks.decoder_inversion import errors_along
from benchmarks.kept import keep, kept_file
from benchmarks.latents import generated, nmse, off_range, round_to_8_bits, video
from benchmarks.record import peak_memory
from inversion import LatentDiffusionModel
from inversion.solvers import Stop, forward_step
from tests.problems import linear_autoencoder
from tests.test_solvers import linear, matrices
from watermark.calibration import Calibration
from watermark.detection import detect
from watermark.features import key_spectrum, key_vector, noise_vector
from watermark.foreign import ArrayKey, detect_array
from watermark.keys import Pattern
from watermark.search import key_matrix
from watermark.transforms import IDENTITY, Transform, plain_transforms
from watermark.views import views


def test_nmse_is_in_decibels():
    z = torch.full((2, 4, 3, 3), 2.0)
    found = z.clone()
    found[0] += 0.2
    found[1] += 0.02
    torch.testing.assert_close(nmse(found, z), torch.tensor([-20.0, -40.0]), rtol=1e-4, atol=0)


def test_rounding_keeps_what_8_bits_can_hold():
    levels = torch.arange(256.0) / 127.5 - 1
    torch.testing.assert_close(round_to_8_bits(levels), levels)
    assert round_to_8_bits(torch.tensor([-1.2, 0.001, 1.3])).tolist() == pytest.approx([-1, 1 / 255, 1], abs=1e-6)


def test_pictures_come_with_the_latents_they_were_decoded_from(sapling):
    pictures = generated(7, seed=3, steps=2)
    assert pictures.guidance.tolist() == [1.0, 1.0, 3.0, 3.0, 7.5, 7.5, 1.0]
    assert pictures.marked.tolist() == [False, True, False, True, False, True, False]
    torch.testing.assert_close(sapling.autoencoder.decode(pictures.z), pictures.x, rtol=0, atol=1 / 255 + 1e-3)


def test_videos_move_and_come_with_their_latents(sapling):
    z, x = video(sapling.autoencoder, 3)
    assert z.shape == (2, 4, 3, 32, 32)
    assert x.shape == (2, 3, 3, 128, 128)
    assert (x[:, :, 0] - x[:, :, 2]).abs().mean() > 0.02
    y = sapling.autoencoder.decode(z[:, :, 1])
    torch.testing.assert_close(y, x[:, :, 1], rtol=0, atol=1 / 255 + 1e-3)


def test_off_range_latents_are_where_they_are_said_to_be():
    ae = linear_autoencoder(dtype=torch.float32)
    x = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 0.2
    z, y = off_range(ae, x, 0.1)
    assert float((z - ae.encode(x)).std()) == pytest.approx(0.1, rel=0.05)
    torch.testing.assert_close(ae.decode(z), y, rtol=0, atol=1 / 255 + 1e-6)


def test_errors_along_a_path_are_those_of_its_iterates():
    truth = torch.ones(1, 2, dtype=torch.float64)
    residual = linear(matrices([0.5, 0.5]), truth)

    def solve(callback):
        return forward_step(residual, torch.zeros_like(truth), Stop(3), callback=callback)

    expected = 20 * torch.log10(torch.tensor([[0.5], [0.25], [0.125]], dtype=torch.float64))
    torch.testing.assert_close(errors_along(solve, truth)[1:], expected)


def test_peak_memory_counts_tensors():
    assert 4_000_000 <= peak_memory(lambda: torch.zeros(1_000_000)) < 4_100_000
    assert 8_000_000 <= peak_memory(lambda: torch.zeros(1_000_000) + 1) < 8_100_000


def test_keys_are_identified_in_the_noise_that_carries_them(sapling):
    keys = identification_keys.all_keys(64, sapling.latent_shape)
    noise = {
        kind: identification_noise.marked_noise(sapling, kind, 40).double().numpy()
        for kind in identification_keys.KINDS
    }
    for test in identification_keys.TESTS[:4]:
        for z, transforms in (
            (noise[test], IDENTITY),
            (noise[test][..., ::-1], (Transform(), Transform(flip=True))),
        ):
            placed = identification.place(keys[test], z, 40, transforms, (32, 64))
            assert [first for first, _ in placed] == [True, True]
            assert placed[1][1] == 2 * placed[0][1]
        assert not identification.place(keys[test], noise[test], 41, IDENTITY, (64,))[0][0]
        assert keys[test].test(noise["unmarked"], IDENTITY)[0].min() > 1e-4
    p, best = keys["tree-ring"].test(noise["tree-ring"], IDENTITY)
    theirs = [identification_keys.their_key(i, sapling.latent_shape) for i in (3, 40)]
    foreign = [detect_array(noise["tree-ring"], ArrayKey(key.values, key.mask)) for key in theirs]
    np.testing.assert_allclose(p[[3, 40]], [d.p_value[0] for d in foreign], rtol=1e-6)
    assert best == 40
    key = identification_keys.their_key(40, sapling.latent_shape)
    distance, _ = keys["tree-ring, L1"].test(noise["tree-ring"], IDENTITY)
    spectrum = np.fft.fft2(noise["tree-ring"][0])
    assert distance[40] == pytest.approx(np.abs(spectrum - key.values)[key.mask].mean())


def test_averages_of_nothing_and_of_everything_are_not_taken_for_certain():
    for value in (0.0, 1.0):
        low, high = identification.bootstrap(np.full(48, value))["ci95"]
        other = 0.025 ** (1 / 48)
        assert (low, high) == pytest.approx((0, 1 - other) if value == 0 else (other, 1))


def test_averages_are_over_conditions_and_their_intervals_over_pictures():
    value = identification.bootstrap(np.array([0.0, 0.5, 1.0, 1.0] * 12))
    assert value["mean"] == pytest.approx(0.625)
    assert value["ci95"] == pytest.approx(
        [0.625 - 1.96 * 0.4146 / 48**0.5, 0.625 + 1.96 * 0.4146 / 48**0.5], abs=0.02
    )
    assert all(name in identification_noise.ATTACKS for name in identification_noise.CONDITIONS[1:])
    assert all(set(names) <= set(identification_noise.CONDITIONS) for names in identification.AVERAGES.values())


@pytest.fixture(scope="module")
def nulls(sapling):
    """Coloured noise in the place of recovered noise, as many as calibration.QUICK has."""
    rng = np.random.default_rng(2)
    radius = np.hypot(np.fft.fftfreq(32)[:, None], np.fft.fftfreq(32)[None, :]) * 32
    noise = {
        family: np.fft.ifft2(np.fft.fft2(rng.standard_normal((4, 4, 32, 32))) * (1 + np.exp(-radius / 4))).real
        for family in null_images.FAMILIES
    }
    return null_tests.nulls_of(noise, null_noise.verifier_of(sapling, calibration.QUICK.recovery))


def test_calibration_tests_are_those_of_the_library(nulls):
    found = {test.name: test for test in null_tests.tests(nulls, calibration.QUICK.keys)}
    n, transforms = len(nulls.images.families), plain_transforms((4, 32, 32))
    for kind in null_tests.OURS:
        key = null_images.secret_key("tested", 3, kind)
        whitened = np.empty(n)
        for own, other in nulls.images.halves():
            scale = nulls.images.whitening(key.pattern, other)
            whitened[own] = detect(nulls.images.noise[own].astype(float), key, whitening=scale).p_value
        ours = found[f"{kind} | whitened | alone"].p
        assert np.isnan(ours[n:]).all()
        sure = whitened < 0.01 if kind == "levels" else whitened > 0  # elsewhere the search has a bound for levels
        np.testing.assert_allclose(ours[:n, 3][sure], whitened[sure], rtol=0.01)
        assert (ours[:n, 3] >= whitened * 0.99).all()
        assert (ours[:n, 3] <= np.minimum(1, 6 * whitened)).all()
        each = np.stack([detect(view, key).p_value for view in views(nulls.noise, transforms)])
        searched = found[f"{kind} | as it is | searched"].p[:, 3]
        if kind == "levels":
            assert (searched >= np.minimum(1, 8 * each.min(0)) - 1e-9).all()
        else:
            np.testing.assert_allclose(searched, np.minimum(1, 8 * each.min(0)), rtol=1e-9)
    for kind in ("tree-ring", "constant rings"):
        key = null_tests.their_keys(kind, 5, (4, 32, 32))[2]
        key = ArrayKey(key.values, key.mask)  # as if nobody knew how it was drawn
        each = np.stack([detect_array(view, key).p_value for view in views(nulls.noise, transforms)])
        np.testing.assert_allclose(found[f"{kind} | as it is | alone"].p[:, 2], each[0], rtol=1e-9)
        np.testing.assert_allclose(
            found[f"{kind} | as it is | searched"].p[:, 2], np.minimum(1, 8 * each.min(0)), rtol=1e-9
        )
    own, other = next(nulls.images.halves())
    zeros, shares = found["zeros | as it is | alone"].p[:, 0], found["zeros | counted | alone"]
    assert shares.p[own[0], 0] == (1 + (zeros[other] <= zeros[own[0]]).sum()) / (1 + len(other))
    assert shares.p[:n].min() >= shares.smallest


def test_usual_chi_square_is_the_published_one(nulls):
    key = null_tests.their_keys("tree-ring", 2, (4, 32, 32))[1]
    tests = usual_recipes.usual_tests(nulls, calibration.QUICK.keys)
    test = next(test for test in tests if test.name.startswith("tree-ring | chi"))
    seen, target = (torch.from_numpy(a[key.mask]) for a in (np.fft.fft2(nulls.noise[5]), key.values))
    seen, target = (torch.cat([a.real, a.imag]) for a in (seen, target))
    sigma = seen.std()
    x, size = (((seen - target) / sigma) ** 2).sum().item(), (target**2 / sigma**2).sum().item()
    assert test.p[5, 1] == pytest.approx(stats.ncx2.cdf(x, len(target), size), rel=1e-9)


def test_misfits_of_coordinates_are_those_of_bins(nulls):
    key = null_images.secret_key("tested", 0)
    values, mask = usual_recipes.dense_values([key], (4, 32, 32))
    assert mask.sum() == values.shape[1] == 656
    np.testing.assert_allclose(values[0] / 32, key_spectrum(key, (1, 4, 32, 32))[mask[[0, 3]]])
    bins = np.fft.fft2(nulls.noise)[:, mask]
    y, _ = noise_vector(nulls.noise, Pattern())
    misfit = usual_recipes.misfits(y, key_vector(key, (1, 4, 32, 32)))
    np.testing.assert_allclose(misfit["chi-square"], usual_recipes.chi_square(bins, values)[:, 0], rtol=1e-7)
    np.testing.assert_allclose(misfit["L1"] / np.sqrt(2) * 32, np.abs(bins - values).mean(1))
    np.testing.assert_allclose(misfit["L2"] * 1024, (np.abs(bins - values) ** 2).sum(1))


def test_intervals_are_over_what_is_independent():
    rng = np.random.default_rng(0)
    hits = (rng.random((1000, 1)) < 0.1).astype(float)
    mean, both, one = rates.interval(hits, np.arange(1000))
    exact = stats.binomtest(int(hits.sum()), 1000).proportion_ci(0.95, "exact")
    assert mean[0] == hits.mean()
    np.testing.assert_allclose(both[:, 0], [exact.low, exact.high], atol=0.003)
    assert one[2, 0] < both[0, 0] < one[0, 0] < mean[0] < one[1, 0] < both[1, 0]
    units = np.arange(1000) % 20
    same = (units < 2).astype(float)[:, None]  # all crops of two of twenty photographs
    assert rates.interval(same, units)[1][1, 0] > 2 * both[1, 0] - 0.1
    _, all_of_them, one = rates.interval(np.ones((8, 1)), np.arange(8))
    assert all_of_them[:, 0].tolist() == pytest.approx([0.025 ** (1 / 8), 1])  # as Clopper and Pearson have it
    assert one[0, 0] == pytest.approx(0.05 ** (1 / 8))
    _, nothing, _ = rates.interval(np.zeros((1000, 1)), units)
    np.testing.assert_allclose(nothing[:, 0], [0, 1 - 0.025 ** (1 / 20)])
    low, high = rates.clopper_pearson(np.array([0, 3, 1000]), 1000, 0.025)
    for i, k in enumerate((0, 3, 1000)):
        exact = stats.binomtest(k, 1000).proportion_ci(0.95, "exact")
        assert (low[i], high[i]) == pytest.approx((exact.low, exact.high))


def test_keys_above_the_level_are_counted_and_expected():
    rng = np.random.default_rng(1)
    found = rng.random((1000, 400)) < 1e-3
    cell = rates.per_key(found, np.arange(1000), 1e-3)
    assert sum(int(part.split(":")[1]) for part in cell["keys by images"].split()) == 400
    assert cell["expected above"] == pytest.approx(400 * stats.binom.sf(3, 1000, 1e-3), rel=1e-3)
    assert cell["above"] == (found.sum(0) > 3).sum() > 0
    assert abs(cell["above"] - cell["expected above"]) < 4 * cell["expected above"] ** 0.5
    assert not cell["established"]
    found[:20, 7] = True
    cell = rates.per_key(found, np.arange(1000), 1e-3)
    assert cell["established"]
    assert cell["worst"]["hits"] >= 20
    by_source = rates.per_key(found, np.arange(1000) // 50, 1e-3)
    assert by_source["established"] is None
    assert by_source["worst"]["ci95"][0] == 0  # all of them in one of twenty


def test_t_has_the_power_of_the_tests_that_know_sigma():
    rng = np.random.default_rng(3)
    k = key_vector(null_images.secret_key("tested", 0), (1, 4, 32, 32))[None]
    white = rng.standard_normal((4000, 656))
    limit = power.likelihood_ratio_limit(656**0.5, 656, 0.1, 1e-2)
    s = white @ k[0] - 0.1 * (white**2).sum(1) / 2
    assert abs((s >= limit).mean() - 1e-2) < 4 * (1e-2 / 4000) ** 0.5
    gap = power.gap(white, k, 1e-3)
    assert gap["projection against the formula"] < 0.03
    assert gap["projection"]["within 2 points"]
    assert gap["likelihood ratio"]["within 2 points"]
    mixed = 0.2 * k + np.sqrt(1 - 0.04) * white
    direct = stats.t.sf(
        (r := mixed @ k[0] / np.linalg.norm(mixed, axis=1) / 656**0.5) * (655 / (1 - r**2)) ** 0.5, 655
    )
    np.testing.assert_allclose(power.t_p(white, k, np.ones(1), 0.2)[:, 0], direct, rtol=1e-9)


def test_t_on_white_noise_is_nominal():
    white = power.on_white_noise("rings", 200_000, (4, 32, 32))
    assert white["kolmogorov p"] > 1e-3
    low, high = white["found"]["0.001"]["ci95"]
    assert 0.8e-3 < low < 1.05e-3 < high < 1.3e-3 or low < 1e-3 < high


def test_halves_of_the_calibration_share_no_photograph():
    split = Calibration.halves(SimpleNamespace(families=range(1000)))
    halves = [{null_images.photograph_of(int(i), 21) for i in own} for own, _ in split]
    assert not halves[0] & halves[1]
    assert halves[0] | halves[1] == set(range(21))
    counts = Counter(null_images.photograph_of(i, 21) for i in range(1000))
    assert max(counts.values()) - min(counts.values()) <= 5


def test_null_noise_that_is_missing_is_added_in_order(tmp_path, monkeypatch):
    model = LatentDiffusionModel.load("sapling")
    how = null_noise.Recovery((1, 5, 1, 1), also=5, steps=1, decoder="shrinkage", inversion_steps=1)
    path = kept_file(tmp_path, "calibration", how.settings(model))
    rows = np.arange(5.0)[:, None, None, None]
    keep(path, {"another key": rows[:4], "another key | JPEG 75": rows[:2]})
    stubs = {
        "CHUNK": 2,
        "verifier_of": lambda model, how, decoder=None: decoder,
        "pictures": lambda model, family, numbers, steps: list(numbers),
        "noise_of": lambda verifier, images: rows[images],
        "jpeg": lambda image: image,
        "photographs": list,
    }
    for name, stub in stubs.items():
        monkeypatch.setattr(null_noise, name, stub)
    noise = null_noise.recovered(model, how, tmp_path)
    assert len(noise) == 9
    for name, found in noise.items():
        np.testing.assert_array_equal(found, rows[: 5 if name.startswith("another key") else 1])


def test_calibration_runs_resumes_and_ships_what_a_verifier_takes(sapling, tmp_path, monkeypatch):
    pytest.importorskip("skimage", reason="photographs come with it; install .[bench]")
    done = CliRunner().invoke(calibration.main, ["--quick", "-o", str(tmp_path)], catch_exceptions=False)
    assert done.exit_code == 0
    result = json.loads((tmp_path / "calibration.json").read_text(encoding="utf-8"))
    assert calibration_report.readme_table(result) in done.output
    assert (tmp_path / "calibration.png").exists()
    shipped = Calibration.load(tmp_path / "calibration.safetensors")
    assert shipped.counts == dict.fromkeys(null_images.FAMILIES, 4)
    for own, _ in shipped.halves():
        assert Counter(shipped.families[i] for i in own) == dict.fromkeys(null_images.FAMILIES, 2)
    verifier = replace(null_noise.verifier_of(sapling, calibration.QUICK.recovery), calibration=shipped)
    monkeypatch.setattr(null_noise, "pictures", None)
    noise = null_noise.recovered(sapling, calibration.QUICK.recovery, tmp_path)
    assert {name: len(z) for name, z in noise.items()} == {
        **dict.fromkeys(null_images.FAMILIES, 4),
        "another key | encoder alone": 2,
        "another key | all the way": 2,
        "another key | JPEG 75": 2,
        "another key | JPEG 75, encoder alone": 2,
        "another key | JPEG 75, all the way": 2,
    }
    for i, kind in enumerate(("dense", "rings")):
        direction = key_matrix([null_images.secret_key("own", i, kind)], (1, 4, 32, 32))
        y, _ = noise_vector(noise["another key"], Pattern(kind))
        assert (y @ direction[0] / np.linalg.norm(y, axis=1)).argmax() == i
        trials = {
            way: row["alone"]["1e-06"]["trials"] for way, row in result["marked"][kind].items() if "alone" in row
        }
        others = {*own_keys.AGAINST, *own_keys.AGAINST.values()} - {"clean"}
        assert trials == {"clean": 2} | dict.fromkeys(others, 1)
    assert verifier.calibration is shipped

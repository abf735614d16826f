"""The quality benchmark: what it compares, and the measures it compares with."""

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from scipy import stats
from scipy.spatial.distance import pdist

from benchmarks import quality, quality_pictures, quality_report, quality_tests
from benchmarks.quality_pictures import CONTROL, FOREIGN, GROUPS, MARKS, UNMARKED, VIEW, initial
from watermark.foreign import conjugate_bins
from watermark.published_keys import constant_ring_key
from watermark.rings import rings_for

SHAPE = (4, 32, 32)


def noise(group, numbers=range(4)):
    return torch.cat([initial(group, i, quality.FULL, SHAPE) for i in numbers]).double().numpy()


def test_groups_share_their_noise_but_where_they_are_marked():
    plain = noise(UNMARKED)
    for group in (VIEW, CONTROL):
        assert abs(np.corrcoef(noise(group).ravel(), plain.ravel())[0, 1]) < 0.05
    for group in (*MARKS, *FOREIGN):
        changed = np.abs(np.fft.fft2(noise(group) - plain)).max(0) > 1e-3
        assert 0.005 < changed.mean() < 0.5, group
        if group == "zeros":
            assert noise(group).var() < plain.var()
        if group in MARKS:
            expected = set(rings_for((1, *SHAPE), MARKS[group][0]).channels)
            assert set(np.flatnonzero(changed.any((1, 2)))) == expected
    strong = np.fft.fft2(noise("dense, strength 1"))
    marked = np.abs(strong[0] - strong[1]) < 1e-3
    assert marked.sum() == 656
    for number, i in ((0, 0), (1, 8), (3, 95)):  # twelve keys of eight pictures, of four that there are
        key = constant_ring_key(number, SHAPE, level=40)
        both = key.mask & conjugate_bins(key.mask.astype(complex)).real.astype(bool)
        seen = np.fft.fft2(noise("constant rings, radius 6", [i]))[0]
        np.testing.assert_allclose(seen[both], key.mark[both], atol=1e-3)


def test_frechet_distance_of_moved_and_stretched_features():
    a = np.random.default_rng(0).standard_normal((60, 3)) @ np.array([[2, 0, 0], [1, 1, 0], [0, 0, 0.5]])
    assert quality_tests.frechet(a, a) == pytest.approx(0, abs=1e-6)
    assert quality_tests.frechet(a, a + np.array([3, 0, 4])) == pytest.approx(25)
    assert quality_tests.frechet(a - a.mean(0), 2 * (a - a.mean(0))) == pytest.approx(np.trace(np.cov(a.T)))
    one = np.arange(10.0)[:, None]
    assert quality_tests.frechet(one, 3 * one) == pytest.approx(9**2 + (2 * one.std(ddof=1)) ** 2)


def test_excess_is_nothing_by_chance_and_something_where_there_is_a_difference():
    rng = np.random.default_rng(1)
    same = rng.standard_normal((96, 4))
    near = 0.9 * same + np.sqrt(0.19) * rng.standard_normal(same.shape)
    none = quality_tests.frechet_excess(near, same)
    assert none["p"] > 0.05
    assert none["chance"][0] < none["value"] < none["chance"][1]
    far = quality_tests.frechet_excess(near + np.array([1.5, 0, 0, 0]), same)
    assert far["p"] == 1 / 4001
    assert 2.25 / 2 < far["value"] < 2.25 + 0.5
    less = quality_tests.frechet_excess(0.7 * near, same)  # diversity that is lost is a distance, too
    assert less["p"] < 0.01
    assert less["value"] > less["chance"][1]


def test_main_directions_are_those_of_the_reference():
    rng = np.random.default_rng(2)
    reference = rng.standard_normal((50, 1)) @ np.ones((1, 5)) + 0.01 * rng.standard_normal((50, 5))
    seen = quality_tests.principal(reference, 1)(reference)
    assert seen.std(ddof=1) == pytest.approx(1)
    assert abs(np.corrcoef(seen[:, 0], reference.mean(1))[0, 1]) > 0.999


def test_diversity_is_the_mean_distance_within_a_prompt():
    features = np.random.default_rng(3).standard_normal((12, 5))
    found = quality_tests.pairwise(features, 4)
    np.testing.assert_allclose(found, [pdist(features[i : i + 4]).mean() for i in (0, 4, 8)])
    half = quality_tests.ratio(found / 2, found, 3)
    assert half["value"] == pytest.approx(0.5)
    assert half["ci95"] == pytest.approx([0.5, 0.5])
    assert half["p"] == 0.25  # three keys, all one way


def test_agreement_counts_prompts_and_pairs():
    truth = np.array([0, 0, 1, 1])
    plain = np.array([[1.0, 2, 3], [1, 2, 3], [2, 1, 3], [1, 2, 3]])
    marked = plain.copy()
    marked[0] = [2, 1, 3]
    found = quality_tests.agreement(marked, plain, truth, 2)
    assert (found["right"], found["of"], found["gained"], found["lost"]) == (2, 4, 0, 1)
    assert found["difference"]["value"] == pytest.approx((2 / 2 - 2.5 / 1) / 4)
    same = quality_tests.agreement(plain, plain, truth, 2)
    assert (same["right"], same["difference"]["p"], same["difference"]["value"]) == (3, 1.0, 0)


def test_moments_that_differ_are_found_and_named():
    rng = np.random.default_rng(4)
    fresh = quality_tests.moments(rng.standard_normal((400, 4, 16, 16)))
    plain = rng.standard_normal((40, 4, 16, 16))
    assert quality_tests.noise_distribution(plain, fresh)["p"] > 0.05
    wider = plain * np.array([1, 1, 1.2, 1])[:, None, None]
    found = quality_tests.noise_distribution(wider, fresh)
    assert found["p"] < 1e-6
    assert found["differs most in"] == "std of channel 2"
    assert found["std"] == pytest.approx([1, 1, 1.2, 1], abs=0.02)
    assert quality_tests.latent_distribution(plain + 0.0, plain, 10)["p"] == 1
    changed = quality_tests.latent_distribution(wider, plain, 10)
    assert changed["p"] == pytest.approx(2 / 2**10)  # all ten keys one way
    assert changed["differs most in"] == "std of channel 2"


def test_the_largest_of_many_changes_is_judged_by_the_largest_of_chance():
    rng = np.random.default_rng(8)
    mix = rng.standard_normal((6, 6))
    found = [quality_tests.flipped(rng.standard_normal((9, 6)) @ mix)[0] for _ in range(400)]
    assert stats.kstest(found, "uniform").statistic < 0.09  # correlated columns, nothing there
    values = rng.standard_normal((9, 6))
    values[:, 4] += 4
    p, t = quality_tests.flipped(values)
    assert p == 2 / 2**9
    assert t == pytest.approx(abs(stats.ttest_1samp(values, 0).statistic))


def test_intervals_are_over_keys():
    """Keys that differ: what a bootstrap over their pictures would take for certain, one over keys does not."""
    rng = np.random.default_rng(6)
    covered = 0
    for _ in range(200):
        effects = rng.standard_normal(12)
        values = np.repeat(effects, 8) + 0.1 * rng.standard_normal(96)
        low, high = quality_tests.over_keys(quality_tests.by_key(values, 12))["ci95"]
        covered += low < 0 < high
    assert 165 < covered < 197  # of 200; 12 keys make percentile intervals a little short


def test_a_trace_in_the_corners_is_told_from_one_elsewhere():
    rng = np.random.default_rng(5)
    plain, others = rng.uniform(-1, 1, (2, 8, 3, 64, 64))
    corner, middle = plain + 0.001, plain + 0.001
    corner[:, :, :6, :6] += 0.2
    middle[:, :, 29:35, 29:35] += 0.2
    traces = {name: quality_tests.seen(x, plain, others) for name, x in (("corner", corner), ("middle", middle))}
    assert traces["corner"]["rms"]["elsewhere"] == pytest.approx(0.1275)
    share = 36 / quality_tests.corners(64, 64).sum()
    expected = 127.5 * np.sqrt(share * 0.201**2 + (1 - share) * 0.001**2)
    assert traces["corner"]["rms"]["corners"] == pytest.approx(expected)
    assert traces["middle"]["rms"]["ratio"] < 0.1
    assert traces["middle"]["chance"]["ratio"] == pytest.approx(1, abs=0.2)


def test_run_resumes_and_reports(tmp_path, monkeypatch):
    few = (UNMARKED, CONTROL, VIEW, "rings")
    assert set(few) <= set(GROUPS)
    monkeypatch.setattr(quality, "GROUPS", few)
    monkeypatch.setattr(quality, "SHOWN", (UNMARKED, CONTROL, "rings"))
    monkeypatch.setattr(quality_pictures, "GROUPS", few)
    done = CliRunner().invoke(quality.main, ["--quick", "-o", str(tmp_path)], catch_exceptions=False)
    assert done.exit_code == 0
    result = json.loads((tmp_path / "quality.json").read_text(encoding="utf-8"))
    assert quality_report.readme_table(result) in done.output
    assert list(result["groups"]) == [UNMARKED, CONTROL, "rings"]
    unmarked = result["groups"][UNMARKED]
    assert unmarked["frechet"]["contents"]["value"] == pytest.approx(0, abs=1e-6)
    assert unmarked["marked"] == {"bins": 0, "energy": 0}
    assert result["groups"]["rings"]["frechet"]["textures"]["p, Holm"] <= 1
    assert unmarked["diversity"]["pixels"]["value"] == 1
    assert (tmp_path / "quality.png").stat().st_size > 10_000
    monkeypatch.setattr(quality_pictures, "generated", None)
    again = CliRunner().invoke(quality.main, ["--quick", "-o", str(tmp_path)], catch_exceptions=False)
    assert again.exit_code == 0
    assert json.loads((tmp_path / "quality.json").read_text(encoding="utf-8"))["groups"] == result["groups"]


def test_what_the_networks_see(sapling):
    networks = quality_pictures.Networks.load()
    z = quality_pictures.generated(networks, UNMARKED, quality.QUICK, ["a rose"] * 2, range(2))
    seen = quality_pictures.contents(networks, z, range(2))
    assert seen.shape == (2, 192)
    torch.testing.assert_close(
        quality_pictures.contents(networks, z[1:], range(1, 2)), seen[1:], atol=0.1, rtol=0.1
    )
    flat = quality_pictures.textures(networks, torch.zeros_like(z), range(2))
    assert flat.shape == (2, quality_pictures.FILTERS + 3)
    torch.testing.assert_close(flat[0], flat[1])
    noisy, v = quality_pictures.noised(sapling, z, 300, range(2))
    share = sapling.scheduler.alphas_cumprod[300]
    torch.testing.assert_close(share.sqrt() * noisy - (1 - share).sqrt() * v, z)

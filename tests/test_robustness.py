"""What the benchmarks of robustness, detection and peers measure with."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from scipy import stats
from sklearn.metrics import roc_auc_score

from benchmarks import (
    detection,
    detection_report,
    null_images,
    peers,
    peers_report,
    rates,
    robustness,
    robustness_noise,
    robustness_report,
)
from benchmarks import robustness_pictures as pictures
from benchmarks import scores as scoring
from benchmarks.model_attacks import MODEL_ATTACKS
from inversion import LatentDiffusionModel
from inversion.anderson import anderson
from watermark.detection import angle_test, detect
from watermark.foreign import ArrayKey, detect_array
from watermark.transforms import plain_transforms, wide_transforms
from watermark.views import views

SHAPE = (4, 32, 32)


@pytest.fixture(scope="module")
def white():
    return np.random.default_rng(4).standard_normal((6, *SHAPE))


def normal(shift, n=200, m=100, keys=50, seed=0):
    """Scores of marked pictures that are lower than the others' by a shift, in standard deviations."""
    rng = np.random.default_rng(seed)
    others = rng.standard_normal((n, keys))
    null = rng.standard_normal((m, keys))
    return scoring.Scores(rng.standard_normal(n) - shift, null, np.arange(m), others, np.zeros((m, n)))


def test_pictures_carry_their_keys_and_share_the_rest_of_their_noise(sapling):
    both = [pictures.initial(sapling, kind, 3).double().numpy() for kind in pictures.MARKS]
    rings = pictures.initial(sapling, pictures.RINGS, 3).double().numpy()
    assert detect(rings, pictures.our_key(3, "rings")).p_value[0] < 1e-6
    np.testing.assert_allclose(rings[0, (1, 2)], both[0][0, (1, 2)], atol=1e-5)
    shared = [pictures.initial(sapling, kind, 3).double().numpy() for kind in pictures.ONE_KEY]
    plain = pictures.initial(sapling, "unmarked", 3).double().numpy()
    for (ours, theirs), number in ((both, 3), (shared, pictures.SHARED)):
        assert detect(ours, pictures.our_key(number)).p_value[0] < 1e-50
        key = pictures.their_key(number, SHAPE)
        assert detect_array(theirs, ArrayKey(key.values, key.mask)).p_value[0] < 1e-50
        assert detect_array(theirs, key).p_value[0] < 1e-6
        np.testing.assert_allclose(ours[0, (1, 2)], theirs[0, (1, 2)], atol=1e-5)
    assert detect(plain, pictures.our_key(3)).p_value[0] > 1e-3
    np.testing.assert_allclose(shared[1][0, :3], plain[0, :3], atol=1e-5)
    assert abs(np.corrcoef(both[1][0, :3].ravel(), plain[0, :3].ravel())[0, 1]) < 0.1


def test_scores_are_those_of_the_tests(white):
    numbers = [pictures.NOBODY, pictures.NOBODY + 1]
    ours, theirs = pictures.our_key(numbers[1]), pictures.their_key(numbers[1], SHAPE)
    every = (*scoring.EXACT, *scoring.TREE_RING, scoring.RAW)
    found = {test: scoring.misfits(test, white, numbers)[:, 1] for test in every}
    rings = pictures.our_key(numbers[1], "rings")
    np.testing.assert_allclose(found["rings"], detect(white, rings).p_value, rtol=1e-9)
    np.testing.assert_allclose(found["dense"], detect(white, ours).p_value, rtol=1e-9)
    each = [detect(view, ours).p_value for view in views(white, plain_transforms(SHAPE))]
    np.testing.assert_allclose(found["dense, searched"], np.minimum(1, 8 * np.min(each, axis=0)), rtol=1e-9)
    wide = wide_transforms(SHAPE)
    each = [detect(view, ours).p_value for view in views(white, wide)]
    np.testing.assert_allclose(
        found["dense, wide search"], np.minimum(1, len(wide) * np.min(each, axis=0)), rtol=1e-9
    )
    unknown = ArrayKey(theirs.values, theirs.mask)
    np.testing.assert_allclose(found["tree-ring, angle"], detect_array(white, unknown).p_value, rtol=1e-9)
    drawn = scoring.misfits(scoring.DRAWS, white, numbers)[:, 1]
    np.testing.assert_allclose(drawn, detect_array(white, theirs).p_value, rtol=1e-9)
    seen, target = np.fft.fft2(white)[:, theirs.mask], theirs.values[theirs.mask]
    np.testing.assert_allclose(found[scoring.RAW], np.abs(seen - target).mean(1))
    np.testing.assert_array_equal(found["tree-ring, L1"], found[scoring.RAW])
    y, k = (np.concatenate([a.real, a.imag], axis=-1) for a in (seen, target))
    variance = y.var(1, ddof=1)
    expected = stats.ncx2.cdf(((y - k) ** 2).sum(1) / variance, y.shape[1], (k**2).sum() / variance)
    np.testing.assert_allclose(found["tree-ring, chi-square"], expected, rtol=1e-6)


def test_every_picture_meets_its_own_key(white):
    own = [7, 3, 7, 5]
    s = scoring.scores("dense", white[:4], own, [white[4:], white[:2]], [100, 101, 102])
    np.testing.assert_allclose(
        s.own, [detect(white[i : i + 1], pictures.our_key(own[i])).p_value[0] for i in range(4)]
    )
    assert s.null.shape == (4, 3)
    assert s.units.tolist() == [0, 1, 0, 1]
    drawn = s.resampled()
    np.testing.assert_array_equal(drawn[:, :2], drawn[:, 2:])


def test_distances_are_standardised_for_every_key_by_the_same_negatives(white):
    own, nobody = [1, 2], range(100, 103)
    raw = scoring.scores(scoring.RAW, white[:2], own, [white[2:4], white[4:]], nobody)
    s = scoring.scores(scoring.L1, white[:2], own, [white[2:4], white[4:]], nobody)
    null = scoring.misfits(scoring.RAW, white[2:], [*own, *nobody])
    mean, spread = null.mean(0), null.std(0)
    np.testing.assert_allclose(s.own, (raw.own - mean[:2]) / spread[:2])
    np.testing.assert_allclose(s.null, ((null - mean) / spread)[:, 2:])
    np.testing.assert_allclose(s.other_keys, (raw.other_keys - mean[2:]) / spread[2:])
    some = scoring.standardised(raw, raw, raw.units == 0)
    np.testing.assert_allclose(some.null[[0, 2]].mean(0), 0, atol=1e-9)
    np.testing.assert_allclose(some.null[[0, 2]].std(0), 1)


def test_thresholds_are_reached_by_the_share_at_most():
    rng = np.random.default_rng(1)
    null = np.round(rng.standard_normal((40, 60)), 2)  # with ties
    weights, of_keys = (rng.multinomial(n, np.full(n, 1 / n), 5).astype(float) for n in (40, 60))
    levels = (0.02, 0.005)
    for with_key in (np.ones((5, 60)), of_keys):
        limits = scoring.thresholds(null, levels, weights, None if with_key is not of_keys else of_keys)
        for r, drawn in enumerate(weights):
            again = np.repeat(null, drawn.astype(int), axis=0)
            again = np.repeat(again, with_key[r].astype(int), axis=1).ravel()
            for level, limit in zip(levels, limits[:, r], strict=True):
                assert (again <= limit).mean() <= level
                larger = again[again > limit].min()
                assert (again <= larger).mean() > level
    assert scoring.thresholds(null[:1, :5], [0.01], np.ones((1, 1)))[0, 0] == -np.inf


def test_rates_and_areas_are_those_of_normal_scores():
    found = scoring.outcome(normal(1.5, n=2000, m=500, keys=200))
    for hits, shares, level in zip(found.hits, found.shares, scoring.LEVELS, strict=True):
        expected = stats.norm.cdf(stats.norm.ppf(level) + 1.5)
        assert hits.mean() == pytest.approx(expected, abs=4 * (expected / 2000) ** 0.5)
        assert shares.mean() == pytest.approx(hits.mean(), abs=0.01)
    assert found.area == pytest.approx(stats.norm.cdf(1.5 / 2**0.5), abs=0.02)
    s = normal(0.7, n=30, m=8, keys=5)
    truth = np.repeat([1, 0], [30, 40])
    assert scoring.outcome(s).area == pytest.approx(roc_auc_score(truth, -np.concatenate([s.own, s.null.ravel()])))
    points = scoring.curve(s)
    assert points["true"][-1] == 1
    assert all(np.diff(points["true"]) >= 0)


def test_intervals_of_areas_cover_the_truth_although_pairs_depend():
    truth, covered, widths = stats.norm.cdf(1 / 3**0.5), 0, []
    for seed in range(60):
        rng = np.random.default_rng([5, seed])
        pictures_own = rng.standard_normal((40, 1))  # what all keys see of a picture
        null = pictures_own + rng.standard_normal((40, 30))
        s = scoring.Scores(rng.standard_normal(40) - 1, null, np.arange(40), null, null)
        low, high = scoring.measure(scoring.outcome(s), nominal=False)["area"]["ci95"]
        covered += low <= truth <= high
        widths.append(high - low)
    assert covered >= 50
    assert np.median(widths) < 0.22


def pairs_of(seed, level, common, own):
    """Which pairs of a picture and one of 150 keys fit by chance, and the pictures' units, of which there are 40.

    ``common`` is the share of noise that all pictures have in common; with ``own`` a unit's pictures fit all keys
    more often than others', at the same rate on average.
    """
    rng = np.random.default_rng([6, seed])
    units = np.repeat(np.arange(40), rng.integers(1, 8, 40))
    y = common**0.5 * rng.standard_normal(100) + (1 - common) ** 0.5 * rng.standard_normal((len(units), 100))
    k = rng.standard_normal((150, 100))
    cosine = (y / np.linalg.norm(y, axis=1)[:, None]) @ (k / np.linalg.norm(k, axis=1)[:, None]).T
    of_unit = np.exp(own * rng.standard_normal(40) - own**2 / 2)[units, None]
    return angle_test(cosine, 100)[1] <= level * of_unit, units


@pytest.mark.parametrize(
    ("common", "own", "level"), [(0, 0, 0.01), (0.4, 0, 0.01), (0, 0.7, 0.01), (0.7, 0, 0.001)]
)
def test_intervals_of_false_positives_cover_the_level_whatever_pictures_share(common, own, level):
    covered, by_pictures_alone, without_units, widths = 0, 0, 0, []
    for seed in range(100):
        found, units = pairs_of(seed, level, common, own)
        low, high = rates.over_both(found, units)["ci95"]
        covered += low <= level <= high
        widths.append(np.log(high / low) if low else np.nan)
        low, high = rates.interval(found.mean(1)[:, None], units)[1][:, 0]
        by_pictures_alone += low <= level <= high
        low, high = rates.over_both(found, np.arange(len(units)))["ci95"]
        without_units += low <= level <= high
    assert covered >= 88
    assert by_pictures_alone < 60 or not common
    assert without_units < 80 or not own
    if common == own == 0:  # about as wide as so many independent hits ask for
        assert np.nanmedian(widths) < 1.25 * 4 / (level * 160 * 150) ** 0.5


def test_what_units_share_counts_once():
    rng = np.random.default_rng(1)
    found = rng.random((50, 300)) < 0.02
    once = rates.over_both(found, np.arange(50))["ci95"]
    twice = rates.over_both(np.repeat(found, 2, axis=0), np.repeat(np.arange(50), 2))["ci95"]
    assert twice == pytest.approx(once, rel=0.01)
    one_key = rates.over_both(found[:, :1], np.arange(50))
    assert one_key["ci95"] == rates.tidy(rates.interval(found[:, :1].astype(float), np.arange(50))[1][:, 0])


def test_intervals_of_nothing_and_of_everything_are_over_pictures():
    for value in (0, 1):
        found = np.full((40, 30), value, dtype=bool)
        _, both, _ = rates.interval(found.mean(1)[:, None], np.arange(40))
        assert rates.over_both(found, np.arange(40)) == {"rate": value, "ci95": rates.tidy(both[:, 0])}


def test_what_no_picture_shows_is_not_certain():
    cell = scoring.measure(scoring.outcome(normal(20, n=50)), nominal=True)
    assert cell["at rate"]["0.001"]["rate"] == 1
    assert cell["at rate"]["0.001"]["ci95"][0] < 0.95
    assert cell["at rate"]["0.01"]["other keys"] == pytest.approx(0.01, abs=0.006)
    assert cell["negatives"] == {"pictures": 100, "independent": 100, "keys": 50}
    assert cell["at rate"]["0.01"]["trials"] == 50
    assert scoring.measure(scoring.outcome(normal(1, m=4, keys=10)), nominal=False)["at rate"]["0.001"] is None


def test_p_of_ours_is_nominal_in_what_does_not_carry_the_keys(white):
    s = scoring.scores("dense", white[:1], [0], [white], range(pictures.NOBODY, pictures.NOBODY + 2000))
    assert (s.null <= 0.01).mean() == pytest.approx(0.01, abs=4 * (0.01 / s.null.size) ** 0.5)


def test_pairs_and_differences_know_their_sign():
    first, second = np.arange(20) < 12, np.arange(20) < 2
    assert scoring.paired(first, second) == {
        "first only": 10,
        "second only": 0,
        "McNemar p": pytest.approx(2**-9, rel=1e-3),
    }
    better, worse = scoring.outcome(normal(2)), scoring.outcome(normal(1))
    gap = scoring.difference(better.shares[0], worse.shares[0], float(better.hits[0].mean() - worse.hits[0].mean()))
    assert gap["ci95"][0] > 0
    assert gap["difference"] > 0.1
    assert gap["p"] < 0.01
    assert scoring.difference(worse.shares[0], worse.shares[0], 0.0)["p"] == 1


def test_who_averages_does_not_see_what_is_attacked(sapling, monkeypatch):
    seen = (
        torch.linspace(-0.5, 0.5, 4 * 3 * 16).reshape(4, 3, 4, 4).repeat_interleave(4, -1).repeat_interleave(4, -2)
    )
    images = {
        "unmarked": robustness_noise.to_images(seen),
        "dense, one key": robustness_noise.to_images(seen.flip(0) + 0.25),
    }
    found = robustness_noise.averaged(sapling, images, "dense, one key", "averaging, pixels")
    marked, unmarked, out = (
        robustness_noise.as_pixels(a) for a in (images["dense, one key"], images["unmarked"], found)
    )
    expected = marked[2] - (marked[[1, 3]].mean(0) - unmarked[0])
    torch.testing.assert_close(out[2], expected.clamp(-1, 1), rtol=0, atol=0.01)
    forged = robustness_noise.as_pixels(
        robustness_noise.averaged(sapling, images, "dense, one key", "forgery, pixels")
    )
    plain = robustness_noise.averaged(sapling, images, "unmarked, as dense, one key", "averaging, pixels")
    expected = unmarked[2] - (marked[[1, 3]].mean(0) - unmarked[0])
    torch.testing.assert_close(robustness_noise.as_pixels(plain)[2], expected.clamp(-1, 1), rtol=0, atol=0.01)
    expected = unmarked[2] + (marked[[1, 3]].mean(0) - unmarked[0])
    torch.testing.assert_close(forged[2], expected.clamp(-1, 1), rtol=0, atol=0.01)


def test_every_condition_is_an_attack_that_exists():
    known = {
        "clean",
        *robustness_noise.ATTACKS,
        *MODEL_ATTACKS,
        *robustness_noise.REMOVAL,
        *robustness_noise.FORGERY,
    }
    assert set(robustness.FULL.conditions) <= known
    assert len(set(robustness.FULL.conditions)) == len(robustness.FULL.conditions) > 30
    assert set(robustness_report.PUBLISHED) <= set(robustness.FULL.conditions)
    assert robustness.FULL.pictures >= 100


def test_quick_runs_share_noise_resume_and_report(tmp_path, monkeypatch):
    def run(benchmark, report):
        name = benchmark.__name__.rsplit(".", 1)[-1]
        arguments = ["--quick", "--dtype", "fp32", "-o", str(tmp_path)]
        done = CliRunner().invoke(benchmark.main, arguments, catch_exceptions=False)
        assert done.exit_code == 0
        result = json.loads((tmp_path / f"{name}.json").read_text(encoding="utf-8"))
        assert report.readme_table(result) in done.output
        assert (tmp_path / f"{name}.png").exists()
        assert result["environment"]["torch"] == torch.__version__
        return result

    monkeypatch.setattr(
        robustness, "QUICK", few := replace(robustness.QUICK, steps=2, decoder_steps=1, published_steps=1)
    )
    monkeypatch.setattr(detection, "QUICK", few)
    monkeypatch.setattr(scoring, "wide_transforms", lambda shape: wide_transforms(shape)[::20])
    monkeypatch.setattr(peers, "QUICK", few)
    first = run(robustness, robustness_report)
    for recovery in robustness.RECOVERIES:
        cell = first["cells"]["JPEG 25"][recovery]["dense"]["at p"]["0.001"]
        assert (cell["hits"], cell["trials"]) == (2, 2)
        assert first["forgeries"]["forgery from pairs, latents"][recovery]["dense"]["0.01"]["trials"] == 2
    both = run(detection, detection_report)
    assert both["cells"]["encoder"]["dense"]["area"]["value"] > 0.99
    assert set(both["curves"]) == set(detection.RECOVERIES)
    assert both["weak"]["dense, ρ = 0.25"]["encoder"]["0.01"]["trials"] == 2
    assert len(both["gain"]) == (len(detection.TESTS) + len(pictures.WEAK)) * (len(detection.RECOVERIES) - 1)
    assert detection.PRIMARY in both["gain"]
    assert "McNemar p, Holm" not in both["gain"][detection.PRIMARY]
    (file,) = tmp_path.glob("detection-*.npz")
    with np.load(file) as new:
        published = {(k, "clean", how) for k in pictures.KINDS for how in robustness_noise.PUBLISHED}
        cells = published | {(k, "clean", how) for k in ("rings", *pictures.WEAK) for how in detection.RECOVERIES}
        assert set(new) == set(map(robustness_noise.name_of, cells))

    def never(*_):
        raise AssertionError("this noise is there")

    monkeypatch.setattr(robustness_noise, "recover", never)
    monkeypatch.setattr(robustness_noise, "pictures", never)
    assert run(robustness, robustness_report) == first
    rules = run(peers, peers_report)
    assert set(rules["power"]["rules"]) == {f"{t} | {r}" for t in peers.TESTS for r in peers.RECOVERIES}
    assert len(rules["power"]["pairs"]) == len(peers.PAIRS)
    assert "tree-ring, raw L1 | encoder | L1 ≤ 50 · 32/64" in rules["rules"]
    assert rules["rules"][f"tree-ring, angle | {peers.OURS} | counted on null images, p ≤ 0.01"]["clean"]["false"]


def test_p_is_counted_on_the_null_images_of_the_same_key():
    rng = np.random.default_rng(0)
    fits = {"own": (3,), "null": (6, 4), "other_keys": (3, 4), "null_of_own": (6, 3)}
    s = scoring.Scores(**{name: rng.integers(1, 9, shape) / 9 for name, shape in fits.items()}, units=np.arange(6))
    others, own = rng.integers(1, 9, (50, 4)) / 9, rng.integers(1, 9, (50, 3)) / 9
    told = peers.counted(s, (others, own))
    for i, k in np.ndindex(6, 4):
        assert told.null[i, k] == (1 + (others[:, k] <= s.null[i, k]).sum()) / 51
    for i in range(3):
        assert told.own[i] == (1 + (own[:, i] <= s.own[i]).sum()) / 51
    assert told.other_keys.shape == (3, 4)
    assert told.null_of_own.shape == (6, 3)


def test_unmarked_pictures_meet_the_removal_that_marked_ones_do():
    """Of either mark: what is taken from pictures that carry it is taken from pictures that do not."""
    rng, kinds = np.random.default_rng(0), robustness_noise.kinds_of(robustness_noise.REMOVAL[0])
    meet = [robustness_noise.UNMARKED_AS.get(kind, kind) for kind in kinds]
    assert sorted(meet) == sorted(2 * pictures.ONE_KEY)
    noise = {
        (kind, robustness_noise.REMOVAL[0], "encoder"): rng.standard_normal((3, *SHAPE)).astype(np.float16)
        for kind in kinds
    }
    s = robustness.scores_of(noise, "tree-ring, angle", robustness_noise.REMOVAL[0], "encoder", 5)
    own = noise["unmarked, as tree-ring, one key", robustness_noise.REMOVAL[0], "encoder"]
    theirs = scoring.misfits("tree-ring, angle", own, range(pictures.NOBODY, pictures.NOBODY + 5))
    np.testing.assert_allclose(s.null, theirs)
    assert s.other_keys.shape == (3, 5)


def test_null_images_with_the_noise_of_a_negative_are_left_out():
    families = ["unmarked", "photographs"] * 40
    left_out = peers.twins(families, pictures=5)
    model = LatentDiffusionModel.load("sapling")
    noise = [
        null_images.initial_noise(model, None, 10**6 + i) for i in range(40)
    ]  # as benchmarks.null_images.generated has it
    negatives = [pictures.initial(model, "unmarked", i) for i in range(5)]
    shared = [any(torch.equal(z, other) for other in negatives) for z in noise]
    assert left_out.tolist() == [twin for each in shared for twin in (each, False)]


def test_settings_name_all_that_noise_depends_on(monkeypatch):
    from benchmarks.kept import decoder_inversion

    model = LatentDiffusionModel.load("sapling")
    usual = robustness.FULL.settings(model)
    assert usual["diffusion inversion"] == "midpoint, 10 steps"
    monkeypatch.setattr(pictures, "STRENGTH", 0.3)
    assert robustness.FULL.settings(model) != usual
    for method in ("anderson", "shrinkage"):
        before = decoder_inversion(method)
        monkeypatch.setitem(anderson.__kwdefaults__, "memory", 2)
        assert decoder_inversion(method) != before
        monkeypatch.undo()


def test_runs_with_other_settings_keep_apart(tmp_path):
    from benchmarks.kept import described, keep, kept, kept_file

    one, other = (kept_file(tmp_path, "noise", {"steps": n, "weights": "x"}) for n in (1, 2))
    keep(one, {"a": np.ones(3)})
    keep(other, {"a": np.zeros(3)})
    assert kept(one)["a"].sum() == 3
    assert kept(tmp_path / "none.npz") == {}
    assert len(list(tmp_path.iterdir())) == 2
    assert described(robustness_noise.ATTACKS["JPEG 25"]) == "compress(quality=25)"
    assert described(robustness_noise.ATTACKS["mirrored"]) == "mirror()"
    assert described(MODEL_ATTACKS["regeneration 0.1"]) == "regenerate(rounds=1, steps=50, strength=0.1)"

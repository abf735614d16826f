import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats

from inversion.fingerprint import fingerprint, same_model
from watermark import Pattern, RingKey, nulls
from watermark.calibration import Calibration, CalibrationError, Settings, false_positives
from watermark.family import Family
from watermark.rings import rings_for
from watermark.transforms import IDENTITY

SHAPE = (4, 32, 32)
SETTINGS = Settings("toy", SHAPE, 10, "encoder", "midpoint", "0123")
KINDS = ("rings", "dense", "levels")


def coloured(count, seed=0, tilt=1.0):
    """Gaussian noise whose spectrum falls with the radius, of a scale of its own for every image."""
    rng = np.random.default_rng(seed)
    f = np.hypot(np.fft.fftfreq(32)[:, None], np.fft.fftfreq(32)[None, :]) * 32
    z = np.fft.ifft2(np.fft.fft2(rng.standard_normal((count, *SHAPE))) / (1 + f) ** tilt).real
    return (z / z.std((1, 2, 3), keepdims=True) * rng.uniform(0.7, 1.3, (count, 1, 1, 1))).astype(np.float16)


def calibration(count=400, sources=(), **settings):
    families = tuple("unmarked" if i % 4 else "photographs" for i in range(count))
    return Calibration(SETTINGS, np.ones(8, dtype=np.float32), coloured(count, **settings), families, sources)


def null_p_values(made, key):
    return Family({"key": key}, IDENTITY, SHAPE, 1e-6, made).null_p_values("key")


@pytest.mark.parametrize("kind", ["rings", "dense"])
def test_whitening_is_the_spectrum(kind):
    made = calibration(2000).whitening(Pattern(kind))
    expected = 1 / (1 + np.array(rings_for(SHAPE).radii, dtype=float))
    assert made.shape == (2, 8)
    np.testing.assert_allclose(
        made / made[:, :1], np.tile(expected / expected[0], (2, 1)), rtol=0.12 if kind == "dense" else 0.25
    )


@pytest.mark.parametrize("kind", KINDS)
def test_null_p_values_of_one_key_are_uniform_where_unwhitened_ones_are_not(kind):
    """One long-lived key on 2,000 images whose spectrum is far from white."""
    from watermark import detect

    made, worst = calibration(2000, tilt=1.5), 1.0
    for i in range(4):
        key = RingKey(bytes([i]) * 32, Pattern(kind))
        p = null_p_values(made, key)
        if kind == "levels":
            assert stats.binomtest(int((p <= 0.05).sum()), len(p), 0.05, "greater").pvalue > 1e-3
        else:
            assert stats.kstest(p, "uniform").pvalue > 1e-4
        worst = min(worst, stats.kstest(detect(made.noise.astype(float), key).p_value, "uniform").pvalue)
    if kind != "levels":
        assert worst < (1e-6 if kind == "rings" else 0.02)


def test_rates_have_the_bound_of_clopper_and_pearson():
    made, key = calibration(500), RingKey(bytes(32), Pattern("dense"))
    p = null_p_values(made, key)
    for level in (0.5, 0.05, 1e-9):
        rate = false_positives(p, level)
        assert (rate.hits, rate.images) == ((p <= level).sum(), 500)
        assert rate.bound == pytest.approx(stats.binomtest(rate.hits, 500).proportion_ci(0.9, "exact").high)
    assert false_positives(p, 1e-9).bound == pytest.approx(made.smallest_level)
    assert made.smallest_level == pytest.approx(3 / 500, rel=0.01)
    assert false_positives(p, 1.0).bound == 1.0
    assert made.counts == {"photographs": 125, "unmarked": 375}


@pytest.mark.parametrize("sources", [(), tuple(f"seed {i}" for i in range(10))])
def test_it_is_what_it_was_after_a_file(tmp_path, sources):
    made = calibration(10, sources)
    calibration(2).save(tmp_path / "c.safetensors")
    made.save(tmp_path / "c.safetensors")
    read = Calibration.load(tmp_path / "c.safetensors")
    assert read.settings == made.settings
    assert read.families == made.families
    assert read.sources == sources
    assert [file.name for file in tmp_path.iterdir()] == ["c.safetensors"]
    assert np.array_equal(read.noise, made.noise)
    assert np.array_equal(read.fingerprint, made.fingerprint)


@pytest.mark.parametrize("sources", [(), ("seed 0", "seed 1")])
def test_damaged_files_are_refused(tmp_path, sources):
    file = tmp_path / "c.safetensors"
    calibration(2, sources).save(file)
    whole = file.read_bytes()
    rng = np.random.default_rng(0)
    for i in [*range(0, 700, 7), *rng.integers(0, len(whole), 100)]:
        file.write_bytes(whole[:i] + bytes([whole[i] ^ 1]) + whole[i + 1 :])
        with pytest.raises(CalibrationError):
            Calibration.load(file)
    for cut in (0, 5, 200, len(whole) - 1):
        file.write_bytes(whole[:cut])
        with pytest.raises(CalibrationError):
            Calibration.load(file)
    newer = whole.replace(b'"version":"1"', b'"version":"2"')
    assert newer != whole
    file.write_bytes(newer)
    with pytest.raises(CalibrationError, match="newer"):
        Calibration.load(file)
    with pytest.raises(OSError, match="none"):
        Calibration.load(tmp_path / "none.safetensors")


def test_it_fits_only_what_it_was_made_for():
    made = calibration(2)
    made.check(replace(SETTINGS, model="renamed"), made.fingerprint)
    for other, word in (
        (replace(SETTINGS, steps=50), "steps 10, not 50"),
        (replace(SETTINGS, decoder="anderson"), "decoder encoder"),
        (replace(SETTINGS, latent_shape=(4, 64, 64)), "latent_shape"),
    ):
        with pytest.raises(CalibrationError, match=word):
            made.check(other, made.fingerprint)
    with pytest.raises(CalibrationError, match="another model, 'toy'"):
        made.check(SETTINGS, -made.fingerprint)


def test_parts_that_do_not_fit_are_refused():
    one = np.ones(8, dtype=np.float32)
    with pytest.raises(CalibrationError, match="at least 2"):
        Calibration(SETTINGS, one, coloured(1), ("a",))
    with pytest.raises(CalibrationError, match="does not fit"):
        Calibration(SETTINGS, one, coloured(3), ("a", "b"))
    with pytest.raises(CalibrationError, match="1 sources"):
        Calibration(SETTINGS, one, coloured(2), ("a", "b"), ("one",))
    with pytest.raises(CalibrationError, match="more than once, such as 'one'"):
        Calibration(SETTINGS, one, coloured(4), ("a",) * 4, ("one", "", "", "one"))
    with pytest.raises(CalibrationError, match="finite"):
        Calibration(SETTINGS, one * np.nan, coloured(2), ("a", "b"))


def test_fingerprints_know_a_model_in_any_precision(sapling):
    from inversion import LatentDiffusionModel
    from tests.problems import gaussian_model, tiny_pipeline

    own = fingerprint(sapling)
    assert same_model(fingerprint(sapling), own)
    assert same_model(fingerprint(LatentDiffusionModel.load("sapling", dtype="bf16")), own)
    with_other_unet = replace(sapling, network=lambda z, t, c: sapling.network(z, t, c) + 0.2 * z)
    assert not same_model(fingerprint(with_other_unet), own)
    for other in (gaussian_model(), LatentDiffusionModel.from_pipeline(tiny_pipeline())):
        assert not same_model(fingerprint(other), own)
    json.dumps(own.tolist())


def made_of(noise, families=None):
    return Calibration(SETTINGS, np.ones(8, dtype=np.float32), noise, families or ("n",) * len(noise))


def test_halves_share_no_image_and_hold_all_of_them():
    for count in (2, 3, 4, 5, 8, 9):
        halves = list(made_of(coloured(count)).halves())
        for own, other in halves:
            assert len(own)
            assert len(other)
            assert sorted([*own, *other]) == list(range(count))
        assert sorted(np.concatenate([own for own, _ in halves])) == list(range(count))
    families = ("unmarked", "another key") * 4
    for own, _ in made_of(coloured(8), families).halves():
        assert {families[i] for i in own} == set(families)


@pytest.mark.parametrize("what", [{"schedule": "4567"}, {"diffusion": "implicit"}])
def test_a_calibration_of_another_way_to_the_noise_does_not_fit(what):
    with pytest.raises(CalibrationError, match=next(iter(what))):
        made_of(coloured(2)).check(replace(SETTINGS, **what), np.ones(8, dtype=np.float32))


def test_no_null_image_decides_the_whitening_by_being_loud():
    noise = coloured(20)
    louder = noise.copy()
    louder[0] *= 50
    found = made_of(louder).whitening(Pattern())
    np.testing.assert_allclose(found, made_of(noise).whitening(Pattern()), rtol=1e-2)


def test_null_noise_is_finite():
    noise = coloured(2)
    noise[1, 0, 0, 0] = np.nan
    with pytest.raises(CalibrationError, match="finite"):
        made_of(noise)


@pytest.mark.parametrize("hits", [0, 1, 7, 250])
def test_both_ends_of_a_rate_are_at_95_percent(hits):
    found = false_positives(np.r_[np.zeros(hits), np.ones(500 - hits)], 0.5)
    interval = stats.binomtest(hits, 500).proportion_ci(0.9, "exact")
    assert found.least == pytest.approx(interval.low)
    assert found.bound == pytest.approx(interval.high)


def test_null_images_whose_noise_16_bits_cannot_hold_are_left_out(monkeypatch):
    z = torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(0))
    z[1, 0, 0, 0] = 1e6
    verifier = SimpleNamespace(model=SimpleNamespace(latent_shape=SHAPE), settings=SETTINGS)
    verifier.examine = lambda images: (SimpleNamespace(noise=a) for a, _ in zip(z, images, strict=True))
    monkeypatch.setattr(nulls, "fingerprint", lambda model: np.ones(8, dtype=np.float32))
    found = nulls.calibrate(verifier, [nulls.Null(str(i), "x", f"s{i}") for i in range(3)])
    assert (found.families, found.sources) == (("0", "2"), ("s0", "s2"))


def test_generated_null_images_carry_keys_of_both_kinds(monkeypatch):
    kinds = []

    def generate(*others, key, **options):
        kinds.append(key and key.pattern.kind)
        return [SimpleNamespace(image=None)]

    monkeypatch.setattr(nulls, "generate", generate)
    list(nulls.generated_nulls(SimpleNamespace(name="toy"), ["a"], 4, seed=0))
    assert kinds == [None, "dense", None, "rings"]

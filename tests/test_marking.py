"""Marks in pictures that exist: on a linear model, where the smallest change is known."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from inversion import invert_diffusion
from tests.problems import gaussian_model
from watermark import Pattern, RingKey, Verifier, detect
from watermark.marking.attempts import Attempt, judge
from watermark.marking.changes import carried, changed, climbed, correlation
from watermark.marking.mark import mark
from watermark.similarity import psnr, ssim

NOISE = torch.randn(2, 4, 32, 32, generator=torch.Generator().manual_seed(1))
KEY = RingKey(bytes(range(32)))


@pytest.fixture(scope="module")
def model():
    return gaussian_model()


@pytest.fixture(scope="module")
def verifier(model):
    return Verifier(model, {"alice": KEY}, batch_size=2)


def picture(seed, height=64, width=64):
    rng = np.random.default_rng(seed)
    return rng.integers(64, 192, (height, width, 3), dtype=np.uint8)


def test_psnr_is_that_of_its_formula():
    a = np.full((16, 16, 3), 100, np.uint8)
    assert psnr(a, a) == math.inf
    assert psnr(a, a + 1) == pytest.approx(48.1308, abs=1e-4)
    assert psnr(a, a - 10) == pytest.approx(28.1308, abs=1e-4)


def test_large_pictures_are_compared_by_strips(monkeypatch):
    a, b = picture(1, 50, 64), picture(2, 50, 64)
    whole = psnr(a, b), ssim(a, b)
    for pixels in (1, 64 * 7, 64 * 40):
        monkeypatch.setattr("watermark.similarity.STRIP", pixels)
        assert (psnr(a, b), ssim(a, b)) == pytest.approx(whole, rel=1e-12)


def test_ssim_is_that_of_another_implementation():
    metrics = pytest.importorskip("skimage.metrics")
    a, b = picture(1), picture(2)
    soft = ((a.astype(int) * 3 + b) // 4).astype(np.uint8)
    for other in (a, b, soft, np.roll(a, 1, 0)):
        expected = metrics.structural_similarity(
            a, other, channel_axis=2, gaussian_weights=True, use_sample_covariance=False, data_range=255
        )
        assert ssim(a, other) == pytest.approx(expected, abs=1e-6)
    assert ssim(a, a) == pytest.approx(1)
    with pytest.raises(ValueError, match="11 × 11"):
        ssim(a, a[:10])


@pytest.mark.parametrize("kind", ["dense", "rings", "levels"])
def test_correlation_is_the_rho_of_detection(kind):
    key = RingKey(KEY.secret, Pattern(kind))
    np.testing.assert_allclose(correlation(NOISE, key).numpy(), detect(NOISE, key).rho, atol=1e-6)


def test_both_ways_raise_rho_by_what_is_wanted(model):
    z = NOISE * 0.5**0.5
    noise = invert_diffusion(model, z, steps=10).value
    wanted = torch.tensor([0.02, 0.05])[:, None, None, None]
    before = correlation(noise, KEY)
    ways = ((climbed(model, z, KEY, wanted, 10), 0.05), (carried(model, noise, KEY, wanted, 10), 0.2))
    for change, off in ways:  # sampling is of first order, inversion of second
        risen = correlation(invert_diffusion(model, z + change, steps=10).value, KEY) - before
        assert risen.tolist() == pytest.approx([0.02, 0.05], rel=off)


def test_changes_are_rounded_clipped_and_enlarged_around_the_centre():
    flat = np.full((64, 64, 3), 250, np.uint8)
    change = torch.zeros(3, 64, 64)
    change[0], change[1] = 0.5, -0.1
    out = changed(flat, change, (64, 64))
    assert out[0, 0].tolist() == [255, 237, 250]
    large = changed(np.full((128, 200, 3), 100, np.uint8), torch.full((3, 64, 64), 10 / 127.5), (64, 64))
    assert large.shape == (128, 200, 3)
    assert (large[:, 36:164] == 110).all()
    assert (large[:, :36] == 100).all()
    assert (large[:, 164:] == 100).all()


@pytest.mark.parametrize("method", ["gradient", "sampling"])
def test_a_mark_costs_no_more_than_the_smallest_change(verifier, method):
    """All latents are alike to this model: the least change adds the key, at tan arcsin ρ times the marked bins."""
    pixels = [picture(3), picture(4), picture(5)]
    done = []
    found = mark(verifier, pixels, strength=0.4, method=method, progress=lambda *now: done.append(now))
    assert done == [(1, 3), (2, 3), (3, 3)]
    share = 656 / 4096
    for one, original in zip(found, pixels, strict=True):
        (again,) = verifier.verify([Image.fromarray(one.pixels)])
        assert one.holds
        assert one.verdict.p_value == pytest.approx(again.p_value, rel=1e-6, abs=0)
        assert one.verdict.rho == pytest.approx(0.4, abs=0.03)
        latent_energy = 4 * 32 * 32 * (np.var(original) / 127.5**2)
        least = (math.tan(math.asin(0.4)) ** 2) * share * latent_energy / (3 * 64 * 64) * 127.5**2
        assert one.psnr == pytest.approx(10 * math.log10(255**2 / least), abs=1.2)
        assert not one.at_bound
        assert one.psnr == psnr(original, one.pixels)
        assert one.ssim == ssim(original, one.pixels)


def test_changes_that_rounding_wipes_out_are_made_larger(verifier):
    """A picture of so little contrast that ρ = 0.2 takes less than half a level of 8 bits everywhere."""
    faint = np.rint(128 + (picture(3) - 128.0) / 25).astype(np.uint8)
    (found,) = mark(verifier, [faint], strength=0.2)
    assert found.holds
    assert found.rounds > 2
    assert found.verdict.rho == pytest.approx(0.2, abs=0.03)


def test_a_bound_on_psnr_is_kept_and_the_mark_refused(verifier):
    (found,) = mark(verifier, [picture(3)], strength=0.5, min_psnr=45)
    assert not found.holds
    assert found.at_bound
    assert 45 <= found.psnr < 46
    assert found.verdict.status == "not_detected"
    assert 0.02 < found.verdict.rho < 0.3


def test_larger_pictures_keep_their_size_and_what_is_not_looked_at(verifier):
    rng = np.random.default_rng(6)
    original = np.asarray(Image.fromarray(picture(7, 24, 40)).resize((200, 120), Image.Resampling.BICUBIC))
    original = (original * 0.9 + rng.integers(0, 25, original.shape)).astype(np.uint8)
    (found,) = mark(verifier, [original], strength=0.4)
    assert found.holds
    assert found.pixels.shape == (120, 200, 3)
    assert (found.pixels[:, :40] == original[:, :40]).all()
    assert (found.pixels[:, 160:] == original[:, 160:]).all()
    assert found.psnr > 30


def test_a_marked_picture_is_left_alone_and_a_flat_one_is_not_marked(verifier):
    (once,) = mark(verifier, [picture(3)])
    again, flat = mark(verifier, [once.pixels, np.full((64, 64, 3), 9, np.uint8)])
    assert again.psnr == math.inf
    assert again.holds
    assert again.rounds == 0
    assert not flat.holds
    assert flat.verdict.status == "inconclusive"
    assert flat.verdict.reason.startswith("flat")


def test_keys_of_rings_are_written_too(model):
    verifier = Verifier(model, {"rings": RingKey(KEY.secret, Pattern("rings"))}, fpr=1e-4)
    (found,) = mark(verifier, [picture(3)], strength=0.5)
    assert found.holds
    assert found.verdict.rho == pytest.approx(0.5, abs=0.03)


def test_what_cannot_be_marked_is_refused(model, verifier):
    for wrong, message in (
        ({"strength": 0.0}, "strength"),
        ({"strength": 1.0}, "strength"),
        ({"strength": math.nan}, "strength"),
        ({"min_psnr": math.nan}, "min_psnr"),
        ({"method": "magic"}, "method must be one of"),
        ({"rounds": 0}, "rounds"),
    ):
        with pytest.raises(ValueError, match=message):
            mark(verifier, [picture(3)], **wrong)
    zeros = Verifier(model, {"zeros": RingKey(KEY.secret, Pattern("zeros"))})
    with pytest.raises(ValueError, match="no values to write"):
        mark(zeros, [picture(3)])
    with pytest.raises(ValueError, match="exactly one key"):
        mark(Verifier(model, {"a": KEY, "b": RingKey(bytes(32))}), [picture(3)])
    for wrong in (picture(3)[..., 0], picture(3).astype(float)):
        with pytest.raises(ValueError, match="uint8"):
            mark(verifier, [wrong])


def test_the_default_type_and_device_do_not_matter(verifier, monkeypatch):
    (plain,) = mark(verifier, [picture(3)], rounds=1)
    made = []
    monkeypatch.setattr(torch, "zeros", lambda *a, zeros=torch.zeros, **k: made.append(k) or zeros(*a, **k))
    torch.set_default_dtype(torch.bfloat16)
    try:
        (other,) = mark(verifier, [picture(3)], rounds=1)
    finally:
        torch.set_default_dtype(torch.float32)
    assert np.array_equal(other.pixels, plain.pixels)
    assert {"dtype": torch.float32, "device": "cpu"} in made


def attempt(model, rho=0.0):
    pixels, blank = picture(1), torch.zeros(3, 64, 64)
    return Attempt(pixels, model.image_size, pixels, blank, blank, blank, rho, rho, step=torch.ones(3, 64, 64))


def test_steps_that_miss_are_tried_again_in_part(model):
    tried, blank = picture(2), torch.zeros(3, 64, 64)
    far = attempt(model)
    judge(far, 1.0, tried, False, blank, blank, 0.8, 0.4)
    assert float(far.step.mean()) == pytest.approx(0.5)
    assert far.pixels is tried  # if no other is tried, this one holds
    assert (far.rho, float(far.change.sum()), far.done) == (0.0, 0.0, False)
    judge(far, 1.0, weak := picture(8), False, blank, blank, 0.02, 0.4)
    assert far.rho == 0.02  # steps go on from here
    assert far.pixels is tried
    assert far.pixels is not weak
    none = attempt(model)
    judge(none, 0.0, weak, True, blank, blank, 0.0, 0.4)
    assert none.done
    assert none.pixels is none.original
    lost = attempt(model, rho=0.1)
    judge(lost, 1.0, tried, False, blank, blank, 0.05, 0.4)
    assert float(lost.step.mean()) == pytest.approx(0.25)
    assert lost.pixels is lost.original
    wiped = replace(attempt(model), step=torch.full((3, 64, 64), 0.2 / 127.5))
    judge(wiped, 1.0, wiped.original, False, blank, blank, 0.0, 0.4)
    assert float(wiped.step.mean()) == pytest.approx(0.4 / 127.5)  # so little is lost when it is rounded to 8 bits
    short = attempt(model)
    judge(short, 0.5, tried, False, blank, blank, 0.2, 0.4)
    assert float(short.change.mean()) == pytest.approx(0.5)
    assert (short.step, short.rho, short.gain, short.done) == (None, 0.2, 0.5, False)
    for at_bound, rho in ((True, 0.2), (False, 0.395)):
        last = attempt(model)
        judge(last, 1.0, tried, at_bound, blank, blank, rho, 0.4)
        assert last.done


def test_a_picture_whose_latents_overflow_is_left_alone(model, verifier, monkeypatch):
    from watermark import verify
    from watermark.marking import attempts

    honest = verify.invert_decoder

    def overflowing(autoencoder, x, **kwargs):
        found = honest(autoencoder, x, **kwargs)
        found.value[: len(x) - 1] = math.inf  # the first of two
        return found

    monkeypatch.setattr(verify, "invert_decoder", overflowing)
    lost, fine = attempts.attempted(verifier, KEY, [picture(3), picture(4)], 0.3, 30.0, "gradient", 3)
    assert lost.done
    assert lost.pixels is lost.original
    assert fine.found > 0.28


def test_the_pull_back_is_the_same_in_chunks(model):
    z = NOISE * 0.5**0.5
    wanted = torch.tensor([0.02, 0.05])[:, None, None, None]
    together, apart = (climbed(model, z, KEY, wanted, 5, size) for size in (2, 1))
    torch.testing.assert_close(together, apart)

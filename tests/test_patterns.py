"""Patterns other than the default, from the key to the verdict of the test."""

import itertools

import numpy as np
import pytest
import torch
from scipy import stats

from watermark import Pattern, RingKey, detect, watermarked_noise
from watermark.detection import MOST_SIGNS, angle_test, sign_test
from watermark.features import groups, key_spectrum, key_vector, noise_vector
from watermark.keys import KINDS
from watermark.rings import rings_for

SHAPE = (4, 32, 32)
KEYED = [kind for kind in KINDS if kind != "zeros"]
PATTERNS = [
    *(Pattern(kind) for kind in KINDS),
    Pattern("dense", channels=(3, 1), inner=1, outer=9),
    Pattern("rings", channels=(0,), inner=2, outer=12),
    Pattern("levels", channels=(0, 1, 2, 3)),
]
SHAPES = [(2, 4, 32, 32), (2, 4, 24, 40), (2, 4, 5, 32, 32), (2, 4, 17, 23)]


def white(count, seed=0, shape=SHAPE, scale=1.0):
    return scale * np.random.default_rng(seed).standard_normal((count, *shape))


def coloured(count=1, shape=SHAPE):
    f = np.hypot(np.fft.fftfreq(shape[-2])[:, None], np.fft.fftfreq(shape[-1])[None, :]) + 0.02
    return np.fft.ifft2(np.fft.fft2(white(count, shape=shape)) / f**2).real


def key(pattern, number=1):
    return RingKey(number.to_bytes(32, "big"), pattern)


def fits(pattern, shape):
    return pattern.outer is None or pattern.outer < min(shape[-2:]) / 2


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("strength", [0.6, 1.0])
def test_noise_is_exactly_real_and_has_the_pattern(pattern, shape, strength):
    if not fits(pattern, shape):
        pytest.skip("the pattern is larger than the latent")
    n = np.sqrt(shape[-1] * shape[-2])
    g = [torch.Generator().manual_seed(5) for _ in range(2)]
    plain = torch.fft.fft2(torch.randn(shape, generator=g[0], dtype=torch.float64)).numpy()
    noise = watermarked_noise(key(pattern), shape, strength=strength, generator=g[1], dtype=torch.float64)
    ours, rings = torch.fft.fft2(noise).numpy(), rings_for(shape, pattern)
    marked = rings.index >= 0
    assert not marked[0, 0]
    for channel in range(4):
        if channel not in rings.channels:
            np.testing.assert_allclose(ours[:, channel], plain[:, channel], atol=1e-9 * n)
            continue
        values = key_spectrum(key(pattern), shape)[rings.channels.index(channel)]
        expected = strength * n * values + np.sqrt(1 - strength**2) * plain[:, channel]
        np.testing.assert_allclose(ours[:, channel][..., marked], expected[..., marked], atol=1e-9 * n)
        np.testing.assert_allclose(ours[:, channel][..., ~marked], plain[:, channel][..., ~marked], atol=1e-9 * n)


@pytest.mark.parametrize("pattern", [p for p in PATTERNS if p.kind != "zeros"])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_vector_of_a_pure_mark_is_that_of_its_key(pattern, shape):
    if not fits(pattern, shape):
        pytest.skip("the pattern is larger than the latent")
    rings, k = rings_for(shape, pattern), key_vector(key(pattern), shape)
    spectrum = np.zeros((*shape[:-2], *rings.index.shape), dtype=complex)
    for channel, values in zip(rings.channels, key_spectrum(key(pattern), shape), strict=True):
        spectrum[:, channel] = values
    y, energy = noise_vector(np.fft.ifft2(spectrum).real * np.sqrt(shape[-1] * shape[-2]), pattern)
    frames = shape[2] if len(shape) == 5 else 1
    np.testing.assert_allclose(y, np.sqrt(frames) * np.stack([k, k]), atol=1e-9)
    marked = len(rings.channels) * rings.bins.sum()
    np.testing.assert_allclose(energy, frames * marked)
    assert k @ k == pytest.approx(marked)
    assert len(groups(shape, pattern)) == len(k)
    assert set(groups(shape, pattern)) == set(range(rings.count))


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("shape", SHAPES[:3])
def test_white_noise_has_independent_coordinates_of_unit_variance(pattern, shape):
    if not fits(pattern, shape):
        pytest.skip("the pattern is larger than the latent")
    y, _ = noise_vector(white(500, shape=shape[1:]), pattern)
    assert abs(y.var() - 1) < 5 * np.sqrt(2 / y.size)
    few = y[:, :12]
    assert np.abs(np.corrcoef(few.T) - np.eye(few.shape[1])).max() < 5 / np.sqrt(len(y))


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("scale", [0.01, 1.0, 30.0])
def test_p_is_not_too_small_on_white_noise_of_any_scale(pattern, scale):
    count = 300 if pattern.kind == "levels" else 8000
    p = detect(white(count, seed=3, scale=scale), key(pattern)).p_value
    if pattern.kind == "levels":  # the larger of two p-values
        for level in (0.1, 1e-2, 1e-3):
            assert stats.binomtest(int((p <= level).sum()), len(p), level, "greater").pvalue > 1e-4
    else:
        assert stats.kstest(p, "uniform").pvalue > 1e-3


def test_the_tail_of_t_holds_down_to_1e_5():
    """3,000,000 white nulls of 16 coordinates against one key."""
    k, hits = key_vector(key(Pattern("rings")), SHAPE), np.zeros(4, dtype=int)
    levels = np.array([1e-2, 1e-3, 1e-4, 1e-5])
    rng = np.random.default_rng(11)
    for _ in range(10):
        y = rng.standard_normal((300_000, len(k)))
        _, p = angle_test(y @ k / np.linalg.norm(k) / np.linalg.norm(y, axis=1), len(k))
        hits += (p[:, None] <= levels).sum(0)
    for level, count in zip(levels, hits, strict=True):
        assert stats.binomtest(int(count), 3_000_000, level).pvalue > 1e-4


@pytest.mark.parametrize("kind", KEYED)
@pytest.mark.parametrize("make", [coloured, lambda: another_key("dense"), lambda: another_key("rings")])
def test_wrong_keys_stay_null_on_any_image(kind, make):
    """4,000 random keys on one picture, whatever its spectrum."""
    pattern = Pattern(kind, channels=(0,))
    noise = make()
    p = np.array([detect(noise, key(pattern, i)).p_value[0] for i in range(4000)])
    for level in (0.1, 1e-2, 2e-3):
        assert stats.binomtest(int((p <= level).sum()), len(p), level, "greater").pvalue > 1e-4
    if kind != "levels":
        assert stats.kstest(p, "uniform").pvalue > 1e-3


def another_key(kind):
    return watermarked_noise(RingKey(b"\x99" * 32, Pattern(kind)), (1, *SHAPE), strength=1.0, dtype=torch.float64)


@pytest.mark.parametrize("size", [3, 8, 11])
def test_sign_patterns_are_counted(size):
    rng = np.random.default_rng(size)
    for _ in range(5):
        w, signs = rng.standard_normal(size), rng.choice([-1.0, 1.0], size)
        everything = np.array(list(itertools.product([-1, 1], repeat=size))) @ w
        assert sign_test(w, signs) == (everything >= signs @ w - 1e-12).mean()
    assert sign_test(np.ones(size), np.ones(size)) == 2.0**-size
    assert sign_test(np.ones(size), -np.ones(size)) == 1.0


def test_many_signs_have_a_bound_above_the_count():
    w = np.abs(np.random.default_rng(0).standard_normal(MOST_SIGNS + 1))
    signs = np.ones(len(w))
    signs[:8] = -1
    draws = np.random.default_rng(1).choice([-1.0, 1.0], (200_000, len(w))) @ w
    assert sign_test(w, signs) >= (draws >= signs @ w).mean()
    assert sign_test(w, -signs) == 1.0
    assert sign_test(w, np.ones(len(w))) == pytest.approx(np.exp(-(w.sum() ** 2) / 2 / (w @ w)), abs=0, rel=1e-9)


@pytest.mark.parametrize("pattern", [p for p in PATTERNS if p.kind != "zeros"])
def test_marks_are_found_and_rho_is_their_strength(pattern):
    noise = watermarked_noise(key(pattern), (20, *SHAPE), generator=torch.Generator().manual_seed(0))
    own, other = detect(noise, key(pattern)), detect(noise, key(pattern, 2))
    assert own.rho.mean() == pytest.approx(0.7, abs=0.03)
    least = 2.0 ** -rings_for(SHAPE, pattern).count if pattern.kind == "levels" else 0.0
    assert own.p_value.max() <= max(1e-5, 20 * least)
    assert (other.p_value > 1e-5).all()
    if pattern.kind == "dense":
        assert own.p_value.max() < 1e-50


def test_dense_keys_say_more_than_rings_at_the_same_strength():
    g = torch.Generator().manual_seed(0)
    worst = {}
    for kind in ("rings", "dense"):
        noise = watermarked_noise(key(Pattern(kind)), (50, *SHAPE), strength=0.3, generator=g)
        worst[kind] = detect(noise, key(Pattern(kind))).p_value.max()
    assert worst["dense"] < 1e-6 < worst["rings"]


def test_missing_energy_is_found():
    noise = watermarked_noise(key(Pattern("zeros")), (20, *SHAPE), generator=torch.Generator().manual_seed(0))
    found = detect(noise, key(Pattern("zeros")))
    assert found.p_value.max() < 1e-6
    assert found.rho.mean() == pytest.approx(0.49, abs=0.05)
    assert found.statistic.mean() == pytest.approx(0.51, abs=0.05)
    same = detect(noise, key(Pattern("zeros"), 2))
    np.testing.assert_array_equal(found.p_value, same.p_value)


def test_power_on_missing_energy_is_that_of_the_f_test():
    strength, count, pattern = 0.35, 4000, Pattern("zeros")
    noise = watermarked_noise(key(pattern), (count, *SHAPE), strength=strength, dtype=torch.float64)
    found, dof = detect(noise, key(pattern)), 2 * int(rings_for(SHAPE).bins.sum())
    around = [int(((r := np.hypot(*np.meshgrid(*[np.fft.fftfreq(32) * 32] * 2))) > 10).sum() - (r >= 15).sum())]
    outside = 2 * (around[0] - int(((rings_for(SHAPE).index >= 0) & (r > 10)).sum()))
    for level in (1e-2, 1e-3):
        power = stats.f.cdf(stats.f.ppf(level, dof, outside) / (1 - strength**2), dof, outside)
        assert stats.binomtest(int((found.p_value <= level).sum()), count, power).pvalue > 1e-4


@pytest.mark.parametrize("kind", ["rings", "dense"])
def test_whitening_makes_coloured_noise_null_again_for_one_key(kind):
    pattern, shape = Pattern(kind), (4, 32, 32)
    rings = rings_for(shape, pattern)
    scale = np.linspace(0.3, 3, rings.count).reshape(len(rings.channels), -1)
    spectrum = np.fft.fft2(white(6000, seed=8))
    for row, channel in enumerate(rings.channels):
        factor = np.where(rings.index >= 0, scale[row][rings.index], 1.0)
        spectrum[:, channel] *= factor
    noise = np.fft.ifft2(spectrum).real
    own = key(pattern, 5)
    assert stats.kstest(detect(noise, own, whitening=scale).p_value, "uniform").pvalue > 1e-3
    assert stats.kstest(detect(noise, own, whitening=7 * scale).p_value, "uniform").pvalue > 1e-3
    for bad in (scale[:1], -scale, scale * np.inf):
        with pytest.raises(ValueError, match="whitening"):
            detect(noise[:1], own, whitening=bad)


def test_frames_of_a_video_add_up():
    own = key(Pattern())
    video = watermarked_noise(
        own, (3, 4, 16, 32, 32), strength=0.3, generator=torch.Generator().manual_seed(1), dtype=torch.float64
    )
    together = detect(video, own)
    alone = detect(video[:, :, 0], own)
    assert (together.p_value < alone.p_value).all()
    assert together.p_value.max() < 1e-4
    assert stats.kstest(detect(white(2000, shape=(4, 3, 32, 32)), own).p_value, "uniform").pvalue > 1e-3


def test_one_master_secret_serves_many():
    master = RingKey(bytes(32), Pattern("dense"))
    users = [master.user(name) for name in ("alice", "bob", "alice ")]
    assert len({u.secret for u in [master, *users]}) == 4
    assert all(u.pattern == master.pattern for u in users)
    assert master.user("alice") == users[0]
    assert master.user("\u00e9") == master.user("e\u0301")  # é
    k = [key_vector(u, SHAPE) for u in users]
    assert abs(k[0] @ k[1]) / (k[0] @ k[0]) < 0.2


def test_other_patterns_have_unrelated_values():
    a, b = (key_vector(RingKey(bytes(32), Pattern("dense", channels=(0,), outer=n)), SHAPE)[:60] for n in (10, 11))
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.5
    long = key_vector(RingKey(bytes(32), Pattern("dense", channels=(0, 1, 2, 3), outer=40)), (4, 96, 96))
    assert abs(np.corrcoef(long[:5000], long[5000:10_000])[0, 1]) < 0.06
    assert np.abs(long).max() < 6


def test_bad_patterns_are_named():
    for bad, word in (
        ({"kind": "ring"}, "kind"),
        ({"channels": ()}, "channels"),
        ({"channels": [0, 3]}, "tuple of whole numbers"),
        ({"channels": (True, 3)}, "tuple of whole numbers"),
        ({"inner": 3.0}, "whole numbers"),
        ({"channels": (1, 1)}, "channels"),
        ({"channels": (-1,)}, "channels"),
        ({"inner": 0}, "inner"),
        ({"inner": 5, "outer": 4}, "outer"),
    ):
        with pytest.raises(ValueError, match=word):
            Pattern(**bad)
    with pytest.raises(ValueError, match="channels"):
        rings_for(SHAPE, Pattern(channels=(4,)))
    with pytest.raises(ValueError, match=r"radii 3 … 16 do not fit"):
        rings_for(SHAPE, Pattern(outer=16))


def test_missing_energy_of_a_video_counts_every_frame():
    key = RingKey(bytes(32), Pattern("zeros"))
    video = np.random.default_rng(0).standard_normal((2, 4, 5, 32, 32))
    one = detect(video[:, :, 0], key).degrees_of_freedom
    assert detect(video, key).degrees_of_freedom == 5 * one

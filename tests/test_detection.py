import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.special import betainc

from watermark import Pattern, RingKey, detect, watermarked_noise
from watermark.features import key_vector, noise_vector
from watermark.keys import KINDS
from watermark.rings import rings_for

RINGS = Pattern("rings")
SHAPE = (4, 32, 32)
KEY = RingKey(bytes(range(32)), RINGS)


def white(count, scale=1.0, seed=0, shape=SHAPE):
    return scale * np.random.default_rng(seed).standard_normal((count, *shape))


def null_p_values(count, scale=1.0, key=KEY, seed=0, batch=5000):
    return np.concatenate([detect(white(batch, scale, seed=(seed, i)), key).p_value for i in range(count // batch)])


def independent_p(z, key):
    """The same test from its definition, bin by bin, with the law of a correlation from the beta function."""
    rings = rings_for(z.shape)
    values = key_vector(key, z.shape).reshape(len(rings.channels), -1) / np.sqrt(rings.bins)
    height, width = z.shape[-2:]
    y, k = [], []
    for row, channel in enumerate(rings.channels):
        for i in range(len(rings.radii)):
            bins = np.argwhere(rings.index == i)
            total = 0.0
            for v, u in bins:
                phase = (
                    2 * np.pi * (v * np.arange(height)[:, None] / height + u * np.arange(width)[None, :] / width)
                )
                total += (z[channel] * np.cos(phase)).sum()
            y.append(total / np.sqrt(height * width * len(bins)))
            k.append(values[row, i] * np.sqrt(len(bins)))
    r = np.dot(y, k) / np.sqrt(np.dot(y, y) * np.dot(k, k))
    tail = 0.5 * betainc((len(k) - 1) / 2, 0.5, 1 - r * r)
    return tail if r > 0 else 1 - tail


def test_agrees_with_an_independent_implementation():
    for i, shape in enumerate([(4, 32, 32), (4, 24, 20)]):
        noise = white(3, seed=i, shape=shape)
        noise[2] += 0.6 * watermarked_noise(KEY, shape, strength=1.0, dtype=torch.float64).numpy()
        p = detect(noise, KEY).p_value
        np.testing.assert_allclose(p, [independent_p(z, KEY) for z in noise], rtol=1e-9)


@pytest.mark.parametrize("scale", [1e-3, 0.5, 1.4, 50.0])
def test_p_is_uniform_on_white_noise_of_any_scale(scale):
    p = null_p_values(20_000, scale)
    assert stats.kstest(p, "uniform").pvalue > 1e-3


def test_tail_of_the_null_holds():
    """100,000 nulls of one key and 25,000 of others: the counts are those of a binomial with the nominal rate."""
    one = null_p_values(100_000, seed=1)
    others = np.concatenate(
        [null_p_values(5000, key=RingKey(bytes([i]) * 32, RINGS), seed=50 + i) for i in range(5)]
    )
    for p in (one, others):
        for level in (1e-2, 1e-3, 1e-4):
            assert stats.binomtest(int((p <= level).sum()), len(p), level).pvalue > 1e-4


def random_key_p_values(noise, count=20_000):
    """p of one noise under many random keys, by the law of the statistic that detect documents."""
    y, _ = noise_vector(noise, RINGS)
    k = np.stack([key_vector(RingKey(i.to_bytes(32, "big"), RINGS), SHAPE) for i in range(count)])
    r = k @ y[0] / np.linalg.norm(k, axis=1) / np.linalg.norm(y)
    return stats.t.sf(r * np.sqrt((k.shape[1] - 1) / (1 - r**2)), k.shape[1] - 1)


def coloured():
    """Noise with a steep spectrum, as a badly inverted photograph has."""
    f = np.hypot(np.fft.fftfreq(32)[:, None], np.fft.fftfreq(32)[None, :]) + 0.02
    return np.fft.ifft2(np.fft.fft2(white(1)) / f**2).real


def bullseye():
    """A pattern of concentric circles: as far from white as it gets, and made of rings itself."""
    d = np.hypot(*np.minimum(np.mgrid[:32, :32], 32 - np.mgrid[:32, :32]))
    return np.broadcast_to(np.cos(d**1.5), (1, *SHAPE)) + 0.01 * white(1)


def another_keys():
    return watermarked_noise(RingKey(b"\x99" * 32, RINGS), (1, *SHAPE), strength=1.0, dtype=torch.float64)


@pytest.mark.parametrize("make", [coloured, bullseye, another_keys])
def test_wrong_keys_stay_null_on_any_image(make):
    p = random_key_p_values(make())
    assert stats.kstest(p, "uniform").pvalue > 1e-3
    for level in (1e-2, 1e-3):
        assert stats.binomtest(int((p <= level).sum()), len(p), level).pvalue > 1e-4


def test_detect_is_what_the_random_keys_were_tested_with():
    noise = coloured()
    expected = random_key_p_values(noise, count=5)
    np.testing.assert_allclose(
        [detect(noise, RingKey(i.to_bytes(32, "big"), RINGS)).p_value[0] for i in range(5)], expected
    )


@pytest.mark.parametrize("amplitude", [2.0, 4.0, 7.0])
def test_power_is_that_of_the_noncentral_t(amplitude):
    """Ring sums y = μ k/‖k‖ + N(0, I) give a noncentral t with parameter μ."""
    count = 20_000
    unit = watermarked_noise(KEY, (1, *SHAPE), strength=1.0, dtype=torch.float64).numpy()
    k, rings = key_vector(KEY, SHAPE), rings_for(SHAPE)
    spectrum = np.fft.fft2(unit)
    spectrum[:, [c for c in range(4) if c not in rings.channels]] = 0
    spectrum[..., rings.index < 0] = 0
    mark = np.fft.ifft2(spectrum).real * amplitude / np.linalg.norm(k)
    p = np.concatenate([detect(white(5000, seed=(9, i)) + mark, KEY).p_value for i in range(count // 5000)])
    m = len(k)
    for level in (1e-2, 1e-4):
        power = stats.nct.sf(stats.t.isf(level, m - 1), m - 1, amplitude)
        assert stats.binomtest(int((p <= level).sum()), count, power).pvalue > 1e-4


@pytest.mark.parametrize("strength", [0.5, 0.7, 1.0])
def test_marked_noise_is_found_and_rho_is_its_strength(strength):
    noise = watermarked_noise(KEY, (50, *SHAPE), strength=strength, generator=torch.Generator().manual_seed(0))
    result = detect(noise, KEY)
    assert result.p_value.max() < 1e-6
    assert result.rho.mean() == pytest.approx(strength, abs=0.02)
    assert result.degrees_of_freedom == 15
    assert (detect(noise, RingKey(bytes(32), RINGS)).p_value > 1e-4).all()


def test_one_ring_proves_nothing():
    one = RingKey(bytes(32), Pattern("rings", (0,), 5, 5))
    p = detect(white(400), one).p_value
    assert set(p) <= {0.5, 1.0}
    assert 140 < (p == 0.5).sum() < 260


def test_huge_noise_is_tested_like_any_other():
    np.testing.assert_allclose(detect(white(2, scale=1e160), KEY).p_value, detect(white(2), KEY).p_value, rtol=1e-6)


@pytest.mark.parametrize("scale", [1e-308, 1e-200, 5e-163, 3e161, 1e200, 1e307])
@pytest.mark.parametrize("kind", KINDS)
def test_no_sample_changes_what_is_said_of_another(scale, kind):
    key, noise = RingKey(bytes(range(32)), Pattern(kind)), white(3)
    expected = detect(noise, key).p_value
    noise[0] *= scale
    np.testing.assert_allclose(detect(noise, key).p_value, expected, rtol=1e-6)


@pytest.mark.parametrize("factor", [1e-310, 1e-300, 1e300])
def test_whitening_counts_up_to_a_common_factor(factor):
    rings = rings_for(SHAPE)
    sd = np.random.default_rng(1).uniform(0.5, 2, (len(rings.channels), len(rings.radii)))
    expected = detect(white(3), KEY, whitening=sd).p_value
    np.testing.assert_allclose(detect(white(3), KEY, whitening=sd * factor).p_value, expected, rtol=1e-6)
    sd[0, 0] = 1e-200
    with pytest.raises(ValueError, match="factor"):
        detect(white(3), KEY, whitening=sd)


@settings(max_examples=30, deadline=None)
@given(scale=st.floats(1e-6, 1e6), seed=st.integers(0, 2**31))
def test_result_does_not_depend_on_scale(scale, seed):
    noise = white(1, seed=seed)
    a, b = detect(noise, KEY), detect(scale * noise, KEY)
    np.testing.assert_allclose(a.p_value, b.p_value, rtol=1e-6)
    np.testing.assert_allclose(a.rho, b.rho, atol=1e-9)


def test_perfect_agreement_has_a_positive_p_value():
    noise = watermarked_noise(KEY, (1, *SHAPE), strength=1.0, dtype=torch.float64)
    p = detect(noise, KEY).p_value
    assert 0 < p[0] < 1e-100


def test_what_is_not_noise_is_an_error_and_never_a_p_value():
    for bad in (np.nan, np.inf):
        noise = white(2)
        noise[1, 2, 3, 4] = bad
        with pytest.raises(ValueError, match="finite"):
            detect(noise, KEY)
    with pytest.raises(ValueError, match="zero"):
        detect(np.zeros((1, *SHAPE)), KEY)
    with pytest.raises(ValueError, match="shape"):
        detect(np.zeros(SHAPE), KEY)
    for kind in KINDS:
        key = RingKey(bytes(32), Pattern(kind))
        with pytest.raises(ValueError, match="at least one sample"):
            detect(np.zeros((0, *SHAPE)), key)
        for bad in (white(1) * 1j, torch.from_numpy(white(1) * 1j)):
            with pytest.raises(ValueError, match="must be real"):
                detect(bad, key)
    for shape in ((1, 4, 90, 160), (1, 4, 33, 35)):
        with pytest.raises(ValueError, match="zero"):
            detect(np.full(shape, 0.1), RingKey(bytes(32), Pattern("zeros")))

import copy

import numpy as np
import pytest
import torch
from scipy import stats

from watermark import Pattern, RingKey, watermarked_noise
from watermark.features import key_spectrum, key_vector
from watermark.noise import secret_noise, white_noise
from watermark.rings import rings_for

RINGS = Pattern("rings")
SHAPES = [(4, 32, 32), (4, 64, 64), (16, 128, 128), (4, 96, 64), (4, 17, 23)]


@pytest.mark.parametrize("shape", SHAPES)
def test_rings_are_closed_under_conjugation_and_leave_the_centre_alone(shape):
    rings = rings_for(shape)
    index = rings.index
    twin = np.roll(index[::-1, ::-1], 1, axis=(0, 1))
    assert np.array_equal(index, twin)
    assert index[0, 0] == -1
    assert rings.bins.min() > 0
    assert set(rings.channels) <= set(range(shape[0]))
    assert rings.count >= 16 or len(rings.channels) == shape[0]


@pytest.mark.parametrize("shape", [*SHAPES, (4, 32, 48), (4, 23, 18)])
def test_bins_of_the_transform_of_real_noise_are_those_of_the_whole_one(shape):
    rings, z = rings_for(shape), np.random.default_rng(1).standard_normal(shape[-2:])
    places, conjugated = rings.in_rfft
    there = np.fft.rfft2(z).ravel()[places]
    assert 0 < conjugated.sum() < len(places)
    assert np.where(conjugated, there.conj(), there) == pytest.approx(np.fft.fft2(z).ravel()[rings.half], abs=1e-9)


def test_layout_for_known_sizes():
    assert (rings_for((4, 32, 32)).channels, rings_for((4, 32, 32)).radii) == ((0, 3), tuple(range(3, 11)))
    assert (rings_for((1, 4, 64, 64)).channels, rings_for((4, 64, 64)).radii) == ((0,), tuple(range(3, 21)))


def test_rings_are_round_on_a_picture_that_is_not_square():
    index = rings_for((4, 96, 64)).index
    assert index[0, 10] == index[15, 0] == 10 - 3


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("strength", [0.7, 1.0])
def test_noise_is_exactly_real_and_carries_the_key(shape, strength):
    key, n = RingKey.generate(RINGS), np.sqrt(shape[-1] * shape[-2])
    plain = torch.randn((2, *shape), generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    noise = watermarked_noise(
        key, (2, *shape), strength=strength, generator=torch.Generator().manual_seed(5), dtype=torch.float64
    )
    rings = rings_for(shape)
    ours, theirs = torch.fft.fft2(noise), torch.fft.fft2(plain)
    expected = theirs.clone()
    values = key_vector(key, shape).reshape(len(rings.channels), -1) / np.sqrt(rings.bins)
    for channel, of_channel in zip(rings.channels, values, strict=True):
        for i, value in enumerate(of_channel):
            bins = torch.from_numpy(rings.index == i)
            own = theirs[:, channel, bins]
            expected[:, channel, bins] = strength * value * n + np.sqrt(1 - strength**2) * own
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-9 * n)  # what .real dropped was nothing


def test_unit_variance_whatever_the_key():
    keys = [RingKey(bytes([i]) * 32, RINGS) for i in range(50)]
    g = torch.Generator().manual_seed(0)
    noise = torch.cat([watermarked_noise(key, (20, 4, 32, 32), generator=g) for key in keys])
    variances = noise.square().mean((0, 2, 3))
    together = [variances[1], variances[2], variances[[0, 3]].mean()]  # a key may favour one of its channels
    assert max(abs(v - 1) for v in together) < 4 * (2 / (1000 * 1024)) ** 0.5
    unmarked = noise[:, 1:3].flatten()[:50_000].numpy()
    assert stats.kstest(unmarked, "norm").pvalue > 1e-3


@pytest.mark.parametrize("shape", SHAPES)
def test_every_key_has_the_energy_of_white_noise(shape):
    rings = rings_for(shape)
    for i in range(10):
        values = key_spectrum(RingKey(bytes([i]) * 32, RINGS), shape)
        assert (np.abs(values) ** 2).sum() == pytest.approx(len(rings.channels) * rings.bins.sum())


def test_key_directions_are_uniform():
    """Coordinates of a uniform direction in R^m, squared, follow Beta(1/2, (m − 1)/2)."""
    k = np.stack([key_vector(RingKey(i.to_bytes(32, "big"), RINGS), (4, 32, 32)) for i in range(2000)])
    k /= np.linalg.norm(k, axis=1, keepdims=True)
    m = k.shape[1]
    for j in range(m):
        assert stats.kstest(k[:, j] ** 2, stats.beta(0.5, (m - 1) / 2).cdf).pvalue > 1e-4
    assert np.abs(k.T @ k / 2000 * m - np.eye(m)).max() < 0.2


def test_derivation_does_not_change_between_releases():
    key = RingKey(bytes(range(32)), RINGS)
    assert key.id == "21ad784154b1387a"
    expected = [-7.0711, 4.1209, 4.8528, -6.195]
    np.testing.assert_allclose(key_vector(key, (4, 32, 32))[:4], expected, atol=1e-4)


def test_noise_without_a_generator_is_white_and_never_the_same():
    key = RingKey(bytes(32), Pattern("zeros"))
    shape = (50, 4, 32, 32)
    torch.manual_seed(7)
    a = watermarked_noise(key, shape, strength=1e-9, dtype=torch.float64)
    torch.manual_seed(7)
    b = watermarked_noise(key, shape, strength=1e-9, dtype=torch.float64)
    assert stats.kstest(a.flatten().numpy(), "norm").pvalue > 1e-3
    assert abs(np.corrcoef(a.flatten(), b.flatten())[0, 1]) < 5 / a.numel() ** 0.5


def test_same_generator_same_noise_and_other_shapes_other_rings():
    key = RingKey(bytes(32), RINGS)
    a, b = (watermarked_noise(key, (1, 4, 32, 32), generator=torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(a, b)
    assert abs(np.corrcoef(key_vector(key, (4, 32, 32))[:8], key_vector(key, (4, 32, 48))[:8])[0, 1]) < 0.5


def test_the_default_device_does_not_matter():
    with torch.device("meta"):  # stands for cuda
        for generator in (None, torch.Generator().manual_seed(1)):
            z = watermarked_noise(RingKey.generate(RINGS), (1, 4, 32, 32), generator=generator)
            assert z.device.type == "cpu"


def test_global_random_state_is_left_alone():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    watermarked_noise(RingKey.generate(RINGS), (1, 4, 32, 32), generator=torch.Generator().manual_seed(1))
    assert torch.equal(torch.get_rng_state(), before)


def test_secret_is_not_in_the_repr():
    key = RingKey.generate(RINGS)
    for text in (repr(key), str(key), f"{key}", repr([key]), repr({"key": copy.copy(key)})):
        assert key.secret.hex() not in text
        assert repr(key.secret) not in text
    assert key.id not in key.secret.hex()


def test_bad_arguments_are_named():
    for secret in (b"short", "x" * 32, bytes(33)):
        with pytest.raises(ValueError, match="32 bytes"):
            RingKey(secret)
    key = RingKey.generate(RINGS)
    for shape in ((32, 32), (4, 8, 32), (0, 32, 32), (1, 1, 1, 4, 32, 32)):
        with pytest.raises(ValueError, match="at least 16"):
            watermarked_noise(key, shape)
    with pytest.raises(ValueError, match="zero"):
        watermarked_noise(key, (0, 4, 32, 32))
    with pytest.raises(ValueError, match="must be a Pattern"):
        RingKey.generate("rings")
    for strength in (0.0, 1.1, float("nan")):
        with pytest.raises(ValueError, match="strength"):
            watermarked_noise(key, (1, 4, 32, 32), strength=strength)


def test_what_old_marks_are_made_of_stays():
    """Were any of these to change, no mark of before would be found."""
    key = RingKey(bytes(range(32)))
    np.testing.assert_allclose(key_vector(key, (4, 32, 32))[:4], [-0.2686, 0.9940, 0.5048, 0.6830], atol=1e-4)
    assert key.user("alice").id == "505d94667af9dc75"
    np.testing.assert_allclose(secret_noise(key.secret, (4,)), [-0.2161, -0.5642, 0.8363, 0.1786], atol=1e-4)
    one_channel = RingKey(bytes(32), Pattern("dense", (0,), 3, 10))
    a, b = (key_vector(one_channel, (4, 32, width))[:300] for width in (32, 48))
    assert not np.allclose(a / np.linalg.norm(a), b / np.linalg.norm(b), atol=0.01)  # of every size its own


def test_noise_that_nobody_can_repeat_comes_from_256_bits(monkeypatch):
    asked = []
    monkeypatch.setattr("watermark.noise.secrets.token_bytes", lambda n: asked.append(n) or bytes(range(n)))
    found, shape = white_noise((1, 4, 16, 16)), (1, 4, 16, 16)
    assert torch.equal(found, secret_noise(bytes(range(32)), shape))
    assert asked == [32]

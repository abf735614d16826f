"""What attacks do to pictures."""

from functools import partial

import numpy as np
import pytest
from PIL import Image

from benchmarks.attacks import ATTACKS, SIX, add_noise, as_image, blur, brighten, compress, crop, turn

RANDOM = {"crop 0.75", "noise 0.1", "brightness", "crop of the width", "crop 0.775"}


def rng(seed=0):
    return np.random.default_rng([7, seed])


def pixels(image):
    return np.asarray(image, dtype=np.float64)


def plain(value, size=(40, 30)):
    return Image.new("RGB", size, (value,) * 3)


@pytest.fixture(scope="module")
def picture():
    """A smooth picture (128, 128), every pixel of which differs from the others in some colour."""
    y, x = np.mgrid[:128, :128] * 1.5
    return as_image(np.stack([40 + x, 40 + y, 120 + 60 * np.sin(x / 9) * np.cos(y / 7)], axis=-1))


@pytest.mark.parametrize("name", ATTACKS)
def test_every_attack_depends_on_picture_and_seed_alone(name, picture):
    before = picture.tobytes()
    first, again, other = (ATTACKS[name](picture, rng(seed)) for seed in (0, 0, 1))
    assert picture.tobytes() == before
    assert first.size == picture.size
    assert first.mode == "RGB"
    assert first.tobytes() == again.tobytes() != before
    assert (first.tobytes() != other.tobytes()) == (name in RANDOM)


def test_the_six_come_first():
    assert SIX == ("rotation 75°", "JPEG 25", "crop 0.75", "blur 2", "noise 0.1", "brightness")


def test_turning_is_counter_clockwise_with_black_corners(picture):
    quarter = pixels(turn(picture, rng(), degrees=90))
    np.testing.assert_array_equal(quarter, np.rot90(pixels(picture)))
    corners = pixels(turn(plain(200), rng(), degrees=75))
    assert corners[0, 0].tolist() == [0, 0, 0]
    assert corners[15, 20].tolist() == [200, 200, 200]


def test_compression_is_that_of_the_quality(picture):
    errors = [np.abs(pixels(compress(picture, rng(), quality=q)) - pixels(picture)).mean() for q in (95, 25, 5)]
    assert 0 < errors[0] < errors[1] < errors[2] < 30


@pytest.mark.parametrize(("width", "height"), [(0.75, 0.75), (0.75, 1), (0.5, 0.25)])
def test_crops_are_enlarged_parts_from_anywhere(picture, width, height):
    places = []
    for seed in range(40):
        red, green, _ = np.moveaxis(pixels(crop(picture, rng(seed), width=width, height=height)), -1, 0)
        for channel, axis, share in ((red, 1, width), (green, 0, height)):
            slope = np.diff(channel, axis=axis).mean()
            assert slope == pytest.approx(1.5 * share, rel=0.05)  # its ends are flat
        places.append((red.min(), green.min()))
    spread = np.ptp(places, axis=0)
    assert spread[0] > 0.7 * 1.5 * 128 * (1 - width)
    assert spread[1] >= 0.7 * 1.5 * 128 * (1 - height)


def test_blur_has_the_radius_for_its_standard_deviation():
    edge = np.zeros((64, 64, 3))
    edge[:, 32:] = 255
    profile = np.diff(pixels(blur(as_image(edge), rng(), radius=4))[32, :, 0]) / 255
    x = np.arange(63) - 31
    assert profile.sum() == pytest.approx(1)
    assert np.sqrt(profile @ x**2) == pytest.approx(4, rel=0.1)


def test_noise_neither_wraps_around_nor_drifts():
    grey = pixels(add_noise(plain(128, (200, 200)), rng(), std=0.1)) - 128
    assert grey.std() == pytest.approx(25.5, rel=0.02)
    assert abs(grey.mean()) < 0.5
    assert abs(np.corrcoef(grey[..., 0].ravel(), grey[..., 1].ravel())[0, 1]) < 0.02
    assert pixels(add_noise(plain(255), rng(), std=0.1)).min() > 100
    assert pixels(add_noise(plain(0), rng(), std=0.1)).max() < 155


def test_brightness_is_one_factor_for_all_up_to_white():
    attack = partial(brighten, most=7)
    factors = np.array([pixels(attack(plain(30), rng(seed)))[0, 0, 0] / 30 for seed in range(300)])
    assert factors.min() < 0.2
    assert 6.8 < factors.max() <= 7
    assert factors.mean() == pytest.approx(3.5, abs=0.4)
    values = pixels(attack(as_image(np.dstack([np.arange(256.0).reshape(16, 16)] * 3)), rng(1)))[..., 0].ravel()
    factor = rng(1).uniform(0, 7)
    np.testing.assert_array_equal(values, np.rint(factor * np.arange(256)).clip(0, 255))

"""What attacks do to pictures."""

import colorsys
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import model_attacks
from benchmarks.attacks import (
    ATTACKS,
    SIX,
    add_noise,
    as_image,
    blur,
    brighten,
    change_contrast,
    compress,
    crop,
    mirror,
    move,
    posterize,
    repost,
    rescale,
    saturate,
    screenshot,
    sharpen,
    take_medians,
    to_webp,
    turn,
    turn_hue,
)
from benchmarks.model_attacks import MODEL_ATTACKS, adversarial, common_part, move_latent, regenerate
from benchmarks.robustness_noise import as_pixels

RANDOM = {"crop 0.75", "noise 0.1", "brightness", "crop of the width", "crop 0.775", "crop 0.9", "noise 0.05"}


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


def test_there_are_twenty_kinds_of_attacks_and_more():
    kinds = {getattr(attack, "func", attack) for attack in (*ATTACKS.values(), *MODEL_ATTACKS.values())}
    assert len(kinds) >= 20
    assert not ATTACKS.keys() & MODEL_ATTACKS.keys()


def test_webp_compression_is_that_of_the_quality(picture):
    errors = [np.abs(pixels(to_webp(picture, rng(), quality=q)) - pixels(picture)).mean() for q in (95, 50, 5)]
    assert 0 < errors[0] < errors[1] < errors[2] < 30


def test_resizing_takes_what_the_small_picture_cannot_hold():
    stripes = as_image(np.broadcast_to(np.where(np.arange(64) % 2, 255.0, 0.0)[None, :, None], (64, 64, 3)))
    ramp = as_image(np.broadcast_to(np.arange(64.0)[None, :, None] * 3, (64, 64, 3)))
    assert pixels(rescale(stripes, rng(), factor=0.5))[:, 8:-8].std() < 10
    for factor in (0.5, 2):
        np.testing.assert_allclose(
            pixels(rescale(ramp, rng(), factor=factor))[:, 8:-8], pixels(ramp)[:, 8:-8], atol=2
        )


def test_mirroring_is_left_to_right(picture):
    np.testing.assert_array_equal(pixels(mirror(picture, rng())), pixels(picture)[:, ::-1])


def test_moves_are_down_and_right_and_repeat_the_edge(picture):
    moved = pixels(move(picture, rng(), pixels=3))
    np.testing.assert_array_equal(moved[3:, 3:], pixels(picture)[:-3, :-3])
    np.testing.assert_array_equal(moved[:3, 3:], np.broadcast_to(pixels(picture)[:1, :-3], (3, 125, 3)))


def test_medians_remove_single_pixels_and_keep_edges():
    edge = np.zeros((20, 20, 3))
    edge[:, 10:] = 200
    dotted = edge.copy()
    dotted[5, 5] = 255
    np.testing.assert_array_equal(pixels(take_medians(as_image(dotted), rng(), size=3)), edge)


def test_contrast_and_saturation_are_distances_from_greys(picture):
    values = pixels(picture)
    grey = values @ [0.299, 0.587, 0.114]
    low = pixels(change_contrast(picture, rng(), factor=0.5))
    np.testing.assert_allclose(low, grey.mean() + 0.5 * (values - grey.mean()), atol=1.5)
    np.testing.assert_allclose(pixels(saturate(picture, rng(), factor=0)), grey[..., None].repeat(3, -1), atol=1.5)
    half = pixels(saturate(picture, rng(), factor=0.5))
    np.testing.assert_allclose(half, (values + grey[..., None]) / 2, atol=1.5)


def test_hues_go_around_the_circle():
    red = plain(0)
    red.paste((200, 40, 40), (0, 0, 40, 30))
    for turns in (1 / 3, 0.5, 1):
        seen = pixels(turn_hue(red, rng(), turns=turns))[0, 0] / 255
        hue, saturation, value = colorsys.rgb_to_hsv(*seen)
        assert min(abs(hue - turns), abs(hue - turns + 1)) < 0.01
        assert (saturation, value) == pytest.approx((0.8, 200 / 255), abs=0.01)


def test_sharpening_overshoots_edges():
    edge = np.full((20, 20, 3), 100.0)
    edge[:, 10:] = 150
    profile = pixels(sharpen(as_image(edge), rng(), percent=200))[10, :, 0]
    assert profile[9] < 90
    assert profile[10] > 160
    assert (profile[[0, -1]] == [100, 150]).all()


def test_posterized_pictures_have_few_levels(picture):
    np.testing.assert_array_equal(pixels(posterize(picture, rng(), bits=3)), pixels(picture) // 32 * 32)


@pytest.fixture
def compressed(monkeypatch):
    """The qualities of all JPEG files that are made."""
    qualities = []
    honest = Image.Image.save

    def save(image, file, form=None, **options):
        if form == "JPEG":
            qualities.append(options["quality"])
        honest(image, file, form, **options)

    monkeypatch.setattr(Image.Image, "save", save)
    return qualities


def test_screenshots_have_a_border_and_are_brighter(picture, compressed):
    seen = pixels(screenshot(picture, rng(), zoom=1.5, border=4))
    assert seen[0].mean() > 235
    assert 2 < (seen - pixels(picture))[20:-20, 20:-20].mean() < 15
    assert compressed == [90]


def test_reposts_lose_detail_and_little_else(picture, compressed):
    noisy = add_noise(picture, rng(), std=0.1)
    seen = pixels(repost(noisy, rng(), factor=0.5, qualities=(60, 70)))
    error = seen - pixels(picture)
    assert error.std() < 0.7 * (pixels(noisy) - pixels(picture)).std()
    assert abs(error.mean()) < 2
    assert compressed == [60, 70]


@pytest.fixture(scope="module")
def x(marked):
    return as_pixels(marked[:2])


def test_pixels_are_those_of_the_picture(marked, x):
    np.testing.assert_allclose((x[1].permute(1, 2, 0) + 1) * 127.5, pixels(marked[1]), atol=1e-3)


@pytest.mark.parametrize(("strength", "rounds"), [(0.2, 1), (0.4, 1), (0.2, 2)])
def test_regeneration_depends_on_strength_and_seeds_alone(sapling, x, strength, rounds):
    def run(pictures, seeds):
        return regenerate(sapling, pictures, seeds, strength=strength, rounds=rounds, steps=5)

    both, alone, other = run(x, [1, 2]), run(x[1:], [2]), run(x[1:], [3])
    torch.testing.assert_close(both[1:], alone, rtol=0, atol=1e-3)
    changed, by_chance = ((a - b).square().mean() for a, b in ((both[1:], x[1:]), (other, both[1:])))
    assert 1e-4 < changed < 0.3
    assert by_chance > 1e-5
    if rounds > 1:
        once = regenerate(sapling, x[1:], [2], strength=strength, steps=5)
        assert (alone - x[1:]).square().mean() > 1.2 * (once - x[1:]).square().mean()


def test_stronger_regeneration_changes_more(sapling, x):
    weak, strong = (regenerate(sapling, x, [1, 2], strength=s, steps=10) for s in (0.1, 0.6))
    assert (strong - x).square().mean() > 2 * (weak - x).square().mean()


def test_a_moved_latent_moves_the_picture(sapling, x):
    moved, still = (move_latent(sapling, x, [0, 0], pixels=n) for n in (1, 0))
    inside = slice(16, -16)
    factor = sapling.autoencoder.factor
    shifted = still.roll((factor, factor), (-2, -1))
    error = (moved - shifted)[..., inside, inside].square().mean()
    assert error < 0.1 * (moved - still)[..., inside, inside].square().mean()


def test_the_adversary_moves_the_latent_within_its_bound(sapling, x):
    encode = model_attacks.differentiable_encoder("sapling", "cpu")
    torch.testing.assert_close(encode(x), sapling.autoencoder.encode(x), rtol=1e-3, atol=1e-3)
    y = adversarial(sapling, x, [1, 2], levels=4, steps=4)
    epsilon = 8 / 255
    assert not y.requires_grad
    assert (y - x).abs().max() <= epsilon + 1e-6
    assert y.abs().max() <= 1
    noise = (x + epsilon * torch.randn(x.shape, generator=torch.Generator().manual_seed(0)).sign()).clamp(-1, 1)
    own = sapling.autoencoder.encode(x)
    far, near = ((sapling.autoencoder.encode(v) - own).square().mean() for v in (y, noise))
    assert far > 4 * near


def test_the_common_part_is_a_difference_of_means():
    rng_ = np.random.default_rng(0)
    marked, unmarked = (torch.from_numpy(rng_.standard_normal((n, 3, 2))) for n in (5, 4))
    whole = common_part(marked, unmarked)
    torch.testing.assert_close(whole[0], marked.mean(0) - unmarked.mean(0))
    each = common_part(marked, unmarked, leave_out=True)
    torch.testing.assert_close(each[2], marked.mean(0) - unmarked[[0, 1, 3]].mean(0))

"""Keys of every kind and transformations, tested together; noise is made here, without networks."""

import numpy as np
import pytest
import torch
from scipy import stats

from tests.test_calibration import SETTINGS, SHAPE, coloured
from watermark import Pattern, RingKey, detect, watermarked_noise
from watermark.calibration import Calibration, false_positives
from watermark.detection import TINY, angle_test, least_p, sign_test
from watermark.family import NOTABLE, Family
from watermark.foreign import ArrayKey, detect_array
from watermark.published_keys import tree_ring_key
from watermark.transforms import IDENTITY, UNCHANGED, Transform, plain_transforms, transforms_of
from watermark.verdict import INCONCLUSIVE, KEY_BASED, MODEL_BASED, NOT_DETECTED, NULL_BASED, WATERMARKED
from watermark.views import undo

DENSE = [RingKey(bytes([i]) * 32) for i in range(6)]
RINGS = RingKey(bytes([50]) * 32, Pattern("rings"))
ZEROS = RingKey(bytes([60]) * 32, Pattern("zeros"))
DRAWN = tree_ring_key(7, SHAPE, pattern="rand", radius=8)
THEIRS = ArrayKey(DRAWN.values, DRAWN.mask)  # of which nobody knows how it was made


def white(count, seed=0):
    return np.random.default_rng(seed).standard_normal((count, *SHAPE))


def marked(key, count=1, seed=0, strength=0.7):
    g = torch.Generator().manual_seed(seed)
    return watermarked_noise(key, (count, *SHAPE), strength=strength, generator=g, dtype=torch.float64).numpy()


def family(keys, transforms=IDENTITY, fpr=1e-6, calibration=None):
    return Family(keys, transforms, SHAPE, fpr, calibration)


def nulls(noise):
    return Calibration(SETTINGS, np.ones(8, dtype=np.float32), noise.astype(np.float16), ("null",) * len(noise))


def test_every_kind_of_key_is_told_from_the_others():
    keys = {"dense": DENSE[0], "other": DENSE[1], "rings": RINGS, "zeros": ZEROS}
    noise = np.concatenate([marked(DENSE[0]), marked(RINGS), white(1)])
    dense, rings, none = family(keys).test(noise)
    assert (dense.status, dense.key, dense.evidence) == (WATERMARKED, "dense", KEY_BASED)
    assert dense.p_value == pytest.approx(4 * detect(noise[:1], DENSE[0]).p_value[0], rel=1e-6, abs=0)
    assert (rings.status, rings.key) == (WATERMARKED, "rings")
    assert none.status == NOT_DETECTED
    assert family(keys).test(noise[:0]) == []


def test_p_is_corrected_for_all_that_was_looked_at():
    turned = np.rot90(marked(DENSE[0], strength=0.2), 1, (-2, -1))
    keys = {"a": DENSE[0], "b": DENSE[1], "c": DENSE[2]}
    (found,) = family(keys, plain_transforms(SHAPE)).test(turned)
    assert str(found.transform) == "turned by 90°"
    assert found.p_value == pytest.approx(
        3 * 8 * detect(undo(turned, Transform(90)), DENSE[0]).p_value[0], rel=1e-6, abs=0
    )
    assert plain_transforms((4, 32, 32)) == transforms_of(4, mirrored=True)
    assert plain_transforms((4, 32, 48)) == transforms_of(2, mirrored=True)


def test_family_wise_errors_are_as_many_as_allowed():
    """1,500 samples without a mark, 7 keys of two patterns, 8 transformations, at 5 % and 20 %."""
    keys = {str(i): key for i, key in enumerate([*DENSE, RINGS])}
    found = family(keys, plain_transforms(SHAPE), fpr=0.2).test(white(1500, seed=3))
    p = np.array([f.p_value for f in found])
    for level in (0.05, 0.2):
        assert stats.binomtest(int((p <= level).sum()), len(p), level, "greater").pvalue > 1e-3


def test_two_keys_in_one_image_are_both_named():
    both = marked(DENSE[0], strength=0.5) + marked(DENSE[1], seed=1, strength=0.5)
    keys = {str(i): key for i, key in enumerate(DENSE)}
    (found,) = family(keys).test(both)
    assert found.status == WATERMARKED
    assert {found.key, *found.other_keys} == {"0", "1"}
    (alone,) = family(keys).test(marked(DENSE[0]))
    assert alone.other_keys == ()


@pytest.mark.parametrize("pattern", ["ring", "rand"])
def test_a_key_of_other_code_that_was_drawn_needs_no_null_images(pattern):
    alice, bob = (tree_ring_key(seed, SHAPE, pattern=pattern) for seed in (3, 4))
    noise = white(1) + np.fft.ifft2(2 * alice.mark).real
    (found,) = family({"alice": alice, "ours": DENSE[0]}).test(noise)
    assert (found.status, found.key, found.evidence) == (WATERMARKED, "alice", KEY_BASED)
    assert found.p_value <= 1e-6
    (other,) = family({"bob": bob}).test(noise)
    assert (other.status, other.evidence) == (NOT_DETECTED, KEY_BASED)
    (counted,) = family({"alice": alice}, calibration=nulls(white(100, seed=9))).test(noise)
    assert (counted.status, counted.evidence, counted.nulls.hits) == (WATERMARKED, KEY_BASED, 0)
    mixed = nulls(np.concatenate([white(100, seed=9), np.repeat(noise, 10, axis=0)]))
    known, ours = ({"alice": alice}, {"ours": DENSE[0]})
    for tried in (ours, ours | known):  # what is counted for alice is not held against others
        (kept,) = family(tried, calibration=mixed).test(marked(DENSE[0]))
        assert (kept.status, kept.key, kept.nulls.hits) == (WATERMARKED, "ours", 0)
    assert family(known, calibration=mixed).test(noise)[0].status == INCONCLUSIVE
    both = noise + marked(DENSE[0], seed=1)
    (told,) = family({"alice": alice, "ours": DENSE[0]}).test(both)
    assert {told.key, *told.other_keys} == {"alice", "ours"}


@pytest.mark.parametrize("key", [ZEROS, THEIRS])
def test_without_null_images_a_key_that_needs_white_noise_accuses_nobody(key):
    noise = marked(ZEROS) if key is ZEROS else white(1) + np.fft.ifft2(2 * key.mark).real
    test = detect(noise, key) if key is ZEROS else detect_array(noise, key)
    (found,) = family({"a": key}).test(noise)
    assert test.p_value[0] < 1e-6
    assert found.p_value == pytest.approx(test.p_value[0], rel=1e-6, abs=0)
    assert (found.status, found.evidence) == (INCONCLUSIVE, MODEL_BASED)
    assert "white noise only" in found.reason
    (none,) = family({"a": key}).test(white(1))
    assert (none.status, none.evidence) == (NOT_DETECTED, MODEL_BASED)


@pytest.mark.parametrize("key", [ZEROS, THEIRS])
def test_with_null_images_its_p_is_the_share_of_them_that_fit_as_well(key):
    noise = marked(ZEROS) if key is ZEROS else white(1) + np.fft.ifft2(2 * key.mark).real
    made = nulls(white(200, seed=9))
    (found,) = family({"a": key}, fpr=0.02, calibration=made).test(noise)
    assert (found.status, found.evidence, found.p_value) == (WATERMARKED, NULL_BASED, 1 / 201)
    assert found.nulls.bound <= 0.02
    (unsure,) = family({"a": key}, fpr=0.01, calibration=made).test(noise)  # p is below, what 200 support is not
    assert (unsure.status, unsure.p_value) == (INCONCLUSIVE, 1 / 201)
    (strict,) = family({"a": key}, fpr=1e-6, calibration=made).test(noise)
    assert strict.status == INCONCLUSIVE
    assert "support no level" in strict.reason
    found = family({"a": key}, plain_transforms(SHAPE), 0.2, made).test(white(500, seed=2))
    p = np.array([f.p_value for f in found])
    for level in (0.05, 0.2):  # nulls and samples are exchangeable
        assert stats.binomtest(int((p <= level).sum()), len(p), 1.4 * level, "greater").pvalue > 1e-3


def test_a_key_that_cannot_reach_the_level_is_never_missed_without_a_word():
    key = RingKey(bytes([70]) * 32, Pattern("levels"))
    (there,) = family({"few": key}).test(marked(key, strength=1))
    assert there.p_value > 1e-6
    assert there.status == INCONCLUSIVE
    assert f"{2.0**-16:.2g} at best" in there.reason
    others = family({"few": key, "ours": DENSE[0]}).test(white(200, seed=5))
    told = [found.status for found in others]
    assert set(told) == {NOT_DETECTED, INCONCLUSIVE}
    assert stats.binomtest(told.count(INCONCLUSIVE), 200, NOTABLE / 2, "greater").pvalue > 1e-3
    (loose,) = family({"few": key}, fpr=0.1).test(marked(key, strength=1))
    assert loose.status == WATERMARKED


@pytest.mark.parametrize(("kind", "d"), [("levels", 1), ("levels", 6), ("levels", 40), ("rings", 1), ("rings", 6)])
def test_the_least_p_is_that_of_a_perfect_fit(kind, d):
    if kind == "levels" and d > 1:
        found = max(sign_test(np.ones(d), np.ones(d)), angle_test(np.ones(1), d)[1][0])
    else:
        found = max(angle_test(np.ones(1), d)[1][0], TINY)
    assert least_p(kind, d) == pytest.approx(found, rel=1e-6, abs=0)


def test_null_images_that_are_too_few_for_the_level_make_it_inconclusive():
    made = nulls(np.concatenate([white(990, seed=9), white(10, seed=10) + np.fft.ifft2(0.8 * THEIRS.mark).real]))
    noise = white(1, seed=11) + np.fft.ifft2(0.75 * THEIRS.mark).real
    (found,) = family({"theirs": THEIRS}, fpr=0.0115, calibration=made).test(noise)
    assert 0 < found.nulls.hits <= 10
    assert found.p_value <= 0.0115 < found.nulls.bound
    assert found.status == INCONCLUSIVE
    assert "may be as large as" in found.reason


def test_what_cannot_be_told_of_one_key_is_not_hidden_by_another_that_is_not_there():
    keys = {"theirs": THEIRS, "ours": DENSE[0]}
    mixed = [marked(DENSE[0], 20, seed=12, strength=s) for s in (0.1, 0.15, 0.2, 0.25)]
    noise = np.concatenate(mixed) + np.fft.ifft2(2 * THEIRS.mark).real
    of_ours = family({"ours": DENSE[0]}, fpr=1e-9).test(noise)
    smaller = [2e-9 < 2 * found.p_value < 2 / 1001 for found in of_ours]  # than the least that 1,000 images can say
    assert sum(smaller) > 3
    for found in family(keys, fpr=1e-9, calibration=nulls(white(1000, seed=9))).test(noise[smaller]):
        assert (found.status, found.key) == (INCONCLUSIVE, "theirs")


def test_false_positives_are_counted_over_the_whole_search():
    made = nulls(coloured(400))
    (loose,) = family({"a": DENSE[0]}, plain_transforms(SHAPE), 0.01, made).test(marked(DENSE[0]))
    assert (loose.status, loose.evidence) == (WATERMARKED, KEY_BASED)
    assert (loose.nulls.hits, loose.nulls.images) == (0, 400)
    assert loose.nulls.bound == pytest.approx(made.smallest_level)
    (strict,) = family({"a": DENSE[0]}, IDENTITY, 1e-6, made).test(marked(DENSE[0]))
    assert (strict.status, strict.evidence) == (WATERMARKED, KEY_BASED)
    (none,) = family({"a": DENSE[0]}, IDENTITY, 1e-6, made).test(coloured(1, seed=99).astype(float))
    assert none.status == NOT_DETECTED
    assert none.nulls.hits > 0


def test_nulls_of_the_family_are_the_best_of_all_keys_and_transformations():
    made = nulls(coloured(40))
    keys = {"a": DENSE[0], "b": RINGS}
    both = family(keys, plain_transforms(SHAPE), calibration=made)
    expected = np.ones(40)
    for own, other in made.halves():
        for key in keys.values():
            whitening = made.whitening(key.pattern, other)
            for transform in both.transforms:
                view = undo(made.noise[own].astype(float), transform)
                p = 8 * detect(view, key, whitening=whitening).p_value
                expected[own] = np.minimum(expected[own], p)
    seen = []
    both.count(lambda *numbers: seen.append(numbers))
    assert seen[-1] == (40, 40)
    for p in (1e-9, *np.quantile(expected, [0.1, 0.5]), 1.0):
        assert both.null_rate("a", p) == both.null_rate("b", p) == false_positives(expected, p * (1 + 1e-9))


def test_null_images_that_fit_as_well_speak_against_a_verdict():
    """Half of the images taken for unmarked carry the key."""
    dirty = np.concatenate([marked(DENSE[0], 20), white(20)])[np.random.default_rng(0).permutation(40)]
    keys = {"a": DENSE[0], "b": DENSE[1]}
    (found,) = family(keys, calibration=nulls(dirty)).test(marked(DENSE[0], seed=5, strength=0.4))
    assert found.status == INCONCLUSIVE
    assert "null images" in found.reason
    second = marked(DENSE[1], seed=7, strength=0.8) + marked(DENSE[0], seed=5, strength=0.2)
    (found,) = family(keys, calibration=nulls(dirty)).test(second)
    assert found.other_keys == ()


def test_a_key_that_suits_the_images_does_not_accuse_the_most_extreme_of_them():
    """Null images whose p would all be below the level: whatever image comes is one of many."""
    noise = np.concatenate([marked(DENSE[0], 350, strength=0.35)])
    suits = family({"a": DENSE[0]}, calibration=nulls(noise[:50]))
    status = [found.status for found in suits.test(noise[50:])]
    assert WATERMARKED not in status
    assert status.count(INCONCLUSIVE) > 250
    (plain,) = suits.test(white(1))
    assert plain.status == NOT_DETECTED


def test_nothing_undone_is_the_identity():
    z = white(2)
    assert np.array_equal(undo(z, UNCHANGED), z)


LEVELS = RingKey(bytes([70]) * 32, Pattern("levels"))


def test_p_over_the_draws_counts_every_transformation():
    key, transforms = tree_ring_key(3, SHAPE, pattern="rand", radius=8), plain_transforms(SHAPE)
    noise = white(1, seed=4) + np.fft.ifft2(0.15 * key.mark).real
    (found,) = family({"a": key}, transforms).test(noise)
    least = min(detect_array(undo(noise, t), key).p_value[0] for t in transforms)
    assert found.p_value == pytest.approx(8 * least, rel=1e-6, abs=0)
    assert found.p_value < 1


@pytest.mark.parametrize(
    ("others", "transforms", "tried"), [({}, plain_transforms(SHAPE), 8), (dict(enumerate(DENSE)), IDENTITY, 7)]
)
def test_what_is_out_of_reach_counts_all_that_is_tried(others, transforms, tried):
    keys = {"few": LEVELS} | {str(name): key for name, key in others.items()}
    (found,) = family(keys, transforms, 5e-5).test(marked(LEVELS, strength=1))
    assert (found.status, found.key) == (INCONCLUSIVE, "few")
    assert f"{tried * 2.0**-16:.2g} at best" in found.reason


def test_other_keys_are_named_with_all_that_were_looked_for():
    both = marked(DENSE[0], strength=0.8) + marked(DENSE[1], seed=1, strength=0.2)
    keys = {"a": DENSE[0], "b": DENSE[1], "zeros": ZEROS}
    (fit,) = family({"b": DENSE[1]}).test(both)
    (found,) = family(keys, fpr=1.5 * fit.p_value).test(both)  # Holm: twice its p, as zeros was looked for, too
    assert (found.status, found.key, found.other_keys) == (WATERMARKED, "a", ())
    (found,) = family(keys, fpr=2.1 * fit.p_value).test(both)
    assert found.other_keys == ("b",)


def test_null_images_speak_against_a_key_at_its_share_of_the_level():
    keys = {str(i): key for i, key in enumerate(DENSE)}
    (found,) = family(keys, fpr=0.05, calibration=nulls(white(400, seed=9))).test(marked(DENSE[0]))
    assert (found.status, found.key) == (WATERMARKED, "0")


def test_null_images_have_to_support_the_level_for_all_keys_together():
    noise = white(1) + np.fft.ifft2(2 * THEIRS.mark).real
    keys = {"a": THEIRS, "b": DENSE[0]}
    (found,) = family(keys, fpr=0.02, calibration=nulls(white(200, seed=9))).test(noise)
    assert found.p_value == 2 / 201
    assert found.nulls.bound < 0.02 < 2 * found.nulls.bound
    assert found.status == INCONCLUSIVE

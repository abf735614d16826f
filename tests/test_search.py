import numpy as np
import pytest
import torch
from scipy import stats

from watermark import Pattern, RingKey, detect, watermarked_noise
from watermark.search import holm, key_matrix, p_of, random_directions, search, search_vectors
from watermark.transforms import Transform
from watermark.views import undo

SHAPE = (4, 32, 32)
ANGLES = tuple(Transform(angle=10.0 * i) for i in range(36))


def keys_of(kind, count, start=0):
    return [RingKey((start + i).to_bytes(32, "big"), Pattern(kind)) for i in range(count)]


def white(count, seed=0):
    return np.random.default_rng(seed).standard_normal((count, *SHAPE))


def marked(key, count=1, seed=0, strength=0.7):
    g = torch.Generator().manual_seed(seed)
    return watermarked_noise(key, (count, *SHAPE), strength=strength, generator=g, dtype=torch.float64).numpy()


@pytest.mark.parametrize("kind", ["rings", "levels", "dense"])
def test_alone_it_is_the_test_itself(kind):
    keys = keys_of(kind, 5)
    noise = np.concatenate([white(2), marked(keys[3], 2)])
    for sample, match in zip(noise, search(noise, keys), strict=True):
        tests = [detect(sample[None], key) for key in keys]
        p = np.array([t.p_value[0] for t in tests])
        if kind != "levels" or p.min() < 0.01:
            assert match.single_p_value == pytest.approx(p.min(), rel=1e-6, abs=0)
            assert match.p_value == pytest.approx(min(1, 5 * p.min()), rel=1e-6, abs=0)
            assert match.rho == pytest.approx(tests[match.key].rho[0])
        assert match.family == 5
    assert [m.key for m in search(marked(keys[3], 2), keys)] == [3, 3]


@pytest.mark.parametrize("kind", ["rings", "levels", "dense"])
def test_one_of_many_is_identified_and_a_strangers_is_not(kind):
    keys = keys_of(kind, 300)
    directions = key_matrix(keys, SHAPE)
    for i in (0, 123, 299):
        (match,) = search_vectors(marked(keys[i], seed=i), directions, keys[0].pattern, (Transform(),), None, 0)
        assert match.key == i
        assert match.p_value < (0.1 if kind == "levels" else 1e-3)
    (nobody,) = search(marked(keys_of(kind, 1, 10**6)[0]), keys)
    assert nobody.p_value > 1e-3


@pytest.mark.parametrize("decoys", [0, 2000])
def test_the_best_of_a_family_is_not_significant_by_being_the_best(decoys):
    """1,000 null samples, 20 keys, 12 shifts: errors of any kind are at most as many as allowed."""
    keys = keys_of("dense", 20)
    transforms = [Transform(shift=(i, j)) for i in range(-1, 2) for j in range(4)]
    p = np.array([m.p_value for m in search(white(1000, seed=4), keys, transforms, decoys=decoys)])
    for level in (0.05, 0.2):
        assert stats.binomtest(int((p <= level).sum()), len(p), level, "greater").pvalue > 1e-3


def test_decoys_know_what_the_transformations_have_in_common():
    """Ten times the same transformation is one: Bonferroni pays for ten, decoys do not."""
    key, same = keys_of("dense", 1), [Transform()] * 10
    noise = marked(key[0], strength=0.08, seed=3)
    single = detect(noise, key[0]).p_value[0]
    (bonferroni,), (decoy,) = search(noise, key, same), search(noise, key, same, decoys=20_000)
    assert 1e-3 < single < 0.1
    assert bonferroni.p_value == pytest.approx(10 * single, rel=1e-6, abs=0)
    assert decoy.p_value == pytest.approx(single, rel=0.3, abs=0)


@pytest.mark.parametrize(
    "transform",
    [
        Transform(angle=30),
        Transform(angle=-75),
        Transform(angle=180),
        Transform(flip=True),
        Transform(flip=True, angle=20),
        Transform(shift=(3, -2)),
        Transform(shift=(0.5, 0.25)),
        Transform(crop=0.8),
        Transform(crop=(1.0, 0.75)),
        Transform(crop=(0.8, 0.9), shift=(3, -2)),
    ],
)
def test_a_transformed_mark_is_found_by_undoing_it(transform):
    from scipy import ndimage

    key = keys_of("dense", 1)[0]
    noise = marked(key, strength=1.0)
    changed = noise
    if transform.flip:
        changed = changed[..., ::-1]
    if transform.angle:
        changed = np.stack(
            [np.rot90(changed, 2, (-2, -1))]
            if transform.angle == 180
            else [ndimage.rotate(changed, transform.angle, axes=(-1, -2), reshape=False, order=3, mode="constant")]
        )[0]
    if transform.shift == (3, -2):
        changed = np.roll(changed, (3, -2), (-2, -1))
    elif transform.shift != (0.0, 0.0):
        phase = [-2j * np.pi * s * np.fft.fftfreq(32) for s in transform.shift]
        changed = np.fft.ifft2(np.fft.fft2(changed) * np.exp(phase[0][:, None] + phase[1][None, :])).real
    if transform.crop != 1:
        grids = [(1 - share) / 2 * 32 - 0.5 + share * (np.arange(32) + 0.5) for share in transform.shares]
        where = np.meshgrid(*grids, indexing="ij")
        changed = np.stack([ndimage.map_coordinates(c, where, order=3) for c in changed[0]])[None]
    others = [Transform(), Transform(angle=90), Transform(shift=(5, 5)), transform]
    (match,) = search(changed, [key], others)
    assert match.transform == 3
    assert match.p_value < 1e-6
    assert match.rho > 0.4
    if transform.shift != (0.5, 0.25) and transform.crop != (1.0, 0.75):  # these leave much as it was
        assert detect(changed, key).p_value[0] > 1e-4


def test_ten_thousand_keys_under_thirty_six_angles_is_matrix_work():
    """The search itself; how long it takes is measured in the benchmarks, not here."""
    rng = np.random.default_rng(0)
    keys = keys_of("dense", 3)
    directions = rng.standard_normal((10_000, key_matrix(keys, SHAPE).shape[1]))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    directions[77] = key_matrix(keys[:1], SHAPE)[0]
    noise = undo(marked(keys[0], strength=1.0), Transform(angle=-50))
    (match,) = search_vectors(noise, directions, keys[0].pattern, ANGLES, None, 0)
    assert (match.key, match.transform, match.family) == (77, 5, 360_000)
    assert match.p_value < 1e-6


def test_holm_is_never_below_bonferroni_of_the_rest_and_controls_the_family():
    p = np.array([0.01, 0.04, 0.03, 0.005])
    np.testing.assert_allclose(holm(p), [0.03, 0.06, 0.06, 0.02])
    rng, errors = np.random.default_rng(0), 0
    for _ in range(2000):
        p = np.concatenate([np.full(3, 1e-9), rng.random(17)])
        errors += bool((holm(p)[3:] <= 0.05).any())
    assert stats.binomtest(errors, 2000, 0.05, "greater").pvalue > 1e-3


def test_whitening_is_used():
    key = keys_of("dense", 1)
    noise = marked(key[0], strength=0.2)
    scale = np.linspace(0.2, 3, 16).reshape(2, 8)
    (match,) = search(noise, key, whitening=scale)
    assert match.single_p_value == pytest.approx(detect(noise, key[0], whitening=scale).p_value[0], rel=1e-6, abs=0)


def test_an_image_cannot_be_made_to_avoid_the_decoys():
    """Decoys of other keys are others: an image that fits none of one key's fits those of another as any does."""
    key, other = keys_of("dense", 2)
    drawn = {k: random_directions(300, key_matrix([k], SHAPE), "dense") for k in (key, other)}
    assert np.array_equal(drawn[key], random_directions(300, key_matrix([key], SHAPE), "dense"))
    assert np.abs(drawn[key] @ drawn[other].T).max() < 0.25


@pytest.mark.parametrize("concentrated", [3, 8, 16])
def test_levels_hold_over_the_keys_at_large_p_too(concentrated):
    pattern = Pattern("levels")
    shape = (1, *SHAPE)
    keys = [RingKey(i.to_bytes(32, "big"), pattern) for i in range(1500)]
    y = np.zeros(16)
    y[:concentrated] = np.linspace(1, 1.3, concentrated)
    directions = key_matrix(keys, shape)
    p = p_of(directions @ y / np.linalg.norm(y), np.tile(y, (len(keys), 1)), directions, "levels")
    for level in (0.02, 0.1, 0.3, 0.5):
        assert stats.binomtest(int((p <= level).sum()), len(p), level, "greater").pvalue > 1e-3


@pytest.mark.parametrize("kind", ["dense", "rings", "levels"])
@pytest.mark.parametrize("decoys", [0, 200])
def test_a_search_in_parts_finds_the_same(kind, decoys, monkeypatch):
    keys = keys_of(kind, 5)
    noise = np.concatenate([white(2, seed=5), undo(marked(keys[2], seed=6), ANGLES[7])])
    whole = search(noise, keys, ANGLES, decoys=decoys)
    monkeypatch.setattr("watermark.search.MOST_NUMBERS", 5000)  # a few transformations of one sample at a time
    for one, other in zip(whole, search(noise, keys, ANGLES, decoys=decoys), strict=True):
        assert (one.key, one.transform, one.family) == (other.key, other.transform, other.family)
        np.testing.assert_allclose(one.per_key, other.per_key, rtol=1e-9)
        np.testing.assert_allclose([one.rho, one.p_value], [other.rho, other.p_value], rtol=1e-9)


def test_bad_arguments_are_named():
    keys = keys_of("rings", 2)
    with pytest.raises(ValueError, match="at least one key"):
        search(white(1), [])
    with pytest.raises(ValueError, match="one pattern"):
        search(white(1), [keys[0], keys_of("dense", 1)[0]])
    with pytest.raises(ValueError, match="zeros"):
        search(white(1), keys_of("zeros", 1))
    with pytest.raises(ValueError, match="decoys"):
        search(white(1), keys, decoys=-1)
    with pytest.raises(ValueError, match="zero"):
        search(np.zeros((1, *SHAPE)), keys)


def test_counted_p_is_never_less_than_one_in_all_that_were_tried():
    keys = [RingKey(bytes([i]) * 32) for i in range(6)]
    z = watermarked_noise(keys[0], (1, 4, 32, 32), generator=torch.Generator().manual_seed(0))
    (found,) = search(z.numpy(), keys, decoys=99)
    assert found.per_key.min() == pytest.approx(0.01)
    assert found.p_value == pytest.approx(0.06)

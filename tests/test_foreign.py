import os

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from scipy import stats

from watermark.draws import drawn_values
from watermark.foreign import ArrayKey, coordinates, detect_array, read_array_key
from watermark.published_keys import constant_ring_key, their_disc, tree_ring_key
from watermark.verify import why_unfit

SHAPE = (4, 64, 64)


def inject(z, key):
    """As tree-ring code does it: overwrite centred bins, transform back, drop the imaginary part."""
    spectrum = np.fft.fftshift(np.fft.fft2(z), axes=(-2, -1))
    values, mask = (np.fft.fftshift(a, axes=(-2, -1)) for a in (key.values, key.mask))
    spectrum = np.where(mask, values, spectrum)
    return np.fft.ifft2(np.fft.ifftshift(spectrum, axes=(-2, -1))).real


def white(count, seed=0, shape=SHAPE):
    return np.random.default_rng(seed).standard_normal((count, *shape))


KEYS = {
    **{f"tree-ring {p}": tree_ring_key(999999, SHAPE, pattern=p) for p in ("ring", "rand", "zeros")},
    "tree-ring, all channels": tree_ring_key(7, SHAPE, pattern="rand", channel=-1, radius=8),
    "constant": tree_ring_key(0, SHAPE, pattern="const", constant=100.0),
    "paper 0": constant_ring_key(0, SHAPE),
    "paper 2": constant_ring_key(2, SHAPE),
}


@pytest.mark.parametrize("name", KEYS)
def test_their_marks_are_found(name):
    own = detect_array(inject(white(10), KEYS[name]), KEYS[name])
    assert own.p_value.max() < 1e-6
    assert (detect_array(white(10, 1), KEYS[name]).p_value > 1e-4).all()


@pytest.mark.parametrize("name", KEYS)
def test_p_is_uniform_on_white_noise(name):
    p = np.concatenate([detect_array(1.7 * white(1000, seed), KEYS[name]).p_value for seed in range(3)])
    assert stats.kstest(p, "uniform").pvalue > 1e-3


def test_the_mark_is_what_real_noise_keeps_of_the_key():
    for key in (KEYS["tree-ring ring"], KEYS["tree-ring rand"], KEYS["paper 0"]):
        kept = np.fft.fft2(inject(np.zeros((1, *SHAPE)), key))[0]
        np.testing.assert_allclose(kept, key.mark, atol=1e-9)


def test_their_keys_are_drawn_as_their_code_draws_them():
    """From its description: seed, draw, transform, centre; rings from the first row, outermost first."""
    torch.manual_seed(999999)
    drawn = torch.randn(1, 4, 64, 64)
    transform = torch.fft.fftshift(torch.fft.fft2(drawn), dim=(-1, -2)).numpy()
    expected, (y, x) = transform.copy(), np.ogrid[:64, :64]
    for r in range(10, 0, -1):
        disc = (x - 32) ** 2 + (y[::-1] - 32) ** 2 <= r**2
        for c in range(4):
            expected[:, c, disc] = transform[0, c, 0, r]
    key = KEYS["tree-ring ring"]
    values, mask = (np.fft.fftshift(a, axes=(-2, -1)) for a in (key.values, key.mask))
    assert np.array_equal(mask[3], disc_of_radius_10 := their_disc(64, 10))
    assert not mask[:3].any()
    assert disc_of_radius_10.sum() == 317
    np.testing.assert_allclose(values[3][mask[3]], expected[0, 3][mask[3]], rtol=1e-5, atol=1e-3)


def test_the_global_random_state_is_left_alone():
    before = torch.get_rng_state()
    tree_ring_key(1, SHAPE)
    assert torch.equal(torch.get_rng_state(), before)


def test_keys_in_files(tmp_path):
    key = KEYS["tree-ring ring"]
    values, mask = (np.fft.fftshift(a, axes=(-2, -1)) for a in (key.values, key.mask))
    np.save(tmp_path / "values.npy", values[None].astype(np.complex64))
    np.save(tmp_path / "mask.npy", mask[None])
    save_file(
        {
            "values": torch.view_as_real(torch.from_numpy(values.astype(np.complex64))),
            "mask": torch.from_numpy(mask),
        },
        tmp_path / "key.safetensors",
    )
    noise = inject(white(2), key)
    expected = detect_array(noise, ArrayKey(key.values, key.mask))  # these files do not say how it was drawn
    for read in (
        read_array_key(tmp_path / "values.npy", mask=tmp_path / "mask.npy"),
        read_array_key(tmp_path / "key.safetensors"),
    ):
        assert np.array_equal(read.mask, key.mask)
        np.testing.assert_allclose(detect_array(noise, read).statistic, expected.statistic, rtol=1e-4)


@pytest.mark.parametrize("pattern", ["ring", "rand"])
@pytest.mark.parametrize("channel", [3, -1])
def test_p_is_exact_over_the_draws_for_any_image(pattern, channel):
    """For noise that is anything but white: smooth, and marked with another key of the same code."""
    keys = [tree_ring_key(seed, (4, 32, 32), pattern=pattern, channel=channel, radius=6) for seed in range(400)]
    other = tree_ring_key(10**6, (4, 32, 32), pattern=pattern, channel=channel, radius=6)
    ramp = np.cumsum(np.cumsum(white(1, 3, (4, 32, 32)), axis=-1), axis=-2)
    for image in (inject(white(1, 4, (4, 32, 32)), other), ramp - ramp.mean((-2, -1), keepdims=True)):
        p = np.concatenate([detect_array(image, key).p_value for key in keys])
        assert stats.kstest(p, "uniform").pvalue > 1e-3


@pytest.mark.parametrize("pattern", ["ring", "rand"])
def test_draws_are_what_the_mark_is_made_of(pattern, monkeypatch):
    monkeypatch.setattr("watermark.draws.RIDGE", 1e-9)
    key = tree_ring_key(5, (4, 32, 32), pattern=pattern, radius=6)
    drawn = drawn_values(key.draws, key.values)
    assert len(drawn) == (6 if pattern == "ring" else np.abs(key.draws).max())
    r = key.regression
    found = r.estimate(coordinates(key.mark[None], r.pairs, r.own))[0]
    if (
        pattern == "rand"
    ):  # real values of bins that are their own conjugates are no draws: nothing of them is tested
        assert (key.mask & (key.draws == 0)).sum() == 1
    np.testing.assert_allclose(found, r.parts(drawn), rtol=1e-4, atol=1e-4)
    assert len(found) == 2 * len(drawn)


def test_parts_that_real_noise_cannot_hold_do_not_count():
    """At odd sizes the discs of that code are symmetric, so that nothing of imaginary parts is left."""
    key = tree_ring_key(5, (4, 33, 33), radius=6)
    noise = white(1, 1, (4, 33, 33)) + np.fft.ifft2(3 * key.mark).real
    found = detect_array(noise, key)
    assert found.degrees_of_freedom == 5
    assert found.p_value[0] < 1e-3
    images = inject(white(1, 4, (4, 33, 33)), tree_ring_key(10**6, (4, 33, 33), radius=6))
    keys = [tree_ring_key(seed, (4, 33, 33), radius=6) for seed in range(400)]
    p = np.concatenate([detect_array(images, key).p_value for key in keys])
    assert stats.kstest(p, "uniform").pvalue > 1e-3


def test_noise_that_holds_nothing_of_the_draws_has_no_small_p():
    key = tree_ring_key(5, (4, 32, 32), pattern="rand", radius=6)
    assert detect_array(np.ones((1, 4, 32, 32)), key).p_value[0] == 0.5


def test_noise_of_the_seed_of_random_values_is_their_key():
    """A picture that was made of the very seed of the key, without a mark: nothing can tell."""
    z = torch.randn((1, *SHAPE), generator=torch.Generator().manual_seed(42))
    assert detect_array(z, tree_ring_key(42, SHAPE, pattern="rand")).p_value[0] < 1e-100
    assert detect_array(z, tree_ring_key(42, SHAPE, pattern="ring")).p_value[0] > 1e-3


def test_draws_in_files(tmp_path):
    key = tree_ring_key(5, (4, 32, 32), radius=6)
    key.save(tmp_path / "key.safetensors")
    read = read_array_key(tmp_path / "key.safetensors")
    assert np.array_equal(read.draws, key.draws)
    noise = inject(white(1, 2, (4, 32, 32)), key)
    assert detect_array(noise, read).p_value == detect_array(noise, key).p_value
    tree_ring_key(5, (4, 32, 32), pattern="zeros").save(tmp_path / "zeros.safetensors")
    assert read_array_key(tmp_path / "zeros.safetensors").draws is None

    inside = np.argwhere(key.draws == 2)[0]
    for where, number in ((inside, 3), (inside, 10**15), (inside, -(2**63)), ((0, 0, 0), 1)):
        wrong = key.draws.copy()
        wrong[tuple(where)] = number
        with pytest.raises(ValueError, match="draw"):
            ArrayKey(key.values, key.mask, wrong)
    with pytest.raises(ValueError, match="draws must be numbered from 1"):
        ArrayKey(key.values, key.mask, 2 * key.draws)
    with pytest.raises(ValueError, match="draws must number bins"):
        ArrayKey(key.values, key.mask, 0 * key.draws)
    with pytest.raises(ValueError, match="nothing of these draws"):
        ArrayKey(0 * key.values, key.mask, key.draws)
    tensors = {"values": torch.from_numpy(key.values.astype(np.complex64)), "mask": torch.from_numpy(key.mask)}
    numbers = torch.from_numpy(key.draws)
    for bad in (torch.ones(3, dtype=torch.int64), numbers.double(), numbers.bfloat16()):
        save_file(tensors | {"draws": bad}, tmp_path / "bad.safetensors")
        with pytest.raises(ValueError, match="signed integers"):
            read_array_key(tmp_path / "bad.safetensors")


@pytest.mark.parametrize("pattern", ["ring", "rand", "const"])
def test_keys_that_were_changed_in_their_files_are_refused(pattern, tmp_path):
    """Whatever bit it is: a key that is another one would say of every picture that it is not marked."""
    key, file = (
        tree_ring_key(5, (2, 8, 8), pattern=pattern, channel=1, radius=3, constant=7),
        tmp_path / "k.safetensors",
    )
    key.save(file)
    raw = file.read_bytes()
    data = 8 + int.from_bytes(raw[:8], "little")
    rng = np.random.default_rng(1)
    for at in (*rng.integers(data, len(raw), 200), *rng.integers(0, data, 50)):
        changed = bytearray(raw)
        changed[at] ^= 1 << rng.integers(8)
        file.write_bytes(changed)
        try:
            read = read_array_key(file)
        except ValueError as error:
            assert "is not a key" in str(error)  # noqa: PT017 - of some bits of the header nothing comes
        else:
            assert at < data
            assert np.array_equal(read.values, key.values)
            assert np.array_equal(read.mask, key.mask)
    save_file(
        {"values": torch.ones(2, 8, 8), "mask": torch.ones(2, 8, 8)}, file, {"sha256 of the arrays": "0" * 64}
    )
    with pytest.raises(ValueError, match="was changed since it was written"):
        read_array_key(file)


def npy_header(fields):
    """A .npy file of version 1 of a header alone."""
    return b"\x93NUMPY\x01\x00" + len(fields).to_bytes(2, "little") + fields.encode()


def test_files_that_are_no_keys_are_refused(tmp_path):
    np.save(tmp_path / "pickled.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    (tmp_path / "bad.safetensors").write_bytes(b"nonsense")
    with pytest.raises(ValueError, match="mask"):
        read_array_key(tmp_path / "pickled.npy")
    with pytest.raises(ValueError, match="is not a key"):
        read_array_key(tmp_path / "pickled.npy", mask=tmp_path / "pickled.npy")
    with pytest.raises(ValueError, match="is not a key"):
        read_array_key(tmp_path / "bad.safetensors")
    (tmp_path / "zip.npy").write_bytes(b"PK\x03\x04 and no more")
    np.save(tmp_path / "text.npy", np.full((4, 8, 8), "x"))
    np.save(tmp_path / "numbers.npy", np.ones((4, 8, 8)))
    np.save(tmp_path / "line.npy", np.ones(8))
    np.save(tmp_path / "nan.npy", np.full((4, 8, 8), np.nan))
    np.save(tmp_path / "five.npy", np.ones((1, 4, 8, 8, 1)))
    (tmp_path / "nested.npy").write_bytes(npy_header("{'descr': '<f8', 'fortran_order': " + "-" * 5000 + "1}"))
    huge = "{'descr': '<f8', 'fortran_order': False, 'shape': (4, 8, 10000000000000)}"
    (tmp_path / "huge.npy").write_bytes(npy_header(huge))
    wrong = [("zip", "numbers"), ("numbers", "zip"), ("text", "numbers"), ("numbers", "text"), ("line", "line")]
    wrong += [("five", "numbers"), ("nested", "numbers"), ("huge", "numbers")]
    for values, mask in (*wrong, ("numbers", "nan")):
        with pytest.raises(ValueError, match="is not a key"):
            read_array_key(tmp_path / f"{values}.npy", mask=tmp_path / f"{mask}.npy")
    with pytest.raises(OSError, match="none"):
        read_array_key(tmp_path / "none.npy", mask=tmp_path / "none.npy")


def test_keys_that_no_noise_can_be_tested_for_are_named():
    lonely = np.zeros((4, 32, 32), dtype=bool)
    lonely[0, 3, 5] = True
    nothing = ArrayKey(np.zeros((4, 32, 32), dtype=complex), lonely)
    everything = tree_ring_key(0, (4, 32, 32), pattern="zeros", radius=15)
    for key, reason in ((nothing, "real noise can hold nothing"), (everything, "no bins around")):
        assert reason in why_unfit(key, (4, 32, 32))
    assert "it is made for latents of" in why_unfit(everything, (4, 64, 64))
    assert why_unfit(tree_ring_key(0, (4, 32, 32), pattern="zeros", radius=5), (4, 32, 32)) is None


def test_masks_are_of_truth_values():
    key = tree_ring_key(5, (4, 16, 16), radius=4)
    with pytest.raises(ValueError, match="dtype bool"):
        ArrayKey(key.values, key.mask.astype(int))


def test_videos_and_bad_arguments():
    key = constant_ring_key(1, (4, 32, 32), level=40.0)
    video = np.stack([inject(white(2, seed, (4, 32, 32)), key) for seed in range(5)], axis=2)
    assert detect_array(video, key).p_value.max() < detect_array(video[:, :, 0], key).p_value.max()
    with pytest.raises(ValueError, match="does not fit"):
        detect_array(white(1), key)
    with pytest.raises(ValueError, match="zero"):
        detect_array(np.zeros((1, 4, 32, 32)), key)
    with pytest.raises(ValueError, match="same shape"):
        ArrayKey(np.zeros((4, 8, 8), dtype=complex), np.ones((4, 8, 9), dtype=bool))
    with pytest.raises(ValueError, match="at least one bin"):
        ArrayKey(np.zeros((4, 8, 8), dtype=complex), np.zeros((4, 8, 8), dtype=bool))
    with pytest.raises(ValueError, match="finite"):
        ArrayKey(np.full((4, 8, 8), np.nan, dtype=complex), np.ones((4, 8, 8), dtype=bool))
    for bad, word in (({"pattern": "rings"}, "pattern"), ({"channel": 4}, "channel"), ({"radius": 32}, "radius")):
        with pytest.raises(ValueError, match=word):
            tree_ring_key(0, SHAPE, **bad)
    with pytest.raises(ValueError, match="number"):
        constant_ring_key(4, SHAPE)
    with pytest.raises(ValueError, match="radius"):
        constant_ring_key(0, SHAPE, radius=7)


def test_secret_arrays_are_not_in_the_repr():
    assert "array" not in repr(KEYS["paper 0"])


class Evil:
    """Makes a directory when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_files_of_keys_run_no_code(tmp_path):
    np.save(tmp_path / "v.npy", np.array([Evil(str(tmp_path / "ran"))], dtype=object), allow_pickle=True)
    np.save(tmp_path / "m.npy", np.ones((4, 8, 8)))
    for values, mask in (("v", "m"), ("m", "v")):
        with pytest.raises(ValueError, match="is not a key"):
            read_array_key(tmp_path / f"{values}.npy", mask=tmp_path / f"{mask}.npy")
    assert not (tmp_path / "ran").exists()

"""What the benchmarks measure with."""

import numpy as np
import pytest
import torch

from benchmarks import identification, identification_keys
from benchmarks.decoder_inversion import errors_along
from benchmarks.latents import generated, nmse, off_range, round_to_8_bits, video
from benchmarks.record import peak_memory
from inversion.solvers import Stop, forward_step
from tests.problems import linear_autoencoder
from tests.test_solvers import linear, matrices
from watermark.foreign import detect_array
from watermark.search import IDENTITY, Transform


def test_nmse_is_in_decibels():
    z = torch.full((2, 4, 3, 3), 2.0)
    found = z.clone()
    found[0] += 0.2
    found[1] += 0.02
    torch.testing.assert_close(nmse(found, z), torch.tensor([-20.0, -40.0]), rtol=1e-4, atol=0)


def test_rounding_keeps_what_8_bits_can_hold():
    levels = torch.arange(256.0) / 127.5 - 1
    torch.testing.assert_close(round_to_8_bits(levels), levels)
    assert round_to_8_bits(torch.tensor([-1.2, 0.001, 1.3])).tolist() == pytest.approx([-1, 1 / 255, 1], abs=1e-6)


def test_pictures_come_with_the_latents_they_were_decoded_from(sapling):
    pictures = generated(7, seed=3, steps=2)
    assert pictures.guidance.tolist() == [1.0, 1.0, 3.0, 3.0, 7.5, 7.5, 1.0]
    assert pictures.marked.tolist() == [False, True, False, True, False, True, False]
    torch.testing.assert_close(sapling.autoencoder.decode(pictures.z), pictures.x, rtol=0, atol=1 / 255 + 1e-3)


def test_videos_move_and_come_with_their_latents(sapling):
    z, x = video(sapling.autoencoder, 3)
    assert z.shape == (2, 4, 3, 32, 32)
    assert x.shape == (2, 3, 3, 128, 128)
    assert (x[:, :, 0] - x[:, :, 2]).abs().mean() > 0.02
    y = sapling.autoencoder.decode(z[:, :, 1])
    torch.testing.assert_close(y, x[:, :, 1], rtol=0, atol=1 / 255 + 1e-3)


def test_off_range_latents_are_where_they_are_said_to_be():
    ae = linear_autoencoder(dtype=torch.float32)
    x = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 0.2
    z, y = off_range(ae, x, 0.1)
    assert float((z - ae.encode(x)).std()) == pytest.approx(0.1, rel=0.05)
    torch.testing.assert_close(ae.decode(z), y, rtol=0, atol=1 / 255 + 1e-6)


def test_errors_along_a_path_are_those_of_its_iterates():
    truth = torch.ones(1, 2, dtype=torch.float64)
    residual = linear(matrices([0.5, 0.5]), truth)

    def solve(callback):
        return forward_step(residual, torch.zeros_like(truth), Stop(3), callback=callback)

    expected = 20 * torch.log10(torch.tensor([[0.5], [0.25], [0.125]], dtype=torch.float64))
    torch.testing.assert_close(errors_along(solve, truth)[1:], expected)


def test_peak_memory_counts_tensors():
    assert 4_000_000 <= peak_memory(lambda: torch.zeros(1_000_000)) < 4_100_000
    assert 8_000_000 <= peak_memory(lambda: torch.zeros(1_000_000) + 1) < 8_100_000


def test_keys_are_identified_in_the_noise_that_carries_them(sapling):
    keys = identification_keys.all_keys(64, sapling.latent_shape)
    noise = {kind: identification.marked_noise(sapling, kind, 40).double().numpy() for kind in identification_keys.KINDS}
    for test in identification_keys.TESTS[:4]:
        for z, transforms in (
            (noise[test], IDENTITY),
            (noise[test][..., ::-1], (Transform(), Transform(flip=True))),
        ):
            placed = identification.place(keys[test], z, 40, transforms, (32, 64))
            assert [first for first, _ in placed] == [True, True]
            assert placed[1][1] == 2 * placed[0][1]
        assert not identification.place(keys[test], noise[test], 41, IDENTITY, (64,))[0][0]
        assert keys[test].test(noise["unmarked"], IDENTITY)[0].min() > 1e-4
    p, best = keys["tree-ring"].test(noise["tree-ring"], IDENTITY)
    foreign = [detect_array(noise["tree-ring"], identification_keys.their_key(i, sapling.latent_shape)) for i in (3, 40)]
    np.testing.assert_allclose(p[[3, 40]], [d.p_value[0] for d in foreign], rtol=1e-6)
    assert best == 40
    key = identification_keys.their_key(40, sapling.latent_shape)
    distance, _ = keys["tree-ring, L1"].test(noise["tree-ring"], IDENTITY)
    spectrum = np.fft.fft2(noise["tree-ring"][0])
    assert distance[40] == pytest.approx(np.abs(spectrum - key.values)[key.mask].mean())


def test_averages_are_over_conditions_and_their_intervals_over_pictures():
    value = identification.bootstrap(np.array([0.0, 0.5, 1.0, 1.0] * 12))
    assert value["mean"] == pytest.approx(0.625)
    assert value["ci95"] == pytest.approx(
        [0.625 - 1.96 * 0.4146 / 48**0.5, 0.625 + 1.96 * 0.4146 / 48**0.5], abs=0.02
    )
    assert all(name in identification.ATTACKS for name in identification.CONDITIONS[1:])
    assert all(set(names) <= set(identification.CONDITIONS) for names in identification.AVERAGES.values())

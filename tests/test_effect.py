"""What a key does to noise, against closed forms."""

import csv
import dataclasses
import io
import json

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from scipy import stats

from watermark import KeyStore, Pattern, RingKey, watermarked_noise
from watermark.cli import main
from watermark.effect import distance_from_normal, effect, marked_noises, shared_part
from watermark.features import key_vector
from watermark.keys import KINDS
from watermark.plots import effect_figure, show_spectrum
from watermark.rings import rings_for

SHAPE = (4, 32, 32)
SHAPES = [SHAPE, (4, 17, 23), (4, 3, 16, 24)]
KEYED = [kind for kind in KINDS if kind != "zeros"]


def key(kind, number=1, **pattern):
    return RingKey(number.to_bytes(32, "big"), Pattern(kind, **pattern))


def share(pattern, shape):
    rings = rings_for((1, *shape), pattern)
    return len(rings.channels) / shape[0] * rings.bins.sum() / rings.index.size


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("strength", [0.4, 1.0])
def test_shares_and_energies(kind, shape, strength):
    found = effect(key(kind), shape, strength=strength, draws=2)
    marked = share(Pattern(kind), shape)
    n = np.prod(shape)
    assert found.marked_share == pytest.approx(marked)
    assert found.marked_bins == round(marked * n)
    expected = (0, strength**2 * marked) if kind == "zeros" else (strength**2 * marked, 0)
    assert (found.shared_energy, found.missing_energy) == pytest.approx(expected)
    chi = stats.chi(n)
    assert found.plain_norm == pytest.approx(chi.mean() / np.sqrt(n), abs=1 / n**2)
    assert found.plain_norm_sd == pytest.approx(chi.std() / np.sqrt(n), rel=1e-3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_shared_part_is_what_is_left_without_noise_of_its_own(kind, shape):
    """At strength 1 the marked bins hold nothing else, so that noise filtered to them is the shared part."""
    k = key(kind)
    rings, shared = rings_for((1, *shape), k.pattern), shared_part(k, shape, 1.0)
    noise = watermarked_noise(k, (1, *shape), strength=1.0, dtype=torch.float64)[0].numpy()[list(rings.channels)]
    filtered = np.fft.ifft2(np.fft.fft2(noise) * (rings.index >= 0)).real
    expected = shared if len(shape) == 3 else np.repeat(shared[:, None], shape[1], 1)
    np.testing.assert_allclose(filtered, expected, atol=1e-9)
    norm = np.linalg.norm(key_vector(k, (1, *shape)))
    assert np.linalg.norm(shared_part(k, shape, 0.3)) == pytest.approx(0.3 * norm)


@pytest.mark.parametrize(("kind", "strength"), [*((kind, 0.7) for kind in KINDS), ("dense", 1.0), ("zeros", 1.0)])
def test_correlation_and_norm(kind, strength):
    """‖z‖² = Σ|F|²/n² is a sum of squares of mean a·c and variance 1 − a² in the marked bins, 1 elsewhere."""
    draws, n, a, f = 100, np.prod(SHAPE), strength, share(Pattern(kind), SHAPE)
    found = effect(key(kind), SHAPE, strength=a, draws=draws)
    error = np.sqrt(2 / n / draws**2 + 4 * found.shared_energy / n / draws)
    assert found.correlation == pytest.approx(found.shared_energy / (1 - found.missing_energy), abs=4 * error)
    lost = f * (1 - (1 - a**2) ** 2) if kind == "zeros" else f * a**4
    sd = np.sqrt((1 - lost) / (1 - found.missing_energy) / (2 * n))
    assert found.norm_sd == pytest.approx(sd, rel=4 / np.sqrt(2 * draws))
    assert found.norm == pytest.approx(np.sqrt(1 - found.missing_energy), abs=4 * sd / np.sqrt(draws) + 1 / n)


def test_distance_is_that_of_kolmogorov_and_smirnov():
    values = np.random.default_rng(0).standard_normal((200, 4, 16, 16))
    for z in values[:5]:
        assert distance_from_normal(z) == pytest.approx(stats.kstest(z.ravel(), "norm").statistic)
    distances = [distance_from_normal(z) for z in values]
    plain = effect(key("dense"), (4, 16, 16), draws=2).plain_distance
    assert np.mean(distances) == pytest.approx(plain, rel=0.05)


def test_one_noise_of_a_key_passes_as_normal_and_missing_energy_does_not():
    found = {kind: effect(key(kind), SHAPE, strength=1.0) for kind in KINDS}
    for kind in KEYED:
        assert found[kind].distance == pytest.approx(found[kind].plain_distance, abs=0.003)
    assert found["dense"].kurtosis == 0
    assert found["zeros"].distance > 2 * found["zeros"].plain_distance


def test_rings_add_up_in_the_corner_and_dense_keys_do_not():
    for number in range(20):
        k = key("rings", number)
        shared, rings = shared_part(k, SHAPE, 0.7), rings_for(SHAPE, k.pattern)
        values = key_vector(k, SHAPE).reshape(2, -1) @ np.sqrt(rings.bins)
        np.testing.assert_allclose(shared[:, 0, 0], 0.7 * values / 32)  # all cosines are 1 there
        dense = effect(key("dense", number), SHAPE, draws=2)
        assert dense.peak == dense.plain_peak
    multiples = [effect(key("rings", number), SHAPE, draws=2) for number in range(20)]
    assert max(found.peak / found.plain_peak for found in multiples) >= 3


@pytest.mark.parametrize(("shape", "outer"), [((32, 32), 15), ((64, 96), 20)])
def test_spectra_are_drawn_out_to_the_outermost_ring(shape, outer):
    rings = rings_for((1, *shape), Pattern("rings", (0,), 3, outer))
    (axes,) = Figure().subplots(1, 1, squeeze=False)[0]
    values = np.where(np.fft.fftshift(rings.index) >= 0, 1.0, 0.0)
    show_spectrum(axes, values, rings)
    assert axes.images[0].get_array().sum() == values.sum()
    expected = [min(side, side // 2 + 2 * (outer * side // min(shape) + 3)) for side in shape]
    assert all(drawn <= most for drawn, most in zip(axes.images[0].get_array().shape, expected, strict=True))


def test_plain_peak_is_the_median_of_white_noise():
    found = effect(key("dense"), SHAPE, draws=2)
    sd = 0.7 * np.sqrt(share(Pattern(), SHAPE) * 2)  # two of four channels
    peaks = np.abs(np.random.default_rng(0).standard_normal((2000, 2 * 32 * 32))).max(1)
    assert found.plain_peak == pytest.approx(sd * np.median(peaks), rel=0.01)


def test_kurtosis_is_that_of_the_mixture():
    """Every value is N(s, 1 − a² share); over all of them that is a mixture with known moments."""
    k, shape = key("rings", 2, channels=(0,)), (1, 32, 32)
    shared, v = shared_part(k, shape, 1.0), 1 - share(k.pattern, shape)
    fourth = (shared**4 + 6 * v * shared**2).mean() + 3 * v**2
    assert fourth - 3 > 1.5
    assert effect(k, shape, strength=1.0).kurtosis == pytest.approx(fourth - 3, abs=0.15)


def test_numbers_repeat_and_their_noise_is_known_to_the_key_alone():
    assert effect(key("rings"), SHAPE, draws=3) == effect(key("rings"), SHAPE, draws=3)
    others = [effect(key("dense", number), SHAPE, draws=2) for number in range(10)]
    assert len({(found.shared_energy, found.peak, found.plain_peak) for found in others}) == 1
    assert effect(key("rings"), SHAPE, draws=3) != effect(key("rings"), SHAPE, draws=3, seed=1)
    ways = [(key("zeros", 1), 0.7), (key("zeros", 2), 0.7), (key("zeros", 1), 0.6), (key("zeros", 1, outer=9), 0.7)]
    noises = [next(marked_noises(k, SHAPE, strength, 1)).ravel() for k, strength in ways]
    assert np.abs(np.corrcoef(noises) - np.eye(len(ways))).max() < 0.1  # two of one noise are equations for the key


def test_noise_has_more_seeds_than_a_generator():
    own = next(marked_noises(key("zeros"), SHAPE, 0.7, 1))
    k = key("zeros")
    low = int.from_bytes(k.derive(f"effect/{k.pattern}/{SHAPE}/0.7/0/0", 32)[:8], "big") >> 1
    seeded = torch.randn((1, *SHAPE), generator=torch.Generator().manual_seed(low), dtype=torch.float64)
    assert abs(np.corrcoef(own.ravel(), seeded.numpy().ravel())[0, 1]) < 0.1


def test_bad_arguments_are_named():
    for wrong, message in (
        ({"strength": 0.0}, "strength"),
        ({"strength": float("nan")}, "strength"),
        ({"draws": 1}, "draws"),
        ({"shape": (32, 32)}, "shape must be"),
        ({"shape": (1, 4, 3, 32, 32)}, "shape must be"),
        ({"shape": (4, 0, 32, 32)}, "from 1"),
        ({"shape": (4, 8, 8)}, "at least 16"),
    ):
        with pytest.raises(ValueError, match=message):
            effect(key("dense"), **({"shape": SHAPE} | wrong))


@pytest.mark.parametrize(("kind", "shape"), [("levels", (4, 2, 16, 24)), ("zeros", (4, 16, 16))])
def test_the_figure_shows_the_shared_part_and_the_power(kind, shape):
    axes = effect_figure(key(kind), shape, 0.7).axes
    shared = shared_part(key(kind), shape, 0.7)
    for panel, part in zip(axes, shared[:4], strict=False):
        np.testing.assert_allclose(panel.images[0].get_array(), part)
    plain, marked = (line.get_ydata() for line in axes[-2].lines)  # the last is the scale of the images
    inside = [r - 1 for r in rings_for((1, *shape), key(kind).pattern).radii]
    assert plain[inside].mean() == pytest.approx(1, abs=0.05)
    assert marked[inside].mean() == pytest.approx(0.51 if kind == "zeros" else 1, abs=0.1)


def test_effect_from_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TREERING_STORE", str(tmp_path / "keys.db"))
    store = KeyStore(tmp_path / "keys.db")
    store.create("alice")
    key_effect = effect(store.get("alice"), (4, 24, 32), strength=1.0)
    command = ["key", "effect", "alice", "--shape", "4,24,32", "--strength", "1"]
    assert main([*command, "--json"]) == 0
    expected = json.loads(json.dumps(dataclasses.asdict(key_effect)))
    assert json.loads(capsys.readouterr().out) == expected
    assert main([*command, "--csv", "-o", "effect.png"]) == 0
    told = capsys.readouterr()
    shown = {row["what"]: row for row in csv.DictReader(io.StringIO(told.out))}
    assert float(shown["shared energy"]["value"]) == pytest.approx(key_effect.shared_energy, rel=1e-3)
    assert (tmp_path / "effect.png").stat().st_size > 10_000
    assert "keep it as secret as the key" in told.err
    assert main(command) == 0
    assert "alice: dense, strength 1, noise of 4 × 24 × 32" in capsys.readouterr().out
    for wrong, message in (
        (["nobody"], "no key named 'nobody'"),
        (["alice", "--shape", "64x64"], "not numbers between commas"),
        (["alice", "--shape", "64,64"], "shape must be (C, H, W)"),
        (["alice", "--strength", "0"], "--strength"),
        (["alice", "-o", "effect.nonsense"], "nonsense"),
    ):
        assert main(["key", "effect", *wrong]) == 2
        assert message in capsys.readouterr().err


def test_what_may_be_shown_is_rounded():
    found = effect(RingKey(bytes(range(32)), Pattern("rings")), (4, 32, 32), draws=3)
    assert found.distance == round(found.distance, 3)
    assert found.kurtosis == round(found.kurtosis, 1)

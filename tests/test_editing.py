"""Editing within a mask, where the answer is known."""

from dataclasses import replace

import pytest
import torch

from inversion import editing, sample
from inversion.editing import blend, edit, latent_mask, prompt_mask
from inversion.trajectory import sampled_trajectory, trajectory
from tests.problems import gaussian_model, reading_model

Z = torch.randn(2, 4, 32, 32, generator=torch.Generator().manual_seed(8))
X = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(9)) - 0.5


def told(conditions):
    return conditions["prompt"].reshape(-1, 1, 1, 1)


@pytest.fixture(scope="module")
def model():
    """Gaussian latents; a prompt adds 1 to what is predicted in the upper left quarter."""
    plain = gaussian_model()
    where = torch.zeros(1, 1, 32, 32)
    where[..., :16, :16] = 1
    return replace(
        plain,
        conditions=lambda prompts, batch: {"prompt": torch.full((batch, 1), float(prompts is not None))},
        network=lambda z, t, c: plain.network(z, t, c) + told(c) * where,
    )


def half():
    mask = torch.zeros(2, 1, 32, 32)
    mask[..., 16:] = 1
    return mask


def test_an_edit_without_a_prompt_is_the_sampler_inside_and_the_path_outside(model):
    path = sampled_trajectory(model, Z, steps=10)
    shifted = replace(path, latents=path.latents + torch.linspace(0, 1, 11).reshape(1, -1, 1, 1, 1))
    everywhere = blend(model, shifted, None, torch.ones(2, 1, 32, 32))
    torch.testing.assert_close(everywhere, sample(model, shifted.noise, steps=10))
    nowhere = blend(model, shifted, None, torch.zeros(2, 1, 32, 32))
    assert torch.equal(nowhere, shifted.latents[:, 0])
    both = blend(model, shifted, None, half())
    assert torch.equal(both[..., :16], nowhere[..., :16])
    torch.testing.assert_close(both[..., 16:], everywhere[..., 16:])


def test_a_prompt_changes_the_inside_alone(model):
    path = sampled_trajectory(model, Z, steps=10)
    mask = torch.ones(2, 1, 32, 32)
    mask[..., 8:] = 0
    found = blend(model, path, "a thing", mask, guidance=2.0)
    assert torch.equal(found[..., 8:], path.latents[:, 0, ..., 8:])
    moved = found - path.latents[:, 0]
    assert moved[..., :16, :8].abs().min() > 0.1
    torch.testing.assert_close(moved[..., 16:, :8], torch.zeros(2, 4, 16, 8), atol=1e-4, rtol=0)


def test_the_mask_is_where_the_prompts_disagree(model):
    path = trajectory(model, Z, steps=10)
    mask = prompt_mask(model, path, "a thing")
    expected = torch.zeros(2, 1, 32, 32)
    expected[..., :16, :16] = 1
    assert float((mask - expected).abs().mean()) < 0.04  # the average over 3 × 3 rounds its edge
    assert prompt_mask(model, path, None).sum() == 0


@pytest.mark.parametrize("restore", [True, False])
def test_the_background_is_the_pictures_own(model, restore):
    """The linear autoencoder holds 4 of the 12 numbers of 2 × 2 pixels: the rest has to be given back."""
    seen = []
    pixels = torch.zeros(1, 1, 64, 64)
    pixels[..., :20] = 1
    found = edit(
        model, X, "a thing", mask=pixels, steps=5, restore=restore, progress=lambda *done: seen.append(done)
    )
    assert found.x.shape == X.shape
    assert found.mask[..., :10].min() == 1
    assert found.mask[..., 10:].max() == 0
    assert seen[-1] == (10, 10)
    kept = found.background == 1
    assert kept[..., 22:].all()
    error = ((found.x - X) * kept).abs().max()
    assert float((found.x - X)[..., :32, :20].abs().mean()) > 0.05
    assert (error < 1e-5) if restore else (error > 0.1)


def test_a_mask_covers_all_pixels_of_a_latent():
    mask = torch.zeros(1, 1, 8, 8)
    mask[0, 0, 3, 5] = 0.5
    found = latent_mask(mask, 2, (8, 8), 4)
    assert found.tolist() == [[[[0, 0.5], [0, 0]]]] * 2
    for wrong, message in ((mask[0], "must have shape"), (mask[..., :4], "must have shape"), (mask + 2, "within")):
        with pytest.raises(ValueError, match=message):
            latent_mask(wrong, 2, (8, 8), 4)


def test_models_that_take_no_text_are_refused(model):
    with pytest.raises(ValueError, match="does not make pictures from prompts"):
        edit(replace(model, takes_pictures=True), X, "a thing")


def test_wrong_arguments_are_refused_before_the_networks_run(model):
    calls = []
    encode = model.autoencoder.encode
    counted = replace(
        model,
        network=lambda z, t, c: calls.append(t) or model.network(z, t, c),
        autoencoder=replace(model.autoencoder, encode=lambda x: calls.append(x) or encode(x)),
    )
    for wrong in ({"mask": torch.ones(1, 1, 8, 8)}, {"steps": 0}, {"source": ["one", "two", "three"]}):
        with pytest.raises(ValueError, match=r"mask|steps|prompts"):
            edit(counted, X, "a thing", **wrong)
    assert not calls


@pytest.mark.parametrize("name", ["invert_decoder", "trajectory", "prompt_mask", "blend"])
def test_edit_uses_all_that_it_is_told(monkeypatch, name):
    seen, real = {}, getattr(editing, name)

    def spy(*others, **options):
        seen.update(options)
        return real(*others, **options)

    monkeypatch.setattr(editing, name, spy)
    told = {"source": "what is there", "decoder": "encoder", "guidance": 7.0}
    edit(reading_model(), X[:1], "a thing", steps=3, **told)
    expected = {
        "invert_decoder": {"method": "encoder"},
        "trajectory": {"prompt": "what is there"},
        "prompt_mask": {"source": "what is there"},
        "blend": {"guidance": 7.0},
    }
    assert seen.items() >= expected[name].items()

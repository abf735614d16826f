import math

import pytest
import torch

from inversion import invert_diffusion, sample
from inversion.diffusion import ddim_invert, ddim_sample
from inversion.schedule import ddim_schedule
from tests.problems import gaussian_eps, gaussian_model

Z = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def gain(schedule, variance):
    """Product of the factors by which each DDIM step scales z, for Gaussian data of that variance."""
    product = 1.0
    for q in schedule:
        slope = q.sigma_t / (q.alpha_t**2 * variance + q.sigma_t**2)
        product *= q.alpha_s / q.alpha_t + (q.sigma_s - q.alpha_s * q.sigma_t / q.alpha_t) * slope
    return product


@pytest.mark.parametrize("steps", [5, 50])
def test_sampling_gaussian_data_is_the_closed_form(steps):
    config = gaussian_model().scheduler_config
    schedule = ddim_schedule(config, steps)
    z_0 = ddim_sample(gaussian_eps(config), Z, schedule)
    torch.testing.assert_close(z_0, gain(schedule, 0.5) * Z, rtol=1e-10, atol=1e-12)


def test_sampling_converges_to_the_flow_of_gaussian_data():
    """The probability flow scales z by √(variance after / variance before)."""
    config = gaussian_model().scheduler_config
    schedule = ddim_schedule(config, 1000)
    first, last = schedule[0], schedule[-1]
    before, after = (a**2 * 0.5 + s**2 for a, s in ((first.alpha_t, first.sigma_t), (last.alpha_s, last.sigma_s)))
    assert gain(schedule, 0.5) == pytest.approx(math.sqrt(after / before), rel=5e-3)


def test_round_trip_error_is_of_first_order():
    config = gaussian_model().scheduler_config
    errors = []
    for steps in (25, 50, 100):
        schedule = ddim_schedule(config, steps)
        eps = gaussian_eps(config)
        back = ddim_invert(eps, ddim_sample(eps, Z, schedule), schedule)
        errors.append(((back - Z).norm() / Z.norm()).item())
    assert errors[0] < 0.25
    assert 1.6 < errors[0] / errors[1] < 2.4
    assert 1.6 < errors[1] / errors[2] < 2.4


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_prediction_types_agree(prediction_type):
    z = Z.float()
    expected = sample(gaussian_model(), z, steps=10)
    torch.testing.assert_close(sample(gaussian_model(prediction_type=prediction_type), z, steps=10), expected)


def test_sampling_is_what_the_pipeline_does(sapling):
    from diffusers import StableDiffusionPipeline

    from inversion.model import sapling_folder

    pipe = StableDiffusionPipeline.from_pretrained(sapling_folder())
    pipe.set_progress_bar_config(disable=True)
    z_T = torch.randn(2, 4, 32, 32, generator=torch.Generator().manual_seed(0))
    prompts = ["a red apple", "a tiger on a green background"]
    theirs = pipe(prompts, latents=z_T.clone(), guidance_scale=3.0, num_inference_steps=8, output_type="pt").images
    z_0 = sample(sapling, z_T, prompt=prompts, guidance=3.0, steps=8)
    ours = (sapling.autoencoder.decode(z_0) + 1) / 2
    assert (ours - theirs).abs().max() < 2e-3


def test_inversion_finds_the_noise_again(sapling):
    z_T = torch.randn(2, 4, 32, 32, generator=torch.Generator().manual_seed(2))
    prompts = ["a strawberry", "a blue background"]
    z_0 = sample(sapling, z_T, prompt=prompts, guidance=1.0, steps=20)
    known = invert_diffusion(sapling, z_0, prompt=prompts, guidance=1.0, steps=20)
    unknown = invert_diffusion(sapling, z_0, steps=20)
    for found in (known, unknown):
        for a, b in zip(found, z_T, strict=True):
            assert torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1] > 0.9


def test_a_batch_is_its_samples(sapling):
    z = torch.randn(3, 4, 32, 32, generator=torch.Generator().manual_seed(3))
    prompts = ["a tiger", "a strawberry", "a rose"]
    together = sample(sapling, z, prompt=prompts, guidance=2.0, steps=3)
    alone = torch.cat(
        [sample(sapling, z[i : i + 1], prompt=p, guidance=2.0, steps=3) for i, p in enumerate(prompts)]
    )
    torch.testing.assert_close(together, alone, rtol=1e-3, atol=1e-3)


def test_progress_counts_steps():
    seen = []
    sample(gaussian_model(), Z.float(), steps=4, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_bad_arguments_are_named():
    model = gaussian_model()
    with pytest.raises(ValueError, match="shape"):
        sample(model, torch.zeros(1, 3, 8, 8))
    with pytest.raises(ValueError, match="finite"):
        invert_diffusion(model, torch.full((1, 4, 8, 8), torch.nan))
    with pytest.raises(ValueError, match="2 prompts for a batch of 3"):
        sample(model, Z.float(), prompt=["a", "b"])
    with pytest.raises(ValueError, match="steps"):
        sample(model, Z.float(), steps=0)

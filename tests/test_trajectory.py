"""Paths z_0 … z_T, and gradients carried back along them, against closed forms of Gaussian data."""

from dataclasses import replace

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler

from inversion import invert_diffusion, sample
from inversion.pullback import pull_back
from inversion.schedule import coefficients
from inversion.trajectory import sampled_trajectory, trajectory
from tests.problems import SD_BETAS, gaussian_model, reading_model

Z = torch.randn(5, 4, 32, 32, generator=torch.Generator().manual_seed(3))
VARIANCE = 0.5


@pytest.fixture(scope="module")
def model():
    return gaussian_model(VARIANCE)


def spread(level):
    """The standard deviation of z at a level, for data N(0, VARIANCE)."""
    return (level.alpha**2 * VARIANCE + level.sigma**2) ** 0.5


def test_the_path_of_gaussian_data_keeps_its_distance_in_standard_deviations(model):
    path = trajectory(model, Z, steps=50, method="midpoint")
    assert path.latents.shape == (5, 51, 4, 32, 32)
    assert len(path.levels) == 51
    for k in (0, 1, 10, 50):
        expected = Z * spread(path.levels[k]) / spread(path.levels[0])
        torch.testing.assert_close(path.latents[:, k], expected, rtol=5e-3, atol=1e-3)


@pytest.mark.parametrize("method", ["naive", "naive_next", "warm_start", "midpoint", "implicit", "backward_euler"])
def test_a_path_ends_where_inversion_does(model, method):
    path = trajectory(model, Z[:2], steps=10, method=method, chunk_size=1)
    found = invert_diffusion(model, Z[:2], steps=10, method=method).value
    torch.testing.assert_close(path.noise, found)
    torch.testing.assert_close(path.latents[:, 0], Z[:2])
    assert path.latents.shape[1] == 11


def test_exact_paths_are_the_samplers_own(model):
    true = sampled_trajectory(model, Z, steps=10, chunk_size=2)
    torch.testing.assert_close(true.noise, Z)
    torch.testing.assert_close(true.latents[:, 0], sample(model, Z, steps=10))
    field = model.field(None, batch=5, guidance=1.0)
    for k, (t, s) in enumerate(true.schedule.steps, 1):
        p, q = coefficients(true.schedule.kind, t, s)
        z = true.latents[:, -k]
        torch.testing.assert_close(true.latents[:, -1 - k], p * z + q * field(z, t.t, torch.arange(5)))
    for method in ("implicit", "shooting"):
        found = trajectory(model, true.latents[:, 0], steps=10, method=method)
        torch.testing.assert_close(found.latents, true.latents, rtol=1e-2, atol=2e-3)


def test_second_order_paths_and_flows():
    dpm = gaussian_model(VARIANCE, DPMSolverMultistepScheduler(**SD_BETAS))
    true = sampled_trajectory(dpm, Z[:1], steps=10)
    assert true.latents.shape[1] == 11
    found = trajectory(dpm, true.latents[:, 0], steps=10, method="dpm_solver")
    assert float((found.latents - true.latents).norm() / true.latents.norm()) < 0.02
    flow = gaussian_model(VARIANCE, FlowMatchEulerDiscreteScheduler())
    path = trajectory(flow, Z[:1], steps=50)
    torch.testing.assert_close(path.noise, Z[:1] / VARIANCE**0.5, rtol=2e-2, atol=2e-3)


def test_arguments_of_paths_are_checked(model):
    for wrong, message in (
        ({"method": "magic"}, "method"),
        ({"chunk_size": 0}, "chunk_size"),
        ({"steps": 0}, "steps"),
        ({"method": "implicit", "evaluations": 0}, "evaluations must be at least 1, got 0"),
    ):
        with pytest.raises(ValueError, match=message):
            trajectory(model, Z, **wrong)
    for walk in (trajectory, sampled_trajectory):
        for wrong_shape in (Z[:, :3], Z[0, 0, 0]):
            with pytest.raises(ValueError, match="latents must have shape"):
                walk(model, wrong_shape)


def test_a_path_that_goes_wrong_ends_as_inversion_does(model):
    def failing(z, t, conditions):
        return torch.where(
            (z.mean((1, 2, 3)) > 10)[:, None, None, None], torch.nan, model.network(z, t, conditions)
        )

    z_0 = torch.cat([Z[:1], Z[1:2] + 100])
    broken = replace(model, network=failing)
    path = trajectory(broken, z_0, steps=3, method="implicit")
    found = invert_diffusion(broken, z_0, steps=3, method="implicit").value
    assert found.isnan().flatten(1).all(1).tolist() == [False, True]
    torch.testing.assert_close(path.noise, found, equal_nan=True)


def test_the_gradient_of_a_linear_inversion_is_its_factor(model):
    g = torch.randn(Z.shape, generator=torch.Generator().manual_seed(4))
    value, gradient = pull_back(model, Z, lambda noise: (noise * g).flatten(1).sum(1), steps=10)
    noise = invert_diffusion(model, Z, method="midpoint", steps=10).value
    factor = float((noise / Z).median())
    torch.testing.assert_close(value, (noise * g).flatten(1).sum(1), rtol=1e-4, atol=1e-2)
    torch.testing.assert_close(gradient, factor * g, rtol=1e-3, atol=1e-4)


def test_the_gradient_is_that_of_finite_differences(sapling):
    z = 0.8 * torch.randn(1, *sapling.latent_shape, generator=torch.Generator().manual_seed(5))
    g = torch.randn(z.shape, generator=torch.Generator().manual_seed(6))
    _, gradient = pull_back(sapling, z, lambda noise: (noise * g).flatten(1).sum(1), steps=2)
    step = 0.02 * gradient / gradient.flatten(1).norm(dim=1)[:, None, None, None]

    def value(at):
        return (invert_diffusion(sapling, at, method="midpoint", steps=2).value * g).flatten(1).sum(1)

    slope = (value(z + step) - value(z - step)) / 2
    torch.testing.assert_close(slope, (gradient * step).flatten(1).sum(1), rtol=1e-2, atol=0)
    assert not gradient.requires_grad


WORDS = ["a", "bb", "ccc", "dddd", "eeeee"]


@pytest.mark.parametrize("walk", [trajectory, sampled_trajectory])
def test_samples_keep_their_prompts_from_chunk_to_chunk(walk):
    whole, parts = (walk(reading_model(), Z, steps=3, prompt=WORDS, chunk_size=n).latents for n in (5, 2))
    torch.testing.assert_close(parts, whole)


def test_schedules_that_start_at_other_noise_than_white_are_followed_to_white():
    model = reading_model(scheduler=EulerDiscreteScheduler(timestep_spacing="trailing", **SD_BETAS))
    assert abs(model.schedule(10).start - 1) > 1e-3
    z_0 = sample(model, Z, steps=10)
    exact = invert_diffusion(model, z_0, method="implicit", steps=10).value
    torch.testing.assert_close(exact, Z, rtol=2e-3, atol=2e-3)
    true = sampled_trajectory(model, Z, steps=10)
    torch.testing.assert_close(true.latents[:, 0], z_0)
    torch.testing.assert_close(true.noise, Z)
    ours = invert_diffusion(model, z_0, steps=10).value
    torch.testing.assert_close(trajectory(model, z_0, steps=10).noise, ours)
    value, _ = pull_back(model, z_0, lambda noise: noise.flatten(1).square().sum(1), steps=10)
    torch.testing.assert_close(value, ours.flatten(1).square().sum(1), rtol=1e-4, atol=1e-4)

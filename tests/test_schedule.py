import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler, PNDMScheduler

from inversion.diffusion import move
from inversion.schedule import ddim_schedule

SETTINGS = [
    {"beta_schedule": "linear", "timestep_spacing": "leading"},
    {"beta_schedule": "scaled_linear", "timestep_spacing": "leading", "steps_offset": 1, "set_alpha_to_one": False},
    {"beta_schedule": "scaled_linear", "timestep_spacing": "trailing"},
    {"beta_schedule": "squaredcos_cap_v2", "timestep_spacing": "linspace"},
]


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("steps", [1, 7, 50])
def test_every_step_is_the_schedulers_own(settings, steps):
    scheduler = DDIMScheduler(clip_sample=False, prediction_type="epsilon", **settings)
    scheduler.alphas_cumprod = scheduler.alphas_cumprod.double()
    scheduler.set_timesteps(steps)
    g = torch.Generator().manual_seed(0)
    schedule = ddim_schedule(scheduler.config, steps)
    assert [q.t for q in schedule] == scheduler.timesteps.tolist()
    for q in schedule:
        z, eps = torch.randn(2, 1, 4, 4, 4, generator=g, dtype=torch.float64)
        expected = scheduler.step(eps, q.t, z).prev_sample
        ours = move(z, eps, q.alpha_t, q.sigma_t, q.alpha_s, q.sigma_s)
        torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-9)


def test_variance_is_preserved_and_noise_falls():
    schedule = ddim_schedule(PNDMScheduler(skip_prk_steps=True).config, 20)
    for q in schedule:
        assert q.alpha_t**2 + q.sigma_t**2 == pytest.approx(1)
        assert q.alpha_s**2 + q.sigma_s**2 == pytest.approx(1)
        assert q.sigma_s < q.sigma_t
        assert 0 <= q.s < max(q.t, 1)


def test_what_is_not_supported_is_named():
    with pytest.raises(ValueError, match="not flow matching"):
        ddim_schedule(FlowMatchEulerDiscreteScheduler().config, 10)
    with pytest.raises(ValueError, match="zero terminal"):
        ddim_schedule(DDIMScheduler(rescale_betas_zero_snr=True).config, 10)
    for steps in (0, 1001):
        with pytest.raises(ValueError, match="between 1 and 1000"):
            ddim_schedule(DDIMScheduler().config, steps)

from itertools import pairwise

import pytest
import torch
from diffusers import (
    CogVideoXDDIMScheduler,
    CogVideoXDPMScheduler,
    DDIMScheduler,
    DDPMScheduler,
    DEISMultistepScheduler,
    DPMSolverMultistepScheduler,
    DPMSolverSinglestepScheduler,
    EDMEulerScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    HeunDiscreteScheduler,
    KDPM2AncestralDiscreteScheduler,
    KDPM2DiscreteScheduler,
    LCMScheduler,
    LMSDiscreteScheduler,
    PNDMScheduler,
    SASolverScheduler,
    TCDScheduler,
    UniPCMultistepScheduler,
)
from diffusers.schedulers.scheduling_vq_diffusion import VQDiffusionScheduler

from inversion.schedule import Level, coefficients, draws_noise, make_schedule, position
from tests.problems import SD_BETAS

FIRST_ORDER = {"solver_order": 1, "lower_order_final": True}
SCHEDULERS = {
    "linear, leading": DDIMScheduler(clip_sample=False),
    "scaled, leading, offset": DDIMScheduler(clip_sample=False, steps_offset=1, set_alpha_to_one=False, **SD_BETAS),
    "scaled, trailing": DDIMScheduler(clip_sample=False, timestep_spacing="trailing", **SD_BETAS),
    "cosine, linspace": DDIMScheduler(
        clip_sample=False, timestep_spacing="linspace", beta_schedule="squaredcos_cap_v2"
    ),
    "v": DDIMScheduler(clip_sample=False, prediction_type="v_prediction", **SD_BETAS),
    "sample": DDIMScheduler(clip_sample=False, prediction_type="sample", **SD_BETAS),
    "zero terminal": DDIMScheduler(
        clip_sample=False,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        **SD_BETAS,
    ),
    "CogVideoX": CogVideoXDDIMScheduler(
        clip_sample=False,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        **SD_BETAS,
    ),
    "Euler": EulerDiscreteScheduler(timestep_spacing="leading", steps_offset=1, **SD_BETAS),
    "Euler, linspace": EulerDiscreteScheduler(**SD_BETAS),
    "Euler, Karras": EulerDiscreteScheduler(use_karras_sigmas=True, timestep_spacing="trailing", **SD_BETAS),
    "Euler, v": EulerDiscreteScheduler(prediction_type="v_prediction", **SD_BETAS),
    "SVD": EulerDiscreteScheduler(
        prediction_type="v_prediction",
        timestep_type="continuous",
        timestep_spacing="leading",
        use_karras_sigmas=True,
        sigma_min=0.002,
        sigma_max=700.0,
        **SD_BETAS,
    ),
    "DPM-Solver++": DPMSolverMultistepScheduler(**FIRST_ORDER),
    "DPM-Solver++, v, Karras": DPMSolverMultistepScheduler(
        prediction_type="v_prediction", use_karras_sigmas=True, **FIRST_ORDER
    ),
    "DPM-Solver++, flow": DPMSolverMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0, **FIRST_ORDER
    ),
    "UniPC, flow": UniPCMultistepScheduler(
        prediction_type="flow_prediction",
        use_flow_sigmas=True,
        flow_shift=3.0,
        solver_order=1,
        disable_corrector=list(range(50)),
    ),
    "flow": FlowMatchEulerDiscreteScheduler(),
    "flow, shifted": FlowMatchEulerDiscreteScheduler(shift=3.0),
}


def in_double_precision(scheduler, steps):
    """The scheduler with float64 tables, so that its own step can be compared with to that precision."""
    own = type(scheduler).from_config(scheduler.config)
    own.set_timesteps(steps)
    for table in ("sigmas", "alphas_cumprod", "alpha_t", "sigma_t", "lambda_t"):
        if hasattr(own, table):
            setattr(own, table, getattr(own, table).double())
    return own


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("steps", [2, 7, 50])
def test_every_step_is_the_schedulers_own(name, steps):
    scheduler = in_double_precision(SCHEDULERS[name], steps)
    schedule = make_schedule(SCHEDULERS[name], steps)
    assert [t.t for t, _ in schedule.steps] == scheduler.timesteps.tolist()
    euler = isinstance(scheduler, EulerDiscreteScheduler)
    g = torch.Generator().manual_seed(0)
    for number, (t, s) in enumerate(schedule.steps):
        z, f = torch.randn(2, 1, 4, 4, 4, generator=g, dtype=torch.float64)
        p, q = coefficients(schedule.kind, t, s)
        time = scheduler.timesteps[number]
        # the Euler scheduler holds z/α, and scales its input by α itself
        theirs = scheduler.step(f, time, z / t.alpha if euler else z).prev_sample
        theirs = s.alpha * theirs.double() if euler else theirs
        exact = isinstance(scheduler, DDIMScheduler | CogVideoXDDIMScheduler | UniPCMultistepScheduler)
        tolerance = 1e-9 if exact else 1e-5  # the others cast what they are given to float32
        torch.testing.assert_close(p * z + q * f, theirs.double(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_noise_starts_as_the_pipeline_scales_it(name):
    scheduler = type(SCHEDULERS[name]).from_config(SCHEDULERS[name].config)
    scheduler.set_timesteps(10)
    schedule = make_schedule(SCHEDULERS[name], 10)
    first = schedule.steps[0][0]
    if isinstance(scheduler, EulerDiscreteScheduler):
        given = scheduler.scale_model_input(torch.ones(1) * scheduler.init_noise_sigma, scheduler.timesteps[0])
        assert schedule.start == pytest.approx(float(given), rel=1e-5)
    else:
        assert schedule.start == getattr(scheduler, "init_noise_sigma", 1.0) == 1.0
    assert first.sigma == pytest.approx(1, abs=0.2)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_noise_falls_and_levels_meet(name):
    schedule = make_schedule(SCHEDULERS[name], 20)
    for t, s in schedule.steps:
        assert s.sigma < t.sigma
        total = t.alpha + t.sigma if schedule.kind == "flow_prediction" else t.alpha**2 + t.sigma**2
        assert total == pytest.approx(1)
    for (_, s), (t, _) in pairwise(schedule.steps):
        assert (s.alpha, s.sigma) == pytest.approx((t.alpha, t.sigma), abs=0.02)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample", "flow_prediction"])
def test_coefficients_follow_from_what_is_predicted(kind):
    g = torch.Generator().manual_seed(1)
    z_0, eps = torch.randn(2, 5, generator=g, dtype=torch.float64)
    flow = kind == "flow_prediction"
    at, to = (Level(0, 0.7, 0.3), Level(0, 0.9, 0.1)) if flow else (Level(0, 0.8, 0.6), Level(0, 0.96, 0.28))
    f = {
        "epsilon": eps,
        "v_prediction": at.alpha * eps - at.sigma * z_0,
        "sample": z_0,
        "flow_prediction": eps - z_0,
    }[kind]
    for a, b in ((at, to), (to, at)):
        if b is at:
            f = f if kind != "v_prediction" else to.alpha * eps - to.sigma * z_0
        p, q = coefficients(kind, a, b)
        torch.testing.assert_close(p * (a.alpha * z_0 + a.sigma * eps) + q * f, b.alpha * z_0 + b.sigma * eps)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_levels_between_lie_between(name):
    schedule = make_schedule(SCHEDULERS[name], 10)
    for t, s in schedule.steps:
        half = schedule.between(s, t)
        assert s.sigma < half.sigma <= t.sigma
        a, m, b = (position(schedule.kind, level) for level in (s, half, t))
        assert m == pytest.approx((a + b) / 2)
        assert min(s.t, t.t) - 1 <= half.t <= t.t + 1
        start = schedule.between(s, t, 0.0)
        assert (start.alpha, start.sigma) == pytest.approx((s.alpha, s.sigma), abs=1e-6)


@pytest.mark.parametrize("kind", [PNDMScheduler, LCMScheduler, TCDScheduler, DDPMScheduler])
def test_ddim_like_schedulers_keep_their_own_defaults(kind):
    scheduler = kind(clip_sample=False) if kind is DDPMScheduler else kind()
    schedule = make_schedule(scheduler, 20)
    bar = scheduler.alphas_cumprod.double()
    for t, _ in schedule.steps:
        assert t.alpha == pytest.approx(float(bar[int(t.t)]) ** 0.5, rel=1e-6)
    assert schedule.steps[0][0].t == 950
    last = float(getattr(scheduler, "final_alpha_cumprod", 1.0))
    assert schedule.steps[-1][1].alpha == pytest.approx(last**0.5, rel=1e-9)


@pytest.mark.parametrize(
    "kind",
    [
        EulerAncestralDiscreteScheduler,
        HeunDiscreteScheduler,
        KDPM2DiscreteScheduler,
        KDPM2AncestralDiscreteScheduler,
        LMSDiscreteScheduler,
    ],
)
def test_euler_like_schedulers_keep_their_own_defaults(kind):
    """Also after from_config of a scheduler whose config lacks some of their settings."""
    for scheduler in (
        kind(),
        kind.from_config(PNDMScheduler(skip_prk_steps=True, steps_offset=1, **SD_BETAS).config),
    ):
        scheduler.set_timesteps(10)
        theirs = sorted(set(scheduler.timesteps.tolist()), reverse=True)
        schedule = make_schedule(scheduler, 10)
        assert schedule.steps[0][0].t == theirs[0]
        ours = schedule.steps[0][0].sigma / schedule.steps[0][0].alpha
        assert ours == pytest.approx(float(scheduler.sigmas[0]), rel=1e-5)
        for (_, s), (t, _) in pairwise(schedule.steps):
            assert s == t


@pytest.mark.parametrize("kind", [DEISMultistepScheduler, DPMSolverSinglestepScheduler, SASolverScheduler])
@pytest.mark.parametrize("flow", [False, True])
def test_schedulers_with_levels_of_their_own(kind, flow):
    scheduler = kind(**({"prediction_type": "flow_prediction", "use_flow_sigmas": True} if flow else {}))
    schedule = make_schedule(scheduler, 10)
    scheduler.set_timesteps(10)
    for (t, _), sigma, time in zip(schedule.steps, scheduler.sigmas, scheduler.timesteps, strict=False):
        assert t.t == float(time)
        assert t.sigma / (1 if flow else t.alpha) == pytest.approx(float(sigma), rel=1e-5)


def test_a_subclass_is_read_as_what_it_derives_from():
    class Own(EulerDiscreteScheduler):
        pass

    assert make_schedule(Own(**SD_BETAS), 7).steps == make_schedule(EulerDiscreteScheduler(**SD_BETAS), 7).steps


def test_both_cogvideox_schedulers_have_the_same_levels():
    settings = SCHEDULERS["CogVideoX"].config
    a, b = (
        make_schedule(kind.from_config(settings), 10) for kind in (CogVideoXDDIMScheduler, CogVideoXDPMScheduler)
    )
    assert a.steps == b.steps
    assert a.steps != make_schedule(DDIMScheduler.from_config(settings), 10).steps


def test_the_scheduler_is_left_alone():
    scheduler = FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(4)
    make_schedule(scheduler, 10)
    assert len(scheduler.timesteps) == 4


def test_what_is_not_supported_is_named():
    with pytest.raises(ValueError, match="zero terminal"):
        make_schedule(
            DDIMScheduler(clip_sample=False, rescale_betas_zero_snr=True, timestep_spacing="trailing"), 10
        )
    with pytest.raises(ValueError, match="prediction type 'x'"):
        make_schedule(DDIMScheduler(clip_sample=False, prediction_type="x"), 10)
    sd = DDIMScheduler(clip_sample=False, **SD_BETAS).config
    for kind in (EDMEulerScheduler, FlowMatchHeunDiscreteScheduler, VQDiffusionScheduler):
        scheduler = VQDiffusionScheduler(8) if kind is VQDiffusionScheduler else kind.from_config(sd)
        with pytest.raises(ValueError, match=kind.__name__):
            make_schedule(scheduler, 10)
    for bad, word in (
        (DDIMScheduler(), "clip_sample"),
        (DDPMScheduler(), "clip_sample"),
        (DDIMScheduler(clip_sample=False, thresholding=True), "thresholding"),
        (FlowMatchEulerDiscreteScheduler(invert_sigmas=True), "invert_sigmas"),
        (FlowMatchEulerDiscreteScheduler(stochastic_sampling=True), "stochastic_sampling"),
        (DDIMScheduler(clip_sample=False, prediction_type="flow_prediction"), "no noise levels for a flow"),
    ):
        with pytest.raises(ValueError, match=word):
            make_schedule(bad, 10)
    with pytest.raises(ValueError, match="below 1000"):
        make_schedule(DDIMScheduler(clip_sample=False, steps_offset=1), 1000)
    for steps in (0, 1001):
        with pytest.raises(ValueError, match="between 1 and 1000"):
            make_schedule(DDIMScheduler(clip_sample=False), steps)


def test_samplers_that_draw_noise_are_known():
    drawing = (LCMScheduler, TCDScheduler, DDPMScheduler, CogVideoXDPMScheduler, EulerAncestralDiscreteScheduler)
    for kind in (*drawing, KDPM2AncestralDiscreteScheduler, SASolverScheduler):
        assert draws_noise(kind())
    for kind in (DDIMScheduler, EulerDiscreteScheduler, DPMSolverMultistepScheduler):
        assert not draws_noise(kind())

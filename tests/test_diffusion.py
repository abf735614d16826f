import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler

from inversion import invert_diffusion, sample
from inversion.diffusion import METHODS, choose, is_second_order
from inversion.dpm_solver import dpm_invert, dpm_sample
from inversion.exact import backward_euler, implicit, plateau_step, solve_step
from inversion.explicit import ddim_sample, midpoint, naive, naive_next, warm_start
from inversion.schedule import coefficients, make_schedule
from inversion.shooting import shooting
from tests.problems import SD_BETAS, gaussian_field, gaussian_model, reading_model

Z = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
SD = {"clip_sample": False, "steps_offset": 1, "set_alpha_to_one": False, **SD_BETAS}
KINDS = {
    "epsilon": DDIMScheduler(**SD),
    "v": DDIMScheduler(prediction_type="v_prediction", **SD),
    "zero terminal": DDIMScheduler(
        clip_sample=False,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        **SD_BETAS,
    ),
    "sample": DDIMScheduler(prediction_type="sample", **SD),
    "flow": FlowMatchEulerDiscreteScheduler(shift=2.0),
}


def wavy(field, strength=0.3):
    """A field that is not linear in z, so that exact inversion has something to solve."""
    return lambda z, t, rows: field(z, t, rows) + strength * torch.sin(2 * z + 0.01 * t)


def error(found, z):
    return float((found - z).norm() / z.norm())


def gain(schedule, variance):
    """Product of the factors by which each DDIM step scales z, for Gaussian data of that variance."""
    field, product = gaussian_field(schedule, variance), 1.0
    one = torch.ones(1, 1, dtype=torch.float64)
    for t, s in schedule.steps:
        p, q = coefficients(schedule.kind, t, s)
        product *= p + q * float(field(one, t.t, None))
    return product


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("steps", [5, 50])
def test_sampling_gaussian_data_is_the_closed_form(kind, steps):
    schedule = make_schedule(KINDS[kind], steps)
    z_0 = ddim_sample(gaussian_field(schedule), Z, schedule)
    torch.testing.assert_close(z_0, gain(schedule, 0.5) * Z, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_sampling_converges_to_the_flow_of_gaussian_data(kind):
    """The probability flow scales z by the standard deviation after over that before."""
    schedule = make_schedule(KINDS[kind], 500)
    (first, _), (_, last) = schedule.steps[0], schedule.steps[-1]
    before, after = (a.alpha**2 * 0.5 + a.sigma**2 for a in (first, last))
    assert gain(schedule, 0.5) == pytest.approx(math.sqrt(after / before), rel=1e-2)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("method", "order"), [(naive, 1), (naive_next, 1), (warm_start, 2)])
def test_how_fast_the_round_trip_error_falls(kind, method, order):
    if kind == "sample" and method is not naive:
        pytest.skip("its last step only returns the prediction")
    errors = []
    for steps in (50, 100, 200):
        schedule = make_schedule(KINDS[kind], steps)
        field = gaussian_field(schedule)
        errors.append(error(method(field, ddim_sample(field, Z, schedule), schedule), Z))
    assert errors[0] < 0.25
    for coarse, fine in pairwise(errors):
        assert math.log2(coarse / fine) > order - 0.45
    if order == 1:
        assert math.log2(errors[1] / errors[2]) < 1.45


@pytest.mark.parametrize("kind", KINDS)
def test_midpoint_follows_the_ode(kind):
    """From z_0 of the exact flow, so that the sampler's own error plays no part."""
    errors = []
    for steps in (25, 50, 100):
        schedule = make_schedule(KINDS[kind], steps)
        (first, _), (_, last) = schedule.steps[0], schedule.steps[-1]
        before, after = (a.alpha**2 * 0.05 + a.sigma**2 for a in (first, last))
        field, z_0 = gaussian_field(schedule, 0.05), Z * math.sqrt(after / before)
        found = {m: error(m(field, z_0, schedule), Z) for m in (midpoint, naive)}
        errors.append(found[midpoint])
        assert found[midpoint] < (1 if kind == "zero terminal" else 0.2) * found[naive]
    if kind == "flow":  # of second order; elsewhere the first step, always from t = 1 to 0, leaves a floor
        assert errors[0] > 10 * errors[2]


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "sample"])
@pytest.mark.parametrize("method", [implicit, backward_euler])
def test_exact_methods_find_the_noise_again(kind, method):
    schedule = make_schedule(KINDS[kind], 20)
    field = wavy(gaussian_field(schedule))
    z_0 = ddim_sample(field, Z, schedule)
    solution = method(field, z_0, schedule)
    published = method is backward_euler  # stops at a summed squared error of 1e-3, a lot for latents this small
    assert error(solution.value, Z) < (0.04 if published else 2e-3)
    assert error(solution.value, Z) < (0.4 if published else 0.05) * error(naive(field, z_0, schedule), Z)
    assert solution.residual.shape == (3,)
    assert solution.history.shape == (20, 3)
    assert (solution.residual == solution.history.amax(0)).all()
    assert int(solution.evaluations.max()) <= 20 * (20 if method is implicit else 50)


def test_a_step_that_does_nothing_is_passed_over():
    """Without an offset DDIM's last step goes from t = 0 to t = 0 if the final α is that of t = 0."""
    schedule = make_schedule(DDIMScheduler(clip_sample=False, set_alpha_to_one=False, **SD_BETAS), 10)
    assert coefficients("epsilon", *schedule.steps[-1]) == (1, 0)
    field = wavy(gaussian_field(schedule))
    z_0 = ddim_sample(field, Z, schedule)
    for method in (implicit, backward_euler):
        assert error(method(field, z_0, schedule).value, Z) < 0.05


def test_the_residual_of_a_step_is_that_of_the_samplers_equation():
    schedule = make_schedule(KINDS["epsilon"], 1)
    field = wavy(gaussian_field(schedule))
    solution = implicit(field, Z, schedule)
    ((t, s),) = schedule.steps
    p, q = coefficients("epsilon", t, s)
    missing = (p * solution.value + q * field(solution.value, t.t, None) - Z) / p
    torch.testing.assert_close(solution.residual, missing.flatten(1).square().mean(1).sqrt(), rtol=1e-5, atol=0)


def test_a_one_step_flow_is_inverted_where_plain_iteration_oscillates():
    """z ← z_0 − f(z) diverges, since the slope of f is beyond one; Anderson acceleration does not mind."""
    schedule = make_schedule(FlowMatchEulerDiscreteScheduler(), 1)

    def field(z, t, rows):
        return 1.5 * z + 0.2 * torch.sin(z)

    z_0 = ddim_sample(lambda z, t, rows: -field(z, t, rows), Z, schedule)
    solution = implicit(lambda z, t, rows: -field(z, t, rows), z_0, schedule)
    assert error(solution.value, Z) < 1e-3
    assert solution.converged.all()


def test_a_step_without_a_solution_gets_the_fallback_and_is_no_worse_than_its_start():
    def residual(z, rows):
        return z.square() + 1, z.square() + 1

    solution = solve_step(residual, Z, 20)
    assert not solution.converged.any()
    assert int(solution.evaluations.max()) <= 20
    assert (solution.merit <= (Z.square() + 1).flatten(1).square().mean(1).sqrt()).all()
    torch.testing.assert_close(solution.merit, (solution.value.square() + 1).flatten(1).square().mean(1).sqrt())


def test_the_fallback_of_a_step_has_the_evaluations_that_its_own_sample_left():
    g = torch.Generator().manual_seed(100)
    draw = {"generator": g, "dtype": torch.float64}
    a = torch.eye(6, dtype=torch.float64) * (0.2 + torch.rand(2, 1, 1, **draw)) + 0.3 * torch.randn(2, 6, 6, **draw)
    k, w = 3 * torch.rand(2, 1, **draw), 3 * torch.rand(2, 1, **draw)
    target = 2 * torch.randn(2, 6, **draw)

    def solved(samples):
        def residual(z, rows):
            i = torch.tensor(samples)[rows]
            t = torch.einsum("bij,bj->bi", a[i], z) + k[i] * torch.sin(w[i] * z) - target[i]
            return t, t

        return solve_step(residual, target[samples].clone(), 20)

    alone = [solved([i]) for i in range(2)]
    first = [int(s.evaluations[0]) for s in alone]
    together = solved([0, 1])
    assert together.evaluations.tolist() == first
    for i in range(2):
        torch.testing.assert_close(together.value[i], alone[i].value[0])


@pytest.mark.parametrize("steps", [5, 20])
def test_second_order_sampling_is_the_schedulers_own(steps):
    scheduler = DPMSolverMultistepScheduler(**SD_BETAS, lower_order_final=False)
    schedule = make_schedule(scheduler, steps)
    field = wavy(gaussian_field(schedule))
    scheduler.set_timesteps(steps)
    z = Z
    for t in scheduler.timesteps:
        z = scheduler.step(field(z, int(t), None), t, z).prev_sample
    torch.testing.assert_close(dpm_sample(field, Z, schedule), z.double(), rtol=1e-4, atol=1e-4)


def test_second_order_sampling_is_inverted():
    schedule = make_schedule(DPMSolverMultistepScheduler(**SD_BETAS), 20)
    field = wavy(gaussian_field(schedule), 0.1)
    z_0 = dpm_sample(field, Z, schedule)
    first_order = error(implicit(field, z_0, schedule).value, Z)
    published = dpm_invert(field, z_0, schedule)
    whole = shooting(dpm_sample, field, z_0, schedule, 8)
    assert error(published.value, Z) < 0.5 * first_order
    assert error(whole.value, Z) < 1e-3
    assert whole.merit.max() < 1e-4


def test_samples_of_a_batch_do_not_influence_each_other():
    schedule = make_schedule(KINDS["epsilon"], 5)
    field = wavy(gaussian_field(schedule))
    for method in (naive, warm_start, midpoint):
        torch.testing.assert_close(method(field, Z, schedule)[1:2], method(field, Z[1:2], schedule))
    scaled = Z * torch.tensor([1.0, 0.1, 3.0])[:, None, None, None]
    for method in (implicit, backward_euler):
        together, alone = method(field, scaled, schedule), method(field, scaled[1:2], schedule)
        torch.testing.assert_close(together.value[1:2], alone.value, rtol=1e-6, atol=1e-6)
        assert together.evaluations[1] == alone.evaluations[0]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_method_for_every_kind_of_model(method, kind):
    model = gaussian_model(scheduler=KINDS[kind])
    z = Z.float()
    z_0 = sample(model, z, steps=10)
    solution = invert_diffusion(model, z_0, method=method, steps=10, prompt=None)
    assert solution.value.shape == z.shape
    assert solution.value.dtype == torch.float32
    rough = kind == "sample" and method in ("naive_next", "warm_start")  # the last step divides by a small σ
    assert error(solution.value, z) < (1 if rough else 0.5)
    assert (solution.evaluations >= 10).all()
    if method in ("auto", "naive", "naive_next", "warm_start"):
        assert (solution.evaluations == 10).all()
        assert solution.residual.isnan().all()
    if method in ("implicit", "backward_euler"):
        assert error(solution.value, z) < (0.03 if method == "backward_euler" else 5e-3)
        assert solution.residual.isfinite().all()


def test_sampling_is_what_the_pipeline_does(sapling):
    from diffusers import StableDiffusionPipeline

    from inversion.embedded import sapling_folder

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
    exact = invert_diffusion(sapling, z_0, method="implicit", prompt=prompts, steps=20)
    known = invert_diffusion(sapling, z_0, method="naive", prompt=prompts, steps=20)
    unknown = invert_diffusion(sapling, z_0, steps=20)
    for found in (known, unknown):
        for a, b in zip(found.value, z_T, strict=True):
            assert torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1] > 0.9
    assert error(exact.value, z_T) < 0.1 * error(known.value, z_T)


def test_a_batch_is_its_samples(sapling):
    z = torch.randn(3, 4, 32, 32, generator=torch.Generator().manual_seed(3))
    prompts = ["a tiger", "a strawberry", "a rose"]
    together = sample(sapling, z, prompt=prompts, guidance=2.0, steps=3)
    alone = torch.cat(
        [sample(sapling, z[i : i + 1], prompt=p, guidance=2.0, steps=3) for i, p in enumerate(prompts)]
    )
    torch.testing.assert_close(together, alone, rtol=1e-3, atol=1e-3)
    found = invert_diffusion(sapling, together, method="warm_start", prompt=prompts, guidance=2.0, steps=3)
    one = invert_diffusion(sapling, together[1:2], method="warm_start", prompt=prompts[1], guidance=2.0, steps=3)
    torch.testing.assert_close(found.value[1:2], one.value, rtol=1e-3, atol=1e-3)


def test_progress_counts_steps():
    seen = []
    sample(gaussian_model(), Z.float(), steps=4, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    for method in ("naive", "naive_next", "warm_start", "midpoint", "implicit", "backward_euler", "dpm_solver"):
        seen.clear()
        invert_diffusion(
            gaussian_model(), Z.float(), method=method, steps=2, progress=lambda *count: seen.append(count)
        )
        assert seen == [(1, 2), (2, 2)], method


def test_the_batch_is_halved_when_memory_runs_out():
    model = gaussian_model()
    network, sizes = model.network, []

    def greedy(z, t, conditions):
        sizes.append(len(z))
        if len(z) > 1:
            raise torch.OutOfMemoryError("out of memory")
        return network(z, t, conditions)

    object.__setattr__(model, "network", greedy)
    found = invert_diffusion(model, Z.float(), steps=3)
    torch.testing.assert_close(found.value, invert_diffusion(gaussian_model(), Z.float(), steps=3).value)
    assert sizes[0] == 3
    assert (found.evaluations == 3).all()


def test_the_default_solves_single_steps_and_follows_the_ode_otherwise():
    for scheduler in KINDS.values():
        assert choose(make_schedule(scheduler, 10)) == "midpoint"
    assert choose(make_schedule(KINDS["epsilon"], 1)) == "implicit"
    assert choose(make_schedule(KINDS["flow"], 1)) == "implicit"
    assert choose(make_schedule(KINDS["zero terminal"], 1)) == "midpoint"  # where one step forgets the noise


def test_the_budget_of_evaluations_is_kept():
    schedule = make_schedule(KINDS["epsilon"], 5)
    hard = wavy(gaussian_field(schedule), 3.0)
    z_0 = ddim_sample(hard, Z, schedule)
    for budget in (1, 5, 20):
        assert int(implicit(hard, z_0, schedule, budget).evaluations.max()) <= 5 * budget
    assert int(backward_euler(hard, z_0, schedule, 7).evaluations.max()) <= 5 * 7
    assert int(dpm_invert(hard, z_0, schedule, 15).evaluations.max()) <= 5 * 15


def test_the_published_rate_is_halved_as_by_pytorch():
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.5)
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=20)
    losses = [1.0, *[1.0] * 25, 0.5, *[0.49999] * 30, 0.4, *[0.41] * 50]
    y, t, state = torch.zeros(1, 4), torch.ones(1, 4), ()
    for k, loss in enumerate(losses, 30):  # after the warm-up
        moved, state = plateau_step(k, y, t, torch.full((1, 4), loss**0.5, dtype=torch.float64), state)
        schedule.step(loss)
        assert float(moved[0, 0]) == pytest.approx(-optimizer.param_groups[0]["lr"]), k
    assert optimizer.param_groups[0]["lr"] == 0.5 / 16


def test_a_subclass_of_a_scheduler_is_sampled_as_what_it_derives_from():
    class Mine(DPMSolverMultistepScheduler):
        pass

    assert is_second_order(Mine(**SD_BETAS))
    assert not is_second_order(Mine(solver_order=1, **SD_BETAS))


def test_a_network_that_fails_is_not_taken_for_noise():
    schedule = make_schedule(KINDS["epsilon"], 3)
    field = gaussian_field(schedule)

    def failing(z, t, rows):
        return torch.where((rows == 1)[:, None, None, None], torch.nan, field(z, t, rows))

    for method in (implicit, backward_euler, dpm_invert):
        solution = method(failing, Z, schedule)
        assert solution.value.isfinite().flatten(1).all(1).tolist() == [True, False, True]
        assert not solution.converged[1]


def test_the_precision_of_the_network_ends_the_search():
    schedule = make_schedule(KINDS["epsilon"], 10)
    field = wavy(gaussian_field(schedule))
    z_0 = ddim_sample(field, Z, schedule)
    exact = implicit(field, z_0, schedule)
    coarse = implicit(lambda z, t, rows: field(z, t, rows).bfloat16().double(), z_0, schedule)
    assert int(coarse.evaluations.max()) < 2.5 * int(exact.evaluations.max())
    assert error(coarse.value, Z) < 0.05


def test_bad_arguments_are_named():
    model = gaussian_model()
    with pytest.raises(ValueError, match="shape"):
        sample(model, torch.zeros(1, 3, 8, 8))
    with pytest.raises(ValueError, match="finite"):
        invert_diffusion(model, torch.full((1, 4, 8, 8), torch.nan))
    with pytest.raises(ValueError, match="2 prompts for a batch of 3"):
        sample(model, Z.float(), prompt=["a", "b"])
    with pytest.raises(ValueError, match=r"the prompt 'a \\udcff' is not Unicode text"):
        sample(model, Z.float(), prompt=["a", "b", "a \udcff"])
    with pytest.raises(ValueError, match="strings"):
        sample(model, Z.float(), prompt=torch.zeros(3, 3, 64, 64))
    with pytest.raises(ValueError, match="steps"):
        sample(model, Z.float(), steps=0)
    with pytest.raises(ValueError, match="'euler'"):
        sample(model, Z.float(), method="euler")
    with pytest.raises(ValueError, match="'exact'"):
        invert_diffusion(model, Z.float(), method="exact")
    with pytest.raises(ValueError, match="evaluations must be at least 1, got 0"):
        invert_diffusion(model, Z.float(), evaluations=0)
    last_step = gaussian_model(scheduler=DDIMScheduler(clip_sample=False, prediction_type="sample", **SD_BETAS))
    for method in ("implicit", "naive_next", "warm_start", "backward_euler", "dpm_solver"):
        with pytest.raises(ValueError, match="'naive'"):
            invert_diffusion(last_step, Z.float(), method=method, steps=4)
    assert invert_diffusion(last_step, Z.float(), method="naive", steps=4).value.isfinite().all()


WORDS = ["a", "bb", "ccc", "dddd", "eeeee"]


def test_samples_keep_their_prompts_when_memory_runs_out():
    model, z = reading_model(), torch.randn(5, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    whole = invert_diffusion(model, z, steps=3, prompt=WORDS).value

    def small(z, t, conditions):
        if len(z) > 2:
            raise torch.OutOfMemoryError("out of memory")
        return model.network(z, t, conditions)

    found = invert_diffusion(replace(model, network=small), z, steps=3, prompt=WORDS)
    torch.testing.assert_close(found.value, whole)


def test_samples_that_are_left_keep_their_prompts():
    schedule = make_schedule(DDIMScheduler(clip_sample=False, **SD_BETAS), 5)
    plain, own = gaussian_field(schedule), torch.tensor([0.0, 1.0, 3.0]).double()

    def field(z, t, rows):
        return plain(z, t, rows) + own[rows].reshape(-1, 1, 1, 1) * 0.2 * torch.sin(2 * z)

    z_0 = ddim_sample(field, Z * torch.tensor([1e-7, 1.0, 1.0]).double().reshape(-1, 1, 1, 1), schedule)
    found = shooting(ddim_sample, field, z_0, schedule, 4)
    assert len(set(found.evaluations.tolist())) > 1  # the first leaves the batch before the others
    alone = shooting(ddim_sample, lambda z, t, rows: field(z, t, rows + 2), z_0[2:], schedule, 4)
    torch.testing.assert_close(found.value[2:], alone.value)

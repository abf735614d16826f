import math

import pytest
import torch

from inversion import anderson as module
from inversion.anderson import SKETCH, anderson, sketch
from inversion.solvers import Stop, adam, adam_rate, forward_step, inertial_km, rms

GEN = torch.Generator().manual_seed(3)


def linear(matrices, solutions):
    """T(z) = A_i (z − z*_i) for sample i; the error is z − z*_i, so that the merit is the distance."""

    def residual(z, rows):
        error = z - solutions[rows]
        return torch.einsum("bij,bj->bi", matrices[rows], error), error

    return residual


def matrices(*spectra):
    q, _ = torch.linalg.qr(torch.randn(len(spectra[0]), len(spectra[0]), generator=GEN, dtype=torch.float64))
    return torch.stack([q @ torch.diag(torch.tensor(s, dtype=torch.float64)) @ q.T for s in spectra])


SOLVERS = [
    lambda residual, z0, stop, **k: forward_step(residual, z0, stop, step_size=0.8, **k),
    lambda residual, z0, stop, **k: inertial_km(residual, z0, stop, inertia=0.3, beta=0.6, **k),
    lambda residual, z0, stop, **k: adam(residual, z0, stop, learning_rate=0.1, **k),
    anderson,
]


def test_forward_step_reaches_machine_precision_where_cocoercive():
    truth = torch.randn(2, 3, generator=GEN, dtype=torch.float64)
    residual = linear(matrices([0.5, 1.0, 1.5], [0.3, 0.9, 1.1]), truth)
    solution = forward_step(residual, torch.zeros_like(truth), Stop(200))
    torch.testing.assert_close(solution.value, truth, rtol=0, atol=1e-14)
    assert solution.residual.max() < 1e-14


def test_rate_is_that_of_the_largest_eigenvalue_of_i_minus_rho_a():
    truth = torch.zeros(1, 3, dtype=torch.float64)
    residual = linear(matrices([0.5, 1.0, 1.5]), truth)
    history = forward_step(residual, torch.ones(1, 3, dtype=torch.float64), Stop(50), step_size=0.8).history
    assert float(history[50] / history[40]) ** 0.1 == pytest.approx(0.6, rel=1e-3)


def test_inertial_km_is_the_recursion_of_theorem_2():
    a, alpha, rho = matrices([0.5, 1.0, 1.5]), 0.4, 0.2
    start = torch.ones(1, 3, dtype=torch.float64)
    seen = []
    inertial_km(
        linear(a, torch.zeros_like(start)),
        start,
        Stop(6),
        inertia=alpha,
        step_size=rho,
        callback=lambda iterate: seen.append(iterate.z.clone()),
    )
    before, z = start, start
    for y in seen:
        torch.testing.assert_close(y, z + alpha * (z - before))
        before, z = z, y - rho * torch.einsum("bij,bj->bi", a, y)


def test_inertial_km_refuses_parameters_outside_its_condition():
    start = torch.ones(1, 3)
    bound = 2 * 0.5 * 0.1**2 / (0.1 + 2 * 0.81)
    with pytest.raises(ValueError, match="Theorem 2"):
        inertial_km(lambda z, rows: (z, z), start, Stop(1), inertia=0.9, step_size=1.01 * bound)
    assert inertial_km(lambda z, rows: (z, z), start, Stop(1), inertia=0.9, step_size=0.99 * bound).merit < 1


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.9])
def test_inertial_km_obeys_its_bound(alpha):
    """n · min_k ‖T(y_k)‖² ≤ M ‖z_1 − z*‖² (Theorem 2), for a T that is ½-cocoercive and barely more at every rate.

    With γ = (1 − λ)/λ and c = γ(1 − α)² − α(1 + α), which the condition makes positive, the sum over k of
    ‖z_{k+1} − z_k‖² is at most (1 + α) ‖z_1 − z*‖² / c, and that of ‖z_{k+1} − y_k‖² = ‖2λβ T(y_k)‖²
    is (1 + α)² times that at most.
    """
    beta = 0.5
    lam = 0.5 * (1 - alpha) ** 2 / (1 - alpha + 2 * alpha**2)
    c = (1 - lam) / lam * (1 - alpha) ** 2 - alpha * (1 + alpha)
    m = (1 + alpha) ** 3 / c / (2 * lam * beta) ** 2
    spectrum = (2 * torch.logspace(-6, 0, 25, dtype=torch.float64)).tolist()
    start = torch.ones(1, len(spectrum), dtype=torch.float64)
    squares = []
    inertial_km(
        linear(matrices(spectrum), torch.zeros_like(start)),
        start,
        Stop(400),
        inertia=alpha,
        step_size=2 * lam * beta,
        beta=beta,
        callback=lambda iterate: squares.append(float(iterate.t.square().sum())),
    )
    least = torch.tensor(squares).cummin(0).values
    n = torch.arange(1, len(squares) + 1)
    assert len(squares) == 401
    assert (n * least <= m * start.square().sum()).all()


def test_adam_schedule_is_the_published_one():
    rates = [adam_rate(k, 200, 0.01) for k in range(200)]
    assert rates[0] == pytest.approx(0.001)
    assert rates[9] == rates[10] == pytest.approx(0.01)
    assert rates[55] == pytest.approx(0.005)
    assert rates[79] == rates[80] == rates[199] == pytest.approx(0.01 * (1 + math.cos(math.pi * 69 / 90)) / 2)
    assert rates[78] > rates[79]
    assert max(rates) <= 0.01
    assert adam_rate(0, 5, 0.01) == pytest.approx(0.01)


def test_the_schedule_of_gradient_descent_is_that_of_transformers_but_for_its_idle_first_step():
    from transformers import get_cosine_schedule_with_warmup

    optimizer = torch.optim.Adam([torch.zeros(1, requires_grad=True)], lr=0.1)
    schedule = get_cosine_schedule_with_warmup(optimizer, num_warmup_steps=20, num_training_steps=200)
    theirs = []
    for _ in range(200):
        theirs.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    ours = [adam_rate(k, 200, 0.1, frozen=False) for k in range(200)]
    assert ours[20:] == pytest.approx(theirs[20:])
    assert ours[:20] == pytest.approx(theirs[1:21])


def test_adam_moves_by_its_rate_at_first_and_scales_with_the_start():
    def residual(z, rows):
        return torch.full_like(z, 7.0), z

    for scale in (1.0, 10.0):
        seen = []
        adam(
            residual,
            torch.full((1, 4), scale),
            Stop(1),
            learning_rate=0.02,
            scheduled=False,
            callback=lambda iterate, seen=seen: seen.append(iterate.z.clone()),
        )
        torch.testing.assert_close(seen[0] - seen[1], torch.full((1, 4), 0.02 * scale), rtol=1e-4, atol=0)


def test_adam_is_torchs():
    truth = torch.randn(1, 5, generator=GEN, dtype=torch.float64)
    a = matrices([0.2, 0.5, 1.0, 1.5, 2.0])
    seen = []
    start = torch.ones(1, 5, dtype=torch.float64)
    adam(
        linear(a, truth),
        start,
        Stop(20),
        learning_rate=0.03,
        scheduled=False,
        callback=lambda iterate: seen.append(iterate.z.clone()),
    )
    z = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([z], lr=0.03)
    for mine in seen:
        torch.testing.assert_close(mine, z.detach())
        z.grad = torch.einsum("bij,bj->bi", a, z.detach() - truth)
        optimizer.step()


def test_anderson_solves_a_linear_problem_in_as_many_steps_as_eigenvalues():
    truth = torch.randn(2, 6, generator=GEN, dtype=torch.float64)
    a = matrices([0.05, 0.05, 0.5, 0.5, 2.0, 2.0], [0.1, 0.1, 0.1, 1, 1, 1])
    solution = anderson(linear(a, truth), torch.zeros_like(truth), Stop(5), ridge=0)
    assert solution.merit.max() < 1e-9
    slow = forward_step(linear(a, truth), torch.zeros_like(truth), Stop(5), step_size=0.9)
    assert slow.merit.min() > 1e-2


def test_anderson_is_gmres_with_the_pixel_error():
    """On a linear problem the mixed iterate has the smallest error of its affine subspace, at every step."""
    d = torch.randn(8, 4, generator=GEN, dtype=torch.float64)
    e = torch.linalg.pinv(d) + 0.02 * torch.randn(4, 8, generator=GEN, dtype=torch.float64)
    truth = torch.randn(1, 4, generator=GEN, dtype=torch.float64)

    def residual(z, rows):
        pixels = (z - truth) @ d.T
        return pixels @ e.T, pixels

    seen = []
    anderson(
        residual,
        torch.zeros_like(truth),
        Stop(3),
        ridge=0,
        callback=lambda iterate: seen.append((iterate.z.clone(), iterate.t.clone())),
    )
    for k in range(1, 3):
        s = torch.cat([seen[i + 1][0] - seen[i][0] for i in range(k)])
        best, *_ = torch.linalg.lstsq(s @ d.T @ d @ s.T, s @ d.T @ ((seen[k][0] - truth) @ d.T).T)
        mixed = seen[k][0] - best.T @ s
        torch.testing.assert_close(seen[k + 1][0], mixed - residual(mixed, None)[0], rtol=1e-6, atol=1e-9)


def test_anderson_works_where_forward_steps_run_away():
    truth = torch.randn(1, 6, generator=GEN, dtype=torch.float64)
    a = matrices([-0.1, -0.05, 0.3, 0.8, 1.0, 1.5])
    stop = Stop(30)
    assert anderson(linear(a, truth), torch.zeros_like(truth), stop).merit < 1e-6
    assert forward_step(linear(a, truth), torch.zeros_like(truth), stop).merit > 0.01


def test_anderson_survives_steps_that_change_nothing():
    """A saturated start: the error stays the same for some steps, so that differences are exactly zero."""

    def residual(z, rows):
        return 0.3 * (z - 0.25).clamp(-1, 1), z.clamp(-1, 1) - 0.25

    for copies in (1, 2):
        solution = anderson(residual, torch.full((copies, 64), 5.0), Stop(60))
        assert solution.merit.max() < 1e-6
        assert solution.evaluations.max() < 40


def test_sketch_keeps_inner_products():
    e = torch.randn(4, 3, 128, 128, generator=GEN)
    e = e + 0.5 * e.roll(1, -1) + 1  # errors have means, which plain sums would add up
    small = sketch(e)
    assert SKETCH <= small.shape[1] < 2 * SKETCH
    gram = e.flatten(1) @ e.flatten(1).T
    norms = e.flatten(1).norm(dim=1)
    assert ((small @ small.T - gram) / norms[:, None] / norms).abs().max() < 5 / SKETCH**0.5
    assert torch.equal(sketch(torch.ones(2, 10)), torch.ones(2, 10))


@pytest.mark.parametrize("solver", SOLVERS)
def test_never_worse_than_the_start(solver):
    truth = torch.zeros(2, 2, dtype=torch.float64)
    start = torch.ones(2, 2, dtype=torch.float64)
    solution = solver(linear(matrices([-0.5, 3.0], [-2.0, -1.0]), truth), start, Stop(40))
    assert (solution.merit <= 1).all()
    torch.testing.assert_close(solution.merit, rms(solution.value))
    torch.testing.assert_close(solution.merit, solution.history.nan_to_num(torch.inf).amin(0))


@pytest.mark.parametrize("solver", SOLVERS)
def test_samples_do_not_influence_each_other(solver):
    truth = torch.randn(3, 4, generator=GEN, dtype=torch.float64)
    a = matrices([0.5, 1, 1.2, 1.5], [-0.5, 1, 2.5, 3], [0.1, 0.2, 0.3, 0.4])
    stop = Stop(15, tolerance=1e-4)
    together = solver(linear(a, truth), torch.full_like(truth, 0.1), stop)
    for i in range(3):
        alone = solver(linear(a[i : i + 1], truth[i : i + 1]), torch.full((1, 4), 0.1, dtype=torch.float64), stop)
        torch.testing.assert_close(together.value[i : i + 1], alone.value, rtol=1e-6, atol=1e-9)
        assert together.evaluations[i] == alone.evaluations[0]


def test_finished_samples_leave_the_batch():
    truth = torch.zeros(2, 2, dtype=torch.float64)
    seen = []
    solution = forward_step(
        linear(matrices([1.0, 1.0], [0.1, 0.2]), truth),
        torch.ones(2, 2, dtype=torch.float64),
        Stop(20, tolerance=1e-6),
        callback=lambda iterate: seen.append((iterate.number, iterate.rows.tolist())),
    )
    assert solution.evaluations.tolist() == [2, 21]
    assert solution.converged.tolist() == [True, False]
    assert seen[:3] == [(0, [0, 1]), (1, [0, 1]), (2, [1])]
    assert solution.history.shape == (21, 2)
    assert solution.history[2:, 0].isnan().all()
    assert not solution.history[:, 1].isnan().any()


def test_patience_ends_what_no_longer_improves():
    def residual(z, rows):
        return torch.zeros_like(z), torch.ones_like(z)

    assert forward_step(residual, torch.ones(1, 3), Stop(50, patience=5)).evaluations.item() == 6
    assert forward_step(residual, torch.ones(1, 3), Stop(50)).evaluations.item() == 51

    def improving(z, rows):
        return 0.05 * z, z

    assert forward_step(improving, torch.ones(1, 3), Stop(50, patience=5)).evaluations.item() == 51


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_sample_that_overflows_is_left_at_its_best(solver):
    def residual(z, rows):
        t = torch.where(rows[:, None] == 0, torch.full_like(z, torch.nan), z)
        return t, t

    solution = solver(residual, torch.ones(2, 3), Stop(5))
    assert torch.equal(solution.value[0], torch.ones(3))
    assert solution.merit[1] < 1
    assert solution.evaluations[0] == 1


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_step_that_overflows_is_not_taken(solver):
    seen = []

    def residual(z, rows):
        seen.append(z)
        return torch.full_like(z, torch.inf if len(seen) == 2 else 0.1), z

    solution = solver(residual, torch.ones(1, 3), Stop(5))
    assert len(seen) == 2
    assert torch.isfinite(solution.value).all()


def test_adam_leaves_a_start_of_zeros():
    solution = adam(lambda z, rows: (z - 1, z - 1), torch.zeros(1, 4), Stop(100))
    assert solution.merit.item() < 0.7


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda r, z: forward_step(r, z, Stop(1), step_size=0.0), "step_size"),
        (lambda r, z: forward_step(r, z, Stop(-1)), "steps"),
        (lambda r, z: forward_step(r, z, Stop(1, tolerance=-1.0)), "tolerance"),
        (lambda r, z: forward_step(r, z, Stop(1, patience=-1)), "patience"),
        (lambda r, z: forward_step(r, z, Stop(1, gain=1.0)), "gain"),
        (lambda r, z: inertial_km(r, z, Stop(1), inertia=1.0), "inertia"),
        (lambda r, z: inertial_km(r, z, Stop(1), beta=0.0), "beta"),
        (lambda r, z: adam(r, z, Stop(1), learning_rate=0.0), "learning_rate"),
        (lambda r, z: anderson(r, z, Stop(1), memory=0), "memory"),
        (lambda r, z: anderson(r, z, Stop(1), step_size=-1.0), "step_size"),
        (lambda r, z: anderson(r, z, Stop(1), ridge=-1.0), "ridge"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(lambda z, rows: (z, z), torch.ones(1, 2))


def test_anderson_keeps_as_many_differences_as_it_is_told(monkeypatch):
    sizes, mixing = [], module.mixing
    monkeypatch.setattr(module, "mixing", lambda r, *others: sizes.append(r.shape[1]) or mixing(r, *others))
    matrix = torch.diag(torch.linspace(0.2, 1.8, 12, dtype=torch.float64))
    anderson(lambda z, rows: (z @ matrix, z @ matrix), torch.ones(2, 12, dtype=torch.float64), Stop(6), memory=2)
    assert max(sizes) == 2

import pytest
import torch

from inversion.solvers import forward_step, rms

GEN = torch.Generator().manual_seed(3)


def linear(matrices, solutions):
    """T(z) = A_i (z − z*_i) for sample i; the merit is the distance to the solution."""

    def residual(z, rows):
        error = z - solutions[rows]
        return torch.einsum("bij,bj->bi", matrices[rows], error), rms(error)

    return residual


def matrices(*spectra):
    q, _ = torch.linalg.qr(torch.randn(len(spectra[0]), len(spectra[0]), generator=GEN, dtype=torch.float64))
    return torch.stack([q @ torch.diag(torch.tensor(s, dtype=torch.float64)) @ q.T for s in spectra])


def test_reaches_machine_precision_where_cocoercive():
    truth = torch.randn(2, 3, generator=GEN, dtype=torch.float64)
    residual = linear(matrices([0.5, 1.0, 1.5], [0.3, 0.9, 1.1]), truth)
    solution = forward_step(residual, torch.zeros_like(truth), step_size=1.0, steps=200)
    torch.testing.assert_close(solution.value, truth, rtol=0, atol=1e-14)
    assert solution.residual.max() < 1e-14


def test_rate_is_that_of_the_largest_eigenvalue_of_i_minus_rho_a():
    truth = torch.zeros(1, 3, dtype=torch.float64)
    a = matrices([0.5, 1.0, 1.5])
    start = torch.ones(1, 3, dtype=torch.float64)
    at = [forward_step(linear(a, truth), start, step_size=0.8, steps=n).merit.item() for n in (40, 50)]
    assert (at[1] / at[0]) ** 0.1 == pytest.approx(0.6, rel=1e-3)


def test_never_worse_than_the_start_where_it_diverges():
    truth = torch.zeros(2, 2, dtype=torch.float64)
    residual = linear(matrices([-0.5, 3.0], [0.5, 1.0]), truth)
    start = torch.ones(2, 2, dtype=torch.float64)
    solution = forward_step(residual, start, step_size=1.0, steps=40)
    assert solution.merit[0] <= 1
    assert solution.merit[1] < 1e-9
    torch.testing.assert_close(solution.merit, rms(solution.value))


def test_finished_samples_leave_the_batch():
    truth = torch.zeros(2, 2, dtype=torch.float64)
    seen = []
    solution = forward_step(
        linear(matrices([1.0, 1.0], [0.1, 0.2]), truth),
        torch.ones(2, 2, dtype=torch.float64),
        steps=20,
        tolerance=1e-6,
        callback=lambda k, still_open: seen.append((k, still_open)),
    )
    assert solution.evaluations.tolist() == [2, 21]
    assert solution.converged.tolist() == [True, False]
    assert seen[:3] == [(0, 2), (1, 1), (2, 1)]


def test_samples_do_not_influence_each_other():
    truth = torch.randn(3, 4, generator=GEN, dtype=torch.float64)
    a = matrices([0.5, 1, 1.2, 1.5], [-0.5, 1, 2.5, 3], [0.1, 0.2, 0.3, 0.4])
    together = forward_step(linear(a, truth), torch.zeros_like(truth), steps=15)
    for i in range(3):
        alone = forward_step(
            linear(a[i : i + 1], truth[i : i + 1]), torch.zeros(1, 4, dtype=torch.float64), steps=15
        )
        torch.testing.assert_close(together.value[i : i + 1], alone.value)


def test_a_sample_that_overflows_is_left_at_its_best():
    def residual(z, rows):
        t = torch.where(rows[:, None] == 0, torch.full_like(z, torch.nan), z)
        return t, rms(t)

    solution = forward_step(residual, torch.ones(2, 3), steps=5)
    assert torch.equal(solution.value[0], torch.ones(3))
    assert torch.equal(solution.value[1], torch.zeros(3))
    assert solution.converged.tolist() == [False, True]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"step_size": 0.0}, "step_size"), ({"steps": -1}, "steps"), ({"tolerance": -1.0}, "tolerance")],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        forward_step(lambda z, rows: (z, rms(z)), torch.ones(1, 2), **arguments)

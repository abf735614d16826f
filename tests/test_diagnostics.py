import pytest
import torch

from inversion.diagnostics import Path, cocoercivity
from inversion.solvers import Stop, forward_step
from tests.test_solvers import linear, matrices


def path_of(spectrum, step_size=0.5, steps=60):
    truth = torch.zeros(1, len(spectrum), dtype=torch.float64)
    path = Path()
    start = torch.ones(1, len(spectrum), dtype=torch.float64)
    forward_step(linear(matrices(spectrum), truth), start, Stop(steps), step_size=step_size, callback=path)
    return path


def test_cocoercivity_of_a_symmetric_map_is_between_the_inverses_of_its_eigenvalues():
    found = cocoercivity(path_of([0.5, 1.0, 1.6]))
    assert 1 / 1.6 <= found.beta.item() <= 2.0
    assert (found.local >= 1 / 1.6 - 1e-9).all()
    assert (found.local <= 2.0 + 1e-9).all()
    assert found.allows(1.0).all()


def test_one_eigenvalue_gives_its_inverse_exactly():
    found = cocoercivity(path_of([0.8, 0.8]), compare=10)
    torch.testing.assert_close(found.beta, torch.tensor([1 / 0.8], dtype=torch.float64))
    torch.testing.assert_close(found.local[:10], torch.full((10, 1), 1 / 0.8, dtype=torch.float64))


def test_negative_where_t_is_not_monotone():
    with pytest.warns(UserWarning, match="not cocoercive enough"):
        found = cocoercivity(path_of([-0.3, 1.0]), step_size=0.5)
    assert found.beta.item() < 0
    assert not found.allows(0.1).any()


def test_a_path_that_overflows_promises_nothing():
    path = path_of([0.5, 1.0], steps=4)
    path.z[-1] = path.z[-1] * torch.nan
    found = cocoercivity(path)
    assert found.beta.isnan().all()
    assert not found.allows(0.1).any()


def test_distance_is_that_to_the_last_point():
    path = path_of([0.5, 1.0], steps=20)
    found = cocoercivity(path, compare=6)
    torch.testing.assert_close(found.distance, (path.z[-1] - path.z[6]).norm(dim=1))


def test_bad_paths_are_named():
    with pytest.raises(ValueError, match="at least 2"):
        cocoercivity(Path())
    for compare in (-1, 3):
        with pytest.raises(ValueError, match="compare must be between 0 and 2"):
            cocoercivity(path_of([1.0], steps=3), compare=compare)
    path = path_of([1.0], steps=3)
    with pytest.raises(ValueError, match="another chunk"):
        forward_step(lambda z, rows: (z, z), torch.ones(1, 1), Stop(3), callback=path)
    truth = torch.zeros(2, 2, dtype=torch.float64)
    start = torch.ones(2, 2, dtype=torch.float64)
    with pytest.raises(ValueError, match="left the batch"):
        forward_step(
            linear(matrices([1.0, 1.0], [0.1, 0.2]), truth), start, Stop(9, tolerance=1e-6), callback=Path()
        )

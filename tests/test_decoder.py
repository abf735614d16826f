import pytest
import torch

from inversion import invert_decoder
from inversion.decoder import EIGHT_BIT, decoder_residual
from inversion.solvers import forward_step, rms
from tests.problems import linear_autoencoder


def problem(dtype=torch.float64):
    ae = linear_autoencoder(dtype=dtype)
    truth = torch.rand(3, 4, 8, 8, generator=torch.Generator().manual_seed(0), dtype=dtype) * 0.4 - 0.2
    return ae, truth, ae.decode(truth)


def test_inverts_a_linear_decoder_to_machine_precision():
    ae, truth, x = problem()
    b, residual = decoder_residual(ae, x)
    assert rms(b - truth).min() > 0.01
    solution = forward_step(residual, b, step_size=1.0, steps=100)
    torch.testing.assert_close(solution.value, truth, rtol=0, atol=1e-14)


def test_stops_at_eight_bit_rounding():
    ae, truth, x = problem()
    solution = invert_decoder(ae, x, steps=200, step_size=1.0)
    assert solution.converged.all()
    assert (solution.merit <= 1.05 * EIGHT_BIT).all()
    assert (solution.evaluations < 200).all()
    torch.testing.assert_close(solution.merit, rms(ae.decode(solution.value) - x))
    assert rms(solution.value - truth).max() < 10 * EIGHT_BIT


def test_encoder_baseline_is_the_encoder():
    ae, _, x = problem()
    solution = invert_decoder(ae, x, method="encoder")
    assert torch.equal(solution.value, ae.encode(x))
    assert solution.evaluations.tolist() == [1, 1, 1]


def test_sapling_pictures_come_closer_than_the_encoder_gets(sapling, marked):
    from watermark.images import fit, from_image

    x = torch.stack([fit(from_image(image), (128, 128))[0] for image in marked])
    encoder = invert_decoder(sapling.autoencoder, x, method="encoder")
    better = invert_decoder(sapling.autoencoder, x)
    assert (better.merit < encoder.merit).all()
    assert better.merit.mean() < 0.8 * encoder.merit.mean()


@pytest.mark.parametrize(
    ("x", "arguments", "message"),
    [
        (torch.zeros(1, 3, 15, 16), {}, "multiples of 2"),
        (torch.zeros(3, 16, 16), {}, "shape"),
        (torch.zeros(1, 4, 16, 16), {}, "shape"),
        (torch.full((1, 3, 16, 16), 1.5), {}, "within"),
        (torch.full((1, 3, 16, 16), torch.nan), {}, "finite"),
        (torch.zeros(1, 3, 16, 16), {"method": "magic"}, "magic"),
    ],
)
def test_bad_input_is_named(x, arguments, message):
    with pytest.raises(ValueError, match=message):
        invert_decoder(linear_autoencoder(dtype=torch.float32), x, **arguments)

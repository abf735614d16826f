import pytest
import torch
from diffusers import AutoencoderTiny

from inversion.autoencoder import from_diffusers
from tests.problems import linear_autoencoder, tiny_vae


@pytest.mark.parametrize("shift", [None, 0.3])
def test_convention_is_that_of_the_pipelines(shift):
    vae = tiny_vae(scaling_factor=0.2, shift_factor=shift)
    ae = from_diffusers(vae)
    x = torch.rand(2, 3, 32, 24) * 2 - 1
    with torch.inference_mode():
        z = (vae.encode(x).latent_dist.mode() - (shift or 0)) * 0.2
        y = vae.decode(z / 0.2 + (shift or 0)).sample
    assert (ae.channels, ae.factor) == (4, 2)
    torch.testing.assert_close(ae.encode(x), z, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ae.decode(z), y.clamp(-1, 1), rtol=1e-5, atol=1e-5)


def test_encoder_is_a_function_and_decoder_clamps():
    ae = from_diffusers(tiny_vae())
    x = torch.rand(1, 3, 16, 16) * 2 - 1
    assert torch.equal(ae.encode(x), ae.encode(x))
    y = ae.decode(100 * torch.randn(1, 4, 8, 8))
    assert y.abs().max() == 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sixteen_bit_network_speaks_float32(dtype):
    ae = from_diffusers(tiny_vae().to(dtype))
    x = torch.rand(1, 3, 16, 16) * 2 - 1
    z = ae.encode(x)
    assert z.dtype == ae.decode(z).dtype == torch.float32
    exact = from_diffusers(tiny_vae()).encode(x)
    assert (z - exact).norm() < 0.05 * exact.norm()


def test_unknown_autoencoder_is_refused():
    with pytest.raises(TypeError, match="AutoencoderTiny"):
        from_diffusers(AutoencoderTiny())


def test_linear_problem_is_what_it_says():
    ae = linear_autoencoder()
    z = torch.rand(1, 4, 8, 8, dtype=torch.float64) * 0.4 - 0.2
    once, twice = ae.encode(ae.decode(z)), ae.encode(ae.decode(2 * z))
    torch.testing.assert_close(twice, 2 * once)
    assert (once - z).norm() > 0.05 * z.norm()

from dataclasses import replace

import pytest
import torch

from benchmarks.record import peak_memory
from inversion import invert_decoder
from inversion.anderson import anderson
from inversion.autoencoder import from_diffusers
from inversion.chunks import out_of_memory
from inversion.decoder import STEPS, decoder_residual
from inversion.gradient import decoder_gradient
from inversion.shrinkage import DOUBT, EIGHT_BIT, TOLERANCE, shrink
from inversion.solvers import Solution, Stop, adam, forward_step, rms
from tests.problems import linear_autoencoder, tiny_vae
from tests.tiny_autoencoders import ALL, example

GRADIENT_FREE = [m for m in STEPS if m != "gradient"]


def problem(dtype=torch.float64):
    ae = linear_autoencoder(dtype=dtype)
    truth = torch.rand(3, 4, 8, 8, generator=torch.Generator().manual_seed(0), dtype=dtype) * 0.4 - 0.2
    return ae, truth, ae.decode(truth)


def sapling_pictures(images):
    from watermark.reading.fitting import as_tensor, fit
    from watermark.reading.images import from_image

    return as_tensor([fit(from_image(image), (128, 128))[0] for image in images])


def test_inverts_a_linear_decoder_to_machine_precision():
    ae, truth, x = problem()
    b, residual = decoder_residual(ae, x)
    assert rms(b - truth).min() > 0.01
    solution = forward_step(residual, b, Stop(100))
    torch.testing.assert_close(solution.value, truth, rtol=0, atol=1e-14)


@pytest.mark.parametrize("method", ["anderson", "forward_step"])
def test_stops_at_eight_bit_rounding(method):
    ae, truth, x = problem()
    solution = invert_decoder(ae, x, method=method, steps=200)
    assert solution.converged.all()
    assert (solution.merit <= 1.05 * EIGHT_BIT).all()
    assert (solution.evaluations < 60).all()
    torch.testing.assert_close(solution.merit, rms(ae.decode(solution.value) - x))
    assert rms(solution.value - truth).max() < 10 * EIGHT_BIT


def test_the_default_needs_fewer_evaluations_than_published_methods():
    ae, _, x = problem()
    used = {m: invert_decoder(ae, x, method=m, steps=200) for m in ("anderson", "forward_step", "adam")}
    assert used["anderson"].converged.all()
    assert used["anderson"].evaluations.max() < used["forward_step"].evaluations.min()
    assert used["anderson"].evaluations.max() < used["adam"].evaluations.min()


def test_encoder_baseline_is_the_encoder():
    ae, _, x = problem()
    solution = invert_decoder(ae, x, method="encoder", steps=9)
    assert torch.equal(solution.value, ae.encode(x))
    assert solution.evaluations.tolist() == [1, 1, 1]


def test_sapling_pictures_come_closer_than_the_encoder_gets(sapling, marked):
    x = sapling_pictures(marked)
    encoder = invert_decoder(sapling.autoencoder, x, method="encoder")
    better = invert_decoder(sapling.autoencoder, x)
    assert (better.merit < encoder.merit).all()
    assert better.merit.mean() < 0.5 * encoder.merit.mean()
    torch.testing.assert_close(better.merit, rms(sapling.autoencoder.decode(better.value) - x), rtol=1e-3, atol=0)


def test_the_default_beats_the_published_methods_on_sapling(sapling, unmarked):
    """With true latents to compare with: those of pictures, moved off the encoder's range, decoded to 8 bits."""
    ae = sapling.autoencoder
    truth = ae.encode(sapling_pictures(unmarked))
    truth = truth + 0.1 * torch.randn(truth.shape, generator=torch.Generator().manual_seed(5))
    x = ((ae.decode(truth) + 1) * 127.5).round() / 127.5 - 1

    def error(method, steps):
        return rms(invert_decoder(ae, x, method=method, steps=steps).value - truth).mean()

    ours = error("anderson", 10)
    assert ours < error("forward_step", 10)
    assert ours < 0.8 * error("adam", 10)
    assert ours < 0.7 * error("encoder", None)


@pytest.mark.parametrize("method", GRADIENT_FREE)
def test_pixel_error_is_never_above_the_encoders(method):
    """Random networks: E∘D is nothing like the identity."""
    for seed in range(3):
        ae = from_diffusers(tiny_vae(seed))
        x = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(seed)) * 2 - 1
        solution = invert_decoder(ae, x, method=method, steps=8)
        encoder = invert_decoder(ae, x, method="encoder")
        assert (solution.merit <= encoder.merit * (1 + 1e-5)).all()
        torch.testing.assert_close(solution.merit, rms(ae.decode(solution.value) - x), rtol=1e-4, atol=1e-6)


def test_shrinking_goes_back_by_what_remains_of_the_pixel_error():
    """The pixel error is 1 at b = 0 and ``left`` at z = 1, linear in between, but for the last sample."""
    left = torch.tensor([0.0, 0.1, 0.5, 1.0, 1.5, 0.5])
    b, value = torch.zeros(6, 4, 2, 2), torch.ones(6, 4, 2, 2)

    def residual(z, rows):
        error = 1 - (1 - left[rows].view(-1, 1, 1, 1)) * z
        return z, torch.where((rows == 5).view(-1, 1, 1, 1) & (z > 0), 3.0, error)

    start = Solution(value, rms(value), left, torch.full((6,), 5), left == 0, torch.ones(1, 6))
    found = shrink(start, b, residual)
    ratio = (left**2 / (1 - left**2))[1:3]
    torch.testing.assert_close(found.value[1:3, 0, 0, 0], 1 - DOUBT * ratio)
    assert torch.equal(found.value[0], value[0])
    assert torch.equal(found.value[3:], b[3:])
    assert found.evaluations.tolist() == [5, 6, 6, 6, 6, 7]
    torch.testing.assert_close(found.merit, rms(residual(found.value, torch.arange(6))[1]))
    assert (found.merit <= 1).all()


def test_shrinkage_trusts_what_a_decoder_made_and_not_what_noise_did_to_it(sapling, marked):
    clean = sapling_pictures(marked)
    generator = torch.Generator().manual_seed(0)
    noisy = (clean + 0.2 * torch.randn(clean.shape, generator=generator)).clamp(-1, 1)
    for x, low, high in ((clean, 0.7, 1.0), (noisy, 0.0, 0.2)):
        b = sapling.autoencoder.encode(x)
        whole, part = (
            invert_decoder(sapling.autoencoder, x, method=m).value - b for m in ("anderson", "shrinkage")
        )
        share = (part * whole).sum((1, 2, 3)) / whole.square().sum((1, 2, 3))
        assert (low <= share).all()
        assert (share <= high + 1e-4).all()
        torch.testing.assert_close(part, share.view(-1, 1, 1, 1) * whole, rtol=1e-3, atol=1e-4)


def test_a_sample_that_is_not_finite_does_not_depend_on_its_neighbours():
    ae = linear_autoencoder(dtype=torch.float32)
    x = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 1.6 - 0.8

    def encode(pictures):
        z = 0.5 * ae.encode(pictures)
        z[(pictures - x[0]).abs().amax((1, 2, 3)) < 1e-6] = torch.nan
        return z

    broken = replace(ae, encode=encode)
    together, alone = invert_decoder(broken, x), invert_decoder(broken, x[:1])
    assert together.value[0].isnan().all()
    assert alone.value[0].isnan().all()
    for name in ("residual", "merit", "evaluations", "converged"):
        assert getattr(together, name)[0] == getattr(alone, name)[0]
    assert (together.merit[1:] < rms(ae.decode(encode(x[1:])) - x[1:])).all()


def test_gradients_and_modes_of_the_caller_do_not_matter():
    ae = from_diffusers(tiny_vae())
    x = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    for method in STEPS:
        plain = invert_decoder(ae, x, method=method, steps=2)
        with torch.inference_mode():
            inside = invert_decoder(ae, x, method=method, steps=2)
        traced = invert_decoder(ae, x.clone().requires_grad_(), method=method, steps=2)
        double = invert_decoder(ae, x.double(), method=method, steps=2)
        assert not traced.value.requires_grad
        assert not traced.merit.requires_grad
        for other in (inside, traced, double):
            torch.testing.assert_close(other.value, plain.value, rtol=1e-4, atol=1e-5)


def test_what_is_made_in_inference_mode_serves_outside_it():
    vae = tiny_vae()
    with torch.inference_mode():
        ae = from_diffusers(vae)
        invert_decoder(ae, torch.rand(1, 3, 64, 64), steps=2)  # large enough for a sketch
    b, residual = decoder_residual(ae, torch.rand(1, 3, 64, 64, requires_grad=True))
    solution = anderson(residual, b, Stop(3))
    assert not solution.value.requires_grad
    assert not solution.merit.requires_grad
    assert invert_decoder(ae, torch.rand(1, 3, 16, 16), method="gradient", steps=2).evaluations.item() == 3


@pytest.mark.parametrize("size", [16, 64])
@pytest.mark.parametrize("method", STEPS)
def test_the_default_device_does_not_matter(method, size):
    ae = from_diffusers(tiny_vae())
    x = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    plain = invert_decoder(ae, x, method=method, steps=3)
    with torch.device("meta"):  # stands for cuda
        elsewhere = invert_decoder(ae, x, method=method, steps=3)
    assert torch.equal(elsewhere.value, plain.value)


@pytest.mark.parametrize("chunk_size", [1, 2, 5])
def test_chunks_do_not_change_the_result(chunk_size):
    ae = linear_autoencoder(dtype=torch.float32)
    x = torch.rand(5, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 0.4 - 0.2
    whole, parts = invert_decoder(ae, x), invert_decoder(ae, x, chunk_size=chunk_size)
    torch.testing.assert_close(parts.value, whole.value, rtol=1e-4, atol=1e-6)
    assert parts.history.shape[1] == 5
    assert torch.equal(parts.evaluations, whole.evaluations)


def test_memory_that_runs_out_halves_the_chunks():
    ae = linear_autoencoder(dtype=torch.float32)
    sizes = []

    def decode(z):
        sizes.append(len(z))
        if len(z) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return ae.decode(z)

    x = torch.rand(7, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 0.4 - 0.2
    solution = invert_decoder(replace(ae, decode=decode), x, chunk_size=7)
    torch.testing.assert_close(solution.value, invert_decoder(ae, x).value, rtol=1e-4, atol=1e-6)
    assert max(sizes[2:]) <= 3

    def never(z):
        raise RuntimeError(
            "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
        )

    with pytest.raises(RuntimeError, match="allocate"):
        invert_decoder(replace(ae, decode=never), x)
    assert not out_of_memory(RuntimeError("shapes do not match"))


def test_frames_of_a_video_are_samples_of_a_picture_autoencoder(sapling, marked):
    x = sapling_pictures(marked).unflatten(0, (2, 2)).transpose(1, 2)
    video = invert_decoder(sapling.autoencoder, x, steps=2)
    frames = invert_decoder(sapling.autoencoder, sapling_pictures(marked), steps=2)
    assert video.value.shape == (2, 4, 2, 32, 32)
    assert video.merit.shape == video.converged.shape == (2, 2)
    assert video.history.shape[1:] == (2, 2)
    torch.testing.assert_close(video.value[1, :, 0], frames.value[2], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("name", "make"), ALL, ids=[name for name, _ in ALL])
def test_every_kind_of_autoencoder_is_inverted(name, make):
    torch.manual_seed(0)
    ae = from_diffusers(make())
    x = example(ae)
    solution = invert_decoder(ae, x, steps=3)
    assert solution.value.shape == ae.encode(x).shape
    assert torch.isfinite(solution.value).all()
    y = ae.decode(solution.value)
    assert y.shape == x.shape
    torch.testing.assert_close(solution.merit, rms(y - x), rtol=1e-3, atol=1e-5)
    assert (solution.merit <= invert_decoder(ae, x, method="encoder").merit * (1 + 1e-4)).all()
    assert (solution.evaluations > 1).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sixteen_bit_networks_keep_float32_iterates(dtype):
    exact = linear_autoencoder(dtype=torch.float32)

    def rounded(network):
        return lambda values: network(values.to(dtype).float()).to(dtype).float()

    rough = replace(exact, encode=rounded(exact.encode), decode=rounded(exact.decode))
    truth = 0.1 * torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    x = exact.decode(truth)
    solution = invert_decoder(rough, x, steps=5)
    assert solution.value.dtype == torch.float32
    assert (solution.merit < 0.9 * invert_decoder(rough, x, method="encoder").merit).all()
    assert (solution.value != solution.value.to(dtype).float()).any()
    networks = from_diffusers(tiny_vae().to(dtype))
    assert invert_decoder(networks, networks.decode(truth), steps=2).value.dtype == torch.float32


def test_gradient_is_that_of_the_squared_error():
    ae = from_diffusers(tiny_vae())
    x = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    z, residual = decoder_gradient(ae, x)
    gradient, error = residual(z, torch.arange(2))
    torch.testing.assert_close(error, ae.decode(z) - x, rtol=1e-5, atol=1e-6)
    direction = torch.randn(z.shape, generator=torch.Generator().manual_seed(1))

    def loss(at):
        return (ae.decode_with_grad(at).detach() - x).double().square().sum()

    h = 1e-3
    slope = (loss(z + h * direction) - loss(z - h * direction)) / (2 * h)
    assert float((gradient * direction).sum()) == pytest.approx(float(slope), rel=2e-2)


def test_gradient_method_has_the_schedule_that_falls_to_zero(sapling, marked):
    x = sapling_pictures(marked[:1])
    b, residual = decoder_gradient(sapling.autoencoder, x)
    falling, frozen = (
        adam(residual, b, Stop(12, tolerance=TOLERANCE), learning_rate=0.1, frozen=f).history for f in (False, True)
    )
    found = invert_decoder(sapling.autoencoder, x, method="gradient", steps=12).history
    torch.testing.assert_close(found, falling)
    assert not torch.allclose(found, frozen, rtol=1e-4)


def test_gradient_method_lowers_the_pixel_error_and_leaves_the_weights_alone():
    vae = tiny_vae()
    ae = from_diffusers(vae)
    x = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    solution = invert_decoder(ae, x, method="gradient", steps=20)
    assert solution.merit < 0.95 * invert_decoder(ae, x, method="encoder").merit
    assert all(p.grad is None for p in vae.parameters())
    with pytest.raises(ValueError, match="decode_with_grad"):
        invert_decoder(linear_autoencoder(dtype=torch.float32), x, method="gradient")


def test_memory_is_that_of_one_decode_and_does_not_grow_with_frames(sapling):
    ae = sapling.autoencoder
    z = torch.randn(2, 4, 32, 32, generator=torch.Generator().manual_seed(0))
    x = ae.decode(z)
    decode = peak_memory(lambda: ae.decode(z))
    assert decode > z.numel() * z.element_size()
    assert peak_memory(lambda: invert_decoder(ae, x, steps=6, chunk_size=2)) < 1.15 * decode
    long = torch.cat([x.unsqueeze(2)] * 4, 2)
    assert peak_memory(lambda: invert_decoder(ae, long, steps=3, chunk_size=2)) < 1.15 * decode
    assert peak_memory(lambda: invert_decoder(ae, x, method="gradient", steps=1, chunk_size=2)) > 3 * decode


@pytest.mark.parametrize(
    ("x", "arguments", "message"),
    [
        (torch.zeros(1, 3, 15, 16), {}, "multiples of 2"),
        (torch.zeros(3, 16, 16), {}, "shape"),
        (torch.zeros(1, 4, 16, 16), {}, "shape"),
        (torch.zeros(0, 3, 16, 16), {}, "empty"),
        (torch.full((1, 3, 16, 16), 1.5), {}, "within"),
        (torch.full((1, 3, 16, 16), torch.nan), {}, "finite"),
        (torch.zeros(1, 3, 16, 16), {"method": "magic"}, "magic"),
        (torch.zeros(1, 3, 16, 16), {"steps": -1}, "steps"),
        (torch.zeros(1, 3, 16, 16), {"chunk_size": 0}, "chunk_size"),
    ],
)
def test_bad_input_is_named(x, arguments, message):
    with pytest.raises(ValueError, match=message):
        invert_decoder(linear_autoencoder(dtype=torch.float32), x, **arguments)


def test_videos_for_video_autoencoders():
    ae = replace(linear_autoencoder(dtype=torch.float32), frame_factor=4)
    with pytest.raises(ValueError, match="B, 3, F, H, W"):
        invert_decoder(ae, torch.zeros(1, 3, 16, 16))
    with pytest.raises(ValueError, match=r"1 \+ 4 k"):
        invert_decoder(ae, torch.zeros(1, 3, 4, 16, 16))

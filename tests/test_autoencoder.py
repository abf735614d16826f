from types import SimpleNamespace

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    CogVideoXPipeline,
    CogVideoXVideoToVideoPipeline,
    Flux2Pipeline,
    FluxImg2ImgPipeline,
    LTXPipeline,
    QwenImageImg2ImgPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableVideoDiffusionPipeline,
    UNet2DModel,
    VQModel,
    WanVideoToVideoPipeline,
)
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

from inversion import autoencoder
from inversion.autoencoder import from_diffusers
from tests import tiny_autoencoders as tiny
from tests.problems import linear_autoencoder, tiny_pipeline, tiny_vae

SIZES = {  # channels, factor, frame_factor
    "sd": (4, 2, None),
    "sd3": (4, 2, None),
    "sdxl": (4, 2, None),
    "playground": (4, 2, None),
    "taesd": (4, 2, None),
    "flux2": (16, 4, None),
    "qwen": (4, 4, None),
    "sana": (4, 2, None),
    "svd": (4, 2, 1),
    "cogvideox": (4, 4, 4),
    "wan": (4, 4, 4),
    "wan22": (4, 8, 4),
    "ltx": (4, 8, 4),
    "ltx-timestep": (4, 8, 4),
    "hunyuan": (4, 4, 4),
    "mochi": (4, 4, 3),
}
every = pytest.mark.parametrize(("name", "build"), tiny.ALL, ids=[name for name, _ in tiny.ALL])


def column(values):
    return torch.tensor(values).view(1, -1, 1, 1, 1)


def pipeline_encode(name, vae, x):
    """What the pipelines do to pixels; their own code wherever a method of theirs does it alone."""
    fake = SimpleNamespace(
        vae=vae,
        scheduler=SimpleNamespace(add_noise=lambda z, noise, t: z, init_noise_sigma=1.0),
        vae_scaling_factor_image=vae.config.get("scaling_factor"),
        vae_scale_factor_spatial=1,
        vae_scale_factor_temporal=1,
        _patchify_latents=Flux2Pipeline._patchify_latents,
    )
    kwargs = {"dtype": torch.float32, "device": torch.device("cpu")}
    match name:
        case "sd" | "sdxl" | "playground":
            prepare = StableDiffusionXLImg2ImgPipeline.prepare_latents
            return prepare(fake, x, None, len(x), 1, add_noise=False, **kwargs)
        case "sd3" | "taesd":
            return FluxImg2ImgPipeline._encode_vae_image(fake, x, None)
        case "flux2":
            return Flux2Pipeline._encode_vae_image(fake, x, None)
        case "qwen":
            return QwenImageImg2ImgPipeline._encode_vae_image(fake, x[:, :, None], None)[:, :, 0]
        case "sana":  # SanaSprintImg2ImgPipeline.prepare_latents, before the scheduler's sigma_data
            return vae.encode(x).latent * vae.config.scaling_factor
        case "svd":  # the inverse of StableVideoDiffusionPipeline.decode_latents; one video, one frame at a time
            frames = [[vae.encode(frame[None]).latent_dist.mode() for frame in video.unbind(1)] for video in x]
            return torch.stack([torch.cat(video) for video in frames]).transpose(1, 2) * vae.config.scaling_factor
        case "cogvideox":  # (B, F, C, h, w)
            return CogVideoXVideoToVideoPipeline.prepare_latents(fake, x, len(x), **kwargs).transpose(1, 2)
        case "wan" | "wan22":
            return WanVideoToVideoPipeline.prepare_latents(fake, x, len(x), **kwargs)
        case "ltx" | "ltx-timestep":
            z = vae.encode(x).latent_dist.mode()
            return LTXPipeline._normalize_latents(z, vae.latents_mean, vae.latents_std, vae.config.scaling_factor)
        case "hunyuan":  # HunyuanVideoImageToVideoPipeline.prepare_latents
            return vae.encode(x).latent_dist.mode() * vae.config.scaling_factor
        case "mochi":  # the inverse of MochiPipeline.__call__
            z = vae.encode(x).latent_dist.mode()
            return (z - column(tiny.MEAN)) * vae.config.scaling_factor / column(tiny.STD)


def pipeline_decode(name, vae, z):
    """What the pipelines do to latents, in their own code or as it stands at the end of their ``__call__``."""
    fake = SimpleNamespace(vae=vae, vae_scaling_factor_image=vae.config.get("scaling_factor"))
    scale = vae.config.get("scaling_factor")
    match name:
        case "sd" | "sdxl" | "sana":
            return vae.decode(z / scale, return_dict=False)[0]
        case "sd3" | "taesd":  # StableDiffusion3Pipeline, FluxPipeline
            return vae.decode((z / scale) + vae.config.shift_factor, return_dict=False)[0]
        case "playground":  # StableDiffusionXLPipeline
            mean, std = column(tiny.MEAN)[..., 0], column(tiny.STD)[..., 0]
            return vae.decode(z * std / scale + mean, return_dict=False)[0]
        case "flux2":
            mean = vae.bn.running_mean.view(1, -1, 1, 1)
            std = torch.sqrt(vae.bn.running_var.view(1, -1, 1, 1) + vae.config.batch_norm_eps)
            return vae.decode(Flux2Pipeline._unpatchify_latents(z * std + mean), return_dict=False)[0]
        case "qwen":  # its latents_std is the reciprocal
            z = z[:, :, None] / (1.0 / column(tiny.STD)) + column(tiny.MEAN)
            return vae.decode(z, return_dict=False)[0][:, :, 0]
        case "svd":  # (B, F, C, h, w); in chunks of one video, as by default
            return StableVideoDiffusionPipeline.decode_latents(fake, z.transpose(1, 2), z.shape[2], z.shape[2])
        case "cogvideox":
            return CogVideoXPipeline.decode_latents(fake, z.transpose(1, 2))
        case "wan" | "wan22":
            return vae.decode(z / (1.0 / column(tiny.STD)) + column(tiny.MEAN), return_dict=False)[0]
        case "ltx" | "ltx-timestep":  # decode_timestep is 0.0 by default, and so is the noise
            z = LTXPipeline._denormalize_latents(z, vae.latents_mean, vae.latents_std, scale)
            timestep = torch.tensor([0.0] * len(z)) if vae.config.timestep_conditioning else None
            return vae.decode(z, timestep, return_dict=False)[0]
        case "hunyuan":
            return vae.decode(z / scale, return_dict=False)[0]
        case "mochi":
            return vae.decode(z * column(tiny.STD) / scale + column(tiny.MEAN), return_dict=False)[0]


@every
def test_convention_is_that_of_the_pipelines(name, build, monkeypatch):
    monkeypatch.setattr(DiagonalGaussianDistribution, "sample", lambda self, generator=None: self.mode())
    vae = build()
    ae = from_diffusers(vae)
    x = tiny.example(ae)
    with torch.no_grad():
        z = pipeline_encode(name, vae, x)
        z = z + 0.5 * torch.randn(z.shape, generator=torch.Generator().manual_seed(1))
        y = pipeline_decode(name, vae, z)
        torch.testing.assert_close(ae.encode(x), pipeline_encode(name, vae, x), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ae.decode(z), y.clamp(-1, 1), rtol=1e-4, atol=1e-5)
    assert (ae.channels, ae.factor, ae.frame_factor) == SIZES[name]
    assert z.shape == (2, ae.channels, *(3,) * (x.ndim - 4), 4, 3)
    assert y.shape == x.shape


@pytest.mark.parametrize("scale", [0.2, 0.9])
def test_stable_diffusion_pipeline_shows_the_same_picture(scale):
    pipe = tiny_pipeline()
    pipe.vae.register_to_config(scaling_factor=scale)
    z = 0.3 * torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    run = {"latents": z, "num_inference_steps": 1, "guidance_scale": 1.0}
    out = pipe("red apple", output_type="latent", **run).images
    picture = pipe("red apple", output_type="pt", **run).images
    torch.testing.assert_close((from_diffusers(pipe.vae).decode(out) + 1) / 2, picture, rtol=1e-4, atol=1e-5)


@every
def test_encoder_is_a_function_and_decoder_clamps(name, build):
    vae = build().train()
    ae = from_diffusers(vae)
    assert not vae.training
    x = tiny.example(ae)
    z = ae.encode(x)
    assert torch.equal(z, ae.encode(x))
    assert z.dtype == torch.float32
    assert z.is_contiguous()
    wild = 100 * torch.randn(z.shape, generator=torch.Generator().manual_seed(0))
    y = ae.decode(wild)
    assert torch.equal(y, ae.decode(wild))
    assert y.dtype == torch.float32
    assert y.is_contiguous()
    assert 0 < y.abs().max() <= 1
    z[0], y[0] = 0, 0  # neither is an inference tensor


@every
def test_gradient_reaches_the_latents_and_no_weight(name, build):
    vae = build()
    ae = from_diffusers(vae)
    x = tiny.example(ae)
    z = ae.encode(x).requires_grad_()
    y = ae.decode_with_grad(z)
    (y - x).square().mean().backward()
    assert z.grad.abs().amin(dim=(0, *range(2, z.ndim))).min() > 0  # every channel matters
    assert not any(p.requires_grad or p.grad is not None for p in vae.parameters())
    torch.testing.assert_close(y.detach().clamp(-1, 1), ae.decode(z), rtol=1e-5, atol=1e-5)
    assert not ae.decode(z).requires_grad


def test_gradient_is_not_clamped():
    ae = from_diffusers(tiny_vae())
    z = 100 * torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    assert ae.decode(z).abs().max() == 1
    assert ae.decode_with_grad(z).abs().max() > 1


@every
def test_sixteen_bit_network_speaks_float32(name, build):
    exact = from_diffusers(build())
    x = tiny.example(exact).bfloat16().float()  # Mochi's encoder takes sin(256 π x), so it sees the rounding of x
    z = exact.encode(x)
    vae = build().to(torch.bfloat16)
    ae = from_diffusers(vae)
    assert vae.dtype == torch.bfloat16
    assert ae.encode(x).dtype == ae.decode(z).dtype == ae.decode_with_grad(z).dtype == torch.float32
    assert (ae.encode(x) - z).norm() < 0.1 * z.norm()
    assert (ae.decode(z) - exact.decode(z)).norm() < 0.1 * exact.decode(z).norm()


@pytest.mark.parametrize(
    ("build", "dtype", "upcast", "expected"),
    [
        (tiny.sdxl_vae, torch.float16, None, torch.float32),
        (tiny.sdxl_vae, torch.float16, False, torch.float16),
        (tiny.sdxl_vae, torch.bfloat16, None, torch.bfloat16),
        (tiny.sd_vae, torch.float16, None, torch.float16),  # force_upcast is true by default only
        (tiny.sd_vae, torch.float16, True, torch.float32),
        (tiny.taesd, torch.float16, None, torch.float16),
    ],
)
def test_upcast(build, dtype, upcast, expected, monkeypatch):
    vae = build().to(dtype)
    assert vae.config.get("force_upcast") == (build is not tiny.taesd)
    used = []
    convention = autoencoder.convention
    monkeypatch.setattr(autoencoder, "convention", lambda vae: used.append(vae) or convention(vae))
    ae = from_diffusers(vae, upcast=upcast)
    x = tiny.example(ae)
    y = ae.decode(ae.encode(x))
    assert y.isfinite().all()
    assert {p.dtype for p in used[0].parameters()} == {expected}
    assert {p.dtype for p in vae.parameters()} == {dtype}  # the pipeline that shares it goes on
    assert (used[0] is vae) == (expected == dtype)


def test_upcast_saves_what_overflows_in_float16():
    def build():
        vae = tiny.sdxl_vae()
        with torch.no_grad():
            vae.decoder.conv_in.weight.mul_(2e4)
        return vae.to(torch.float16)

    z = 30 * torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    narrow = from_diffusers(build(), upcast=False)
    wide = from_diffusers(build())
    assert not narrow.decode(z).isfinite().all()
    assert wide.decode(z).isfinite().all()


def test_force_upcast_of_a_saved_config_counts(tmp_path):
    tiny.sdxl_vae().save_pretrained(tmp_path)
    vae = AutoencoderKL.from_pretrained(tmp_path, dtype=torch.float16)
    assert autoencoder.asks_for_upcast(vae.config)


@pytest.mark.parametrize(
    ("build", "frames", "message"),
    [
        (tiny.wan_vae, 8, "1 \\+ 4 k frames"),
        (tiny.ltx_vae, 6, "1 \\+ 4 k frames"),
        (tiny.hunyuan_vae, 7, "1 \\+ 4 k frames"),
        (tiny.mochi_vae, 5, "1 \\+ 3 k frames"),
        (tiny.cogvideox_vae, 5, "1 \\+ 8 k frames"),  # two latent frames, which it would decode into eight
    ],
)
def test_number_of_frames_that_would_be_cut_is_refused(build, frames, message):
    ae = from_diffusers(build())
    with pytest.raises(ValueError, match=f"{message}.*got {frames}"):
        ae.encode(torch.zeros(1, 3, frames, 8, 8))


@pytest.mark.parametrize("build", [build for name, build in tiny.VIDEOS if name != "svd"])
@pytest.mark.parametrize("latent_frames", [1, 5])
def test_videos_of_other_lengths(build, latent_frames):
    ae = from_diffusers(build())
    frames = 1 + ae.frame_factor * (latent_frames - 1)
    x = torch.rand(1, 3, frames, 2 * ae.factor, 2 * ae.factor) * 2 - 1
    z = ae.encode(x)
    assert z.shape == (1, 4, latent_frames, 2, 2)
    assert ae.decode(z).shape == x.shape


def test_videos_of_a_batch_do_not_mix():
    ae = from_diffusers(tiny.svd_vae())
    z = ae.encode(tiny.example(ae))
    torch.testing.assert_close(ae.decode(z)[1:], ae.decode(z[1:]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: UNet2DModel(block_out_channels=(32,) * 4), "UNet2DModel: it has no encode or no decode method"),
        (lambda: VQModel(block_out_channels=(32,)), "VQModel: it rounds latents to a codebook"),
        (tiny.stable_audio_vae, "AutoencoderOobleck: its config has neither scaling_factor nor latents_mean"),
        (
            lambda: type("MyKL", (AutoencoderKL,), {})(block_out_channels=(32,)),
            "MyKL: its config has a scale, but how",
        ),
    ],
)
def test_unknown_autoencoder_is_refused(build, message):
    with pytest.raises(TypeError, match=f"{message}.*supported are AutoencoderKL, .*AutoencoderKLWan"):
        from_diffusers(build())


def test_decoder_that_draws_noise_is_refused():
    vae = tiny.ltx_vae(timestep_conditioning=True, decoder_inject_noise=(True, False, False))
    with pytest.raises(ValueError, match="draws noise in its decoder \\(decoder_inject_noise\\)"):
        from_diffusers(vae)


def test_linear_problem_is_what_it_says():
    ae = linear_autoencoder()
    z = torch.rand(1, 4, 8, 8, dtype=torch.float64) * 0.4 - 0.2
    once, twice = ae.encode(ae.decode(z)), ae.encode(ae.decode(2 * z))
    torch.testing.assert_close(twice, 2 * once)
    assert (once - z).norm() > 0.05 * z.norm()

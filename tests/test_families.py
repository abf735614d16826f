import json

import numpy as np
import pytest
import torch
from diffusers import (
    DDPMPipeline,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    UNet2DModel,
    UniPCMultistepScheduler,
)
from diffusers.pipelines.stable_video_diffusion import pipeline_stable_video_diffusion
from PIL import Image
from sentencepiece.sentencepiece_model_pb2 import ModelProto

from inversion import LatentDiffusionModel, invert_decoder, invert_diffusion, sample
from inversion.conventions import fold_frames, unfold_frames
from inversion.families import FAMILIES
from tests import tiny_pipelines as tiny
from watermark import RingKey, detect, watermarked_noise

PROMPTS = ["a red", "apple"]
LATENT_FRAMES = {"cogvideox-pairs": 4}  # 3 for the others
STEPS = 5
every = pytest.mark.parametrize("name", tiny.ALL)


@pytest.fixture(autouse=True)
def no_noise_on_the_picture(monkeypatch):
    """SVD adds noise to the picture that it starts from, the only thing that it draws if it is given latents."""
    monkeypatch.setattr(pipeline_stable_video_diffusion, "randn_tensor", lambda shape, **_: torch.zeros(shape))


def wrap(name):
    pipe = tiny.ALL[name]()
    return pipe, LatentDiffusionModel.from_pipeline(pipe, name=name)


def shape_for(name, model, height=16, width=24):
    frames = (LATENT_FRAMES.get(name, 3),) if name in tiny.VIDEOS else ()
    return (len(PROMPTS), model.latent_shape[0], *frames, height, width)


def noise(shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def pictures(model, shape):
    """Pictures of 8 bits for latents of that shape, as Pillow has them and as a tensor."""
    size = [side * model.autoencoder.factor for side in shape[-2:]]
    bytes_ = (torch.rand(shape[0], *size, 3, generator=torch.Generator().manual_seed(1)) * 255).to(torch.uint8)
    return [Image.fromarray(a.numpy()) for a in bytes_], bytes_.permute(0, 3, 1, 2) / 127.5 - 1


def prompts_for(model, shape):
    return pictures(model, shape)[1] if model.takes_pictures else PROMPTS


def pipeline_sample(name, pipe, model, z, guidance, steps=STEPS):
    """What the pipeline itself makes of our noise, in its own layout."""
    height, width = (side * model.autoencoder.factor for side in z.shape[-2:])
    settings = {"height": height, "width": width, "output_type": "latent", "num_inference_steps": steps}
    settings["latents"] = model.pipeline_latents(z)
    if name in tiny.VIDEOS:
        settings["num_frames"] = 9 if model.autoencoder.frame_factor == 4 else 3
    if name.startswith("pixart"):
        settings["use_resolution_binning"] = False
    if model.takes_pictures:
        return pipe(pictures(model, z.shape)[0], max_guidance_scale=guidance, **settings)[0]
    return pipe(list(PROMPTS), guidance_scale=guidance, **settings)[0]


def distance(a, b):
    """‖a − b‖ / ‖b‖."""
    return float((a - b).norm() / b.norm())


@every
@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_samples_are_the_pipelines_own(name, guidance):
    pipe, model = wrap(name)
    if guidance != 1 and model.guidance == "none":
        with pytest.raises(ValueError, match="no guidance"):
            model.field(PROMPTS, batch=2, guidance=guidance)
        return
    z = noise(shape_for(name, model))
    ours = sample(model, z, steps=STEPS, prompt=prompts_for(model, z.shape), guidance=guidance)
    assert ours.shape == z.shape
    assert distance(model.pipeline_latents(ours), pipeline_sample(name, pipe, model, z, guidance)) < 1e-4


@every
def test_the_network_hears_the_noise_the_time_and_the_prompt(name):
    """Or the comparisons above say nothing about them."""
    _, model = wrap(name)
    z = noise(shape_for(name, model))
    times = [t.t for t, _ in model.schedule(STEPS, z.shape).steps]
    prompt, rows = prompts_for(model, z.shape), torch.arange(2)
    with torch.no_grad():
        field = model.field(prompt, batch=2, guidance=1.0)
        f = field(z, times[1], rows)
        other = model.field(prompt.flip(0) if model.takes_pictures else prompt[::-1], batch=2, guidance=1.0)
        assert distance(field(z, times[3], rows), f) > 0.01
        assert distance(field(noise(z.shape, 1), times[1], rows), f) > 0.1
        assert distance(other(z, times[1], rows), f) > 0.003
        assert distance(field(z[1:], times[1], rows[1:]), f[1:]) < 1e-4


@pytest.mark.parametrize("name", ["sd", "pixart-small"])
def test_the_second_order_sampler_is_the_pipelines_own(name):
    pipe = tiny.pixart(sample_size=32, solver_order=2) if name == "pixart-small" else tiny.sd_second_order()
    model = LatentDiffusionModel.from_pipeline(pipe)
    z = noise(shape_for(name, model))
    ours = sample(model, z, steps=8, prompt=PROMPTS, guidance=3.0)
    assert distance(ours, pipeline_sample(name, pipe, model, z, 3.0, steps=8)) < 1e-4
    assert distance(sample(model, z, method="ddim", steps=8, prompt=PROMPTS, guidance=3.0), ours) > 1e-3


def test_a_flow_in_the_layout_of_stable_diffusion_with_unipc():
    pipe = tiny.sd_flow(UniPCMultistepScheduler, disable_corrector=tiny.NO_CORRECTOR)
    model = LatentDiffusionModel.from_pipeline(pipe)
    z = noise((2, 4, 16, 16))
    ours = sample(model, z, steps=STEPS, prompt=PROMPTS)
    assert model.schedule(STEPS).kind == "flow_prediction"
    assert distance(ours, pipeline_sample("sd", pipe, model, z, 1.0)) < 1e-4


def rectified_flow_sample(pipe, z, guidance, steps):
    """The sampler of InstaFlow's own pipeline: n equal steps along z_0 − ε."""
    prompt, empty = pipe.encode_prompt(PROMPTS, "cpu", 1, True)
    for i in range(steps):
        t = torch.full((len(z),), 1000 * (1 - i / steps))
        with_prompt, without = (pipe.unet(z, t, encoder_hidden_states=e).sample for e in (prompt, empty))
        z = z + (without + guidance * (with_prompt - without)) / steps
    return z


@pytest.mark.parametrize("name", ["sdxl", "sd3", "flux"])
def test_a_pipeline_in_half_precision_goes_on_after_it_was_wrapped(name):
    pipe = tiny.ALL[name]().to(dtype=torch.float16)
    pipe.vae.register_to_config(force_upcast=True)
    again = {} if name == "flux" else {"guidance_scale": 1.0}
    told = {"prompt": "a red", "height": 32, "width": 32, "num_inference_steps": 1, "output_type": "np", **again}
    before = pipe(generator=torch.Generator().manual_seed(0), **told).images
    model = LatentDiffusionModel.from_pipeline(pipe)
    after = pipe(generator=torch.Generator().manual_seed(0), **told).images
    assert np.isfinite(before).all()
    np.testing.assert_allclose(after, before, atol=0.02)  # a UNet's memory format changes
    assert {p.dtype for p in pipe.vae.parameters()} == {torch.float16}
    assert model.autoencoder.decode(torch.zeros(1, model.latent_shape[0], 8, 8)).isfinite().all()


@pytest.mark.parametrize("guidance", [1.0, 1.5])
@pytest.mark.parametrize("steps", [1, 4])
@torch.no_grad()
def test_rectified_flow(guidance, steps, tmp_path):
    pipe = tiny.sd()
    pipe.save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    index |= {"_class_name": "RectifiedFlowPipeline", "requires_safety_checker": True}
    index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    model = LatentDiffusionModel.load(tmp_path)
    z = noise((2, 4, 16, 16))
    ours = sample(model, z, steps=steps, prompt=PROMPTS, guidance=guidance)
    assert distance(ours, rectified_flow_sample(pipe, z, guidance, steps)) < 1e-4
    named = LatentDiffusionModel.from_pipeline(pipe, family="RectifiedFlowPipeline")
    assert torch.equal(sample(named, z, steps=steps, prompt=PROMPTS, guidance=guidance), ours)
    back = invert_diffusion(named, ours, method="implicit", steps=steps, prompt=PROMPTS, guidance=guidance).value
    assert distance(back, z) < 10 ** (-30 / 20)


@every
def test_a_watermark_goes_all_the_way_round(name):
    _, model = wrap(name)
    key = RingKey(bytes(32))
    shape, g = shape_for(name, model, 16, 16), torch.Generator().manual_seed(0)
    z_T = watermarked_noise(key, shape, generator=g)
    prompt = prompts_for(model, shape)
    z_0 = sample(model, z_T, steps=10, prompt=prompt)

    exact = invert_diffusion(model, z_0, method="implicit", steps=10, prompt=prompt, evaluations=20)
    assert exact.residual.isfinite().all()
    assert distance(exact.value, z_T) < 10 ** (-30 / 20)
    assert detect(exact.value, key).rho == pytest.approx(detect(z_T, key).rho, abs=0.1)

    if name == "cogvideox-pairs":  # an even number of latent frames decodes to what the encoder does not take
        return
    ae = model.autoencoder
    by_frame = z_0.ndim == 5 and ae.frame_factor is None

    def decoded(z):
        return unfold_frames(ae.decode(fold_frames(z)), len(z)) if by_frame else ae.decode(z)

    x = decoded(z_0)
    recovered = invert_decoder(ae, x, steps=2)
    assert recovered.value.shape == z_0.shape
    left = (decoded(recovered.value) - x).square()
    left = left.mean((1, 3, 4) if by_frame else tuple(range(1, x.ndim))).sqrt()
    torch.testing.assert_close(recovered.merit, left, rtol=1e-3, atol=1e-5)
    assert (left <= invert_decoder(ae, x, method="encoder").merit * (1 + 1e-4)).all()
    back = invert_diffusion(model, recovered.value, steps=10)
    assert back.value.isfinite().all()
    p_value = detect(back.value, key).p_value
    assert ((p_value > 0) & (p_value < 1)).all()


@every
def test_models_on_disk(name, tmp_path):
    pipe, model = wrap(name)
    z = noise(shape_for(name, model))
    prompt = prompts_for(model, z.shape)
    expected = sample(model, z, steps=2, prompt=prompt)
    pipe.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "model_index.json").read_text())["_class_name"] in FAMILIES
    loaded = LatentDiffusionModel.load(tmp_path)
    assert loaded.latent_shape == model.latent_shape
    assert distance(sample(loaded, z, steps=2, prompt=prompt), expected) < 1e-5
    half = LatentDiffusionModel.load(tmp_path, dtype="bf16")
    assert half.dtype == torch.bfloat16
    assert distance(sample(half, z, steps=2, prompt=prompt), expected) < 0.1


def test_a_tokenizer_that_is_a_sentencepiece_model_alone(tmp_path):
    """As repositories of PixArt and CogVideoX have it; transformers turns it into one of its own."""
    pipe, model = wrap("pixart")
    pipe.save_pretrained(tmp_path)
    (tmp_path / "tokenizer" / "tokenizer.json").unlink()
    spelled = ModelProto()
    spelled.trainer_spec.model_type = spelled.trainer_spec.UNIGRAM
    spelled.trainer_spec.pad_id, spelled.trainer_spec.eos_id, spelled.trainer_spec.unk_id = 0, 1, 2
    kinds = {"<pad>": ModelProto.SentencePiece.CONTROL, "</s>": ModelProto.SentencePiece.CONTROL}
    kinds["<unk>"] = ModelProto.SentencePiece.UNKNOWN
    for piece, number in sorted(pipe.tokenizer.get_vocab().items(), key=lambda item: item[1]):
        kind = kinds.get(piece, ModelProto.SentencePiece.NORMAL)
        spelled.pieces.add(piece=piece, score=-float(number > 2), type=kind)
    (tmp_path / "tokenizer" / "spiece.model").write_bytes(spelled.SerializeToString())
    z = noise(shape_for("pixart", model))
    loaded = LatentDiffusionModel.load(tmp_path)
    expected = sample(model, z, steps=2, prompt=PROMPTS)
    assert distance(sample(loaded, z, steps=2, prompt=PROMPTS), expected) < 1e-5


def test_sizes_of_the_models_themselves():
    for name, expected in {
        "sd": (4, 16, 16),
        "sdxl": (4, 16, 16),
        "flux": (4, 128, 128),
        "animatediff": (4, 16, 16, 16),
        "svd": (4, 3, 288, 512),
        "cogvideox": (4, 3, 16, 24),
        "cogvideox-pairs": (4, 4, 16, 24),
        "wan": (4, 21, 120, 208),
    }.items():
        _, model = wrap(name)
        assert model.latent_shape == expected
        if name == "wan":
            assert model.image_size == (480, 832)


def test_other_pipelines_are_refused():
    other = DDPMPipeline(UNet2DModel(16, block_out_channels=(32,) * 4), DDPMScheduler())
    with pytest.raises(TypeError, match=r"DDPMPipeline is not supported; .*StableDiffusionPipeline.*WanPipeline"):
        LatentDiffusionModel.from_pipeline(other)
    with pytest.raises(TypeError, match="LTXPipeline is not supported"):
        LatentDiffusionModel.from_pipeline(tiny.sd(), family="LTXPipeline")


def test_guidance_of_a_video_grows_over_its_frames_whatever_their_number():
    _, model = wrap("svd")
    for frames_, weights in ((3, [1, 2, 3]), (5, [1, 1.5, 2, 2.5, 3])):
        assert model.guidance_weights(3.0, (1, 4, frames_, 16, 16)).flatten().tolist() == weights


@pytest.mark.filterwarnings("error:.*draws noise")
def test_a_scheduler_that_draws_noise_is_warned_of():
    pipe = tiny.sd()
    LatentDiffusionModel.from_pipeline(pipe)
    config = pipe.scheduler.config
    for scheduler in (
        EulerAncestralDiscreteScheduler.from_config(config),
        DPMSolverMultistepScheduler.from_config(config, algorithm_type="sde-dpmsolver++"),
    ):
        pipe.scheduler = scheduler
        with pytest.warns(UserWarning, match=f"{type(scheduler).__name__} draws noise"):
            LatentDiffusionModel.from_pipeline(pipe)


def test_guidance_below_one_is_none_as_in_the_pipelines():
    _, model = wrap("sd")
    z = noise((2, 4, 16, 16))
    none = sample(model, z, steps=2, prompt=PROMPTS, guidance=1.0)
    assert torch.equal(sample(model, z, steps=2, prompt=PROMPTS, guidance=0.0), none)


def test_what_cannot_be_inverted_says_why():
    pipe = tiny.sd3()
    pipe.text_encoder_2 = None
    with pytest.raises(ValueError, match="StableDiffusion3Pipeline lacks its text_encoder_2"):
        LatentDiffusionModel.from_pipeline(pipe)
    pipe = tiny.sd()
    pipe.unet.register_to_config(time_cond_proj_dim=8)
    with pytest.raises(ValueError, match="distilled"):
        LatentDiffusionModel.from_pipeline(pipe)
    pipe = tiny.animate_diff()
    pipe.enable_free_init()
    with pytest.raises(ValueError, match="FreeInit"):
        LatentDiffusionModel.from_pipeline(pipe)
    with pytest.raises(ValueError, match="transformer_2"):
        LatentDiffusionModel.from_pipeline(tiny.wan(boundary_ratio=0.9))
    _, model = wrap("cogvideox-pairs")
    with pytest.raises(ValueError, match="2 by 2, got 3"):
        invert_diffusion(model, noise((1, 4, 3, 16, 16)), steps=2)
    _, model = wrap("svd")
    with pytest.raises(ValueError, match="32 × 48 pixels"):
        sample(model, noise((1, 4, 3, 16, 24)), steps=2, prompt=torch.zeros(1, 3, 32, 32))

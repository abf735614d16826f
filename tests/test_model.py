import json

import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler, StableDiffusionPipeline, UNet2DModel

from inversion import LatentDiffusionModel, invert_diffusion, sample
from inversion.embedded import sapling_folder
from inversion.model import resolve_dtype
from tests.problems import tiny_pipeline


def test_sapling_loads_as_a_plain_pipeline_of_one_dtype():
    pipe = StableDiffusionPipeline.from_pretrained(sapling_folder())
    assert {m.dtype for m in (pipe.unet, pipe.vae, pipe.text_encoder)} == {torch.float32}
    assert sum(f.stat().st_size for f in sapling_folder().glob("*/*.safetensors")) < 30e6


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
def test_every_part_has_the_dtype_that_was_asked_for(dtype, monkeypatch):
    seen = []
    original = LatentDiffusionModel.from_pipeline.__func__

    def spy(cls, pipe, **kwargs):
        seen.extend(p.dtype for part in (pipe.unet, pipe.vae, pipe.text_encoder) for p in part.parameters())
        return original(cls, pipe, **kwargs)

    monkeypatch.setattr(LatentDiffusionModel, "from_pipeline", classmethod(spy))
    model = LatentDiffusionModel.load("sapling", dtype=dtype)
    assert set(seen) == {model.dtype} == {resolve_dtype(dtype, torch.device("cpu"))}
    assert model.latent_shape == (4, 32, 32)
    assert model.image_size == (128, 128)


def test_bf16_gives_nearly_the_same_latents(sapling):
    z = torch.randn(1, 4, 32, 32, generator=torch.Generator().manual_seed(0))
    half = LatentDiffusionModel.load("sapling", dtype="bf16")
    a, b = (sample(m, z, prompt="a tiger", steps=5) for m in (sapling, half))
    assert b.dtype == torch.float32
    assert (a - b).norm() < 0.1 * a.norm()


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_a_users_own_pipeline(prediction_type, tmp_path):
    pipe = tiny_pipeline(prediction_type=prediction_type)
    pipe.save_pretrained(tmp_path / "tiny")
    model = LatentDiffusionModel.load(tmp_path / "tiny")
    z = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    prompts = ["a", "red"]  # which the tiny tokenizer tells apart
    theirs = pipe(prompts, latents=z, guidance_scale=1.0, num_inference_steps=4, output_type="latent")
    ours = sample(model, z, prompt=prompts, steps=4)
    torch.testing.assert_close(ours, theirs.images, rtol=1e-3, atol=1e-3)
    assert invert_diffusion(LatentDiffusionModel.from_pipeline(pipe), ours, steps=4).value.isfinite().all()


def test_what_cannot_be_loaded_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        LatentDiffusionModel.load(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="no model 'nobody/no-such-model'"):
        LatentDiffusionModel.load("nobody/no-such-model")
    with pytest.raises(ValueError, match="fp64"):
        LatentDiffusionModel.load("sapling", dtype="fp64")
    with pytest.raises(TypeError, match="DDPMPipeline"):
        LatentDiffusionModel.from_pipeline(
            DDPMPipeline(UNet2DModel(16, block_out_channels=(32,) * 4), DDPMScheduler())
        )
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "LTXPipeline"}))
    with pytest.raises(ValueError, match=r"LTXPipeline.*StableDiffusionPipeline"):
        LatentDiffusionModel.load(tmp_path)

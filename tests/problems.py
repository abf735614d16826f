"""Problems with known answers: a linear autoencoder, Gaussian data, and tiny random diffusers models."""

import math
from dataclasses import replace

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from inversion import Autoencoder, LatentDiffusionModel
from inversion.schedule import Level, make_schedule


def linear_autoencoder(spread=0.4, factor=2, seed=0, dtype=torch.float64):
    """D is an isometry from latents into pixels, E its transpose and then I + spread · (a random symmetric matrix).

    E∘D = M is positive definite for spread < 1 and not the identity, so the encoder alone is off, while T(z) =
    M (z − z*) has the one zero z*. Latents of size up to 1 / (channels) stay inside the pixel range.
    """
    g = torch.Generator().manual_seed(seed)
    channels, patch = 4, 3 * factor * factor
    q, _ = torch.linalg.qr(torch.randn(patch, channels, generator=g, dtype=dtype))
    a = torch.randn(channels, channels, generator=g, dtype=dtype)
    a = (a + a.T) / torch.linalg.matrix_norm(a + a.T, 2)
    m = torch.eye(channels, dtype=dtype) + spread * a

    def decode(z):
        y = torch.einsum("pc,bchw->bphw", q, z)
        return torch.nn.functional.pixel_shuffle(y, factor).clamp(-1, 1)

    def encode(x):
        y = torch.nn.functional.pixel_unshuffle(x, factor)
        return torch.einsum("dc,pc,bphw->bdhw", m, q, y)

    return Autoencoder(encode, decode, channels=channels, factor=factor)


def gaussian_field(schedule, variance=0.5):
    """f(z, t, rows) of the exact denoiser for data N(0, variance · I), for whatever the schedule predicts.

    The level belonging to a time is found by the time, so a schedule's own levels must have different times.
    """
    levels = {level.t: level for step in schedule.steps for level in step}

    def field(z, t, rows):
        at = levels.get(t) or level_at(schedule, t)
        total = at.alpha**2 * variance + at.sigma**2
        sample, eps = at.alpha * variance * z / total, at.sigma * z / total
        return {
            "epsilon": eps,
            "sample": sample,
            "v_prediction": at.alpha * eps - at.sigma * sample,
            "flow_prediction": eps - sample,
        }[schedule.kind]

    return field


def level_at(schedule, t):
    """The level of a time between those of the schedule, by bisection of σ/α."""
    low, high = -30.0, 30.0
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if schedule.time(math.exp(middle)) < t else (low, middle)
    ratio = math.exp(low)
    if schedule.kind == "flow_prediction":
        return Level(t, 1 / (1 + ratio), ratio / (1 + ratio))
    return Level(t, 1 / math.hypot(1, ratio), ratio / math.hypot(1, ratio))


SD_BETAS = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}


def gaussian_model(variance=0.5, scheduler=None, latent_shape=(4, 32, 32)):
    """A latent diffusion model of Gaussian latents under a linear autoencoder; prompts are ignored."""
    scheduler = scheduler or DDIMScheduler(clip_sample=False, **SD_BETAS)
    schedules = [make_schedule(scheduler, n) for n in (*range(1, 21), 25, 50)]
    fields = [gaussian_field(s, variance) for s in schedules]
    known = {level.t: f for s, f in zip(schedules, fields, strict=True) for step in s.steps for level in step}

    def network(z, t, conditions):
        return known.get(t, fields[0])(z, t, None)

    return LatentDiffusionModel(
        name="gaussian",
        autoencoder=linear_autoencoder(dtype=torch.float32),
        network=network,
        conditions=lambda prompts, batch: {"prompt": torch.zeros(batch, 1)},
        scheduler=scheduler,
        latent_shape=latent_shape,
    )


def reading_model(**options):
    """The model of :func:`gaussian_model`, but that prompts move its predictions by their length."""
    plain = gaussian_model(**options)

    def conditions(prompts, batch):
        return {"prompt": torch.tensor([[float(len(p))] for p in prompts or [""] * batch])}

    def network(z, t, conditions):
        return plain.network(z, t, conditions) + 0.1 * conditions["prompt"].reshape(-1, 1, 1, 1)

    return replace(plain, conditions=conditions, network=network)


def tiny_vae(seed=0, **config):
    """A random AutoencoderKL: 3 × 2h × 2w pictures, 4 × h × w latents."""
    torch.manual_seed(seed)
    return AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
        **config,
    ).eval()


def tiny_pipeline(sample_size=16, prediction_type="epsilon", scheduler=None):
    """A random StableDiffusionPipeline that runs in milliseconds."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=sample_size,
        in_channels=4,
        out_channels=4,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=16,
        attention_head_dim=2,
        norm_num_groups=4,
    )
    words = ["<|startoftext|>", "<|endoftext|>", "a</w>", "red</w>", "apple</w>"]
    tokenizer = CLIPTokenizer(vocab={w: i for i, w in enumerate(words)}, merges=[], model_max_length=8)
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(words),
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=8,
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=1,
        )
    )
    pipe = StableDiffusionPipeline(
        vae=tiny_vae(scaling_factor=0.2),
        text_encoder=text_encoder.eval(),
        tokenizer=tokenizer,
        unet=unet.eval(),
        scheduler=scheduler or DDIMScheduler(clip_sample=False, steps_offset=1, prediction_type=prediction_type),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe

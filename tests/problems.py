"""Problems with known answers: a linear autoencoder, Gaussian data, and tiny random diffusers models."""

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from inversion import Autoencoder, LatentDiffusionModel


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


def gaussian_eps(scheduler_config, variance=0.5):
    """ε(z, t) of the exact denoiser for data N(0, variance · I): σ z / (α² · variance + σ²)."""
    bar = DDIMScheduler.from_config(scheduler_config).alphas_cumprod.double()

    def eps(z, t):
        alpha2 = float(bar[t])
        return (1 - alpha2) ** 0.5 * z / (alpha2 * variance + 1 - alpha2)

    return eps


def gaussian_model(variance=0.5, prediction_type="epsilon"):
    """A latent diffusion model of Gaussian latents under a linear autoencoder; prompts are ignored."""
    config = DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        clip_sample=False,
        prediction_type=prediction_type,
    ).config
    bar = DDIMScheduler.from_config(config).alphas_cumprod.double()
    eps = gaussian_eps(config, variance)

    def network(z, t, embeddings):
        e = eps(z, t)
        alpha, sigma = float(bar[t]) ** 0.5, float(1 - bar[t]) ** 0.5
        if prediction_type == "epsilon":
            return e
        return (e - sigma * z) / alpha if prediction_type == "v_prediction" else (z - sigma * e) / alpha

    return LatentDiffusionModel(
        name="gaussian",
        autoencoder=linear_autoencoder(dtype=torch.float32),
        network=network,
        embed_prompts=lambda prompts: torch.zeros(len(prompts), 1, 1),
        scheduler_config=config,
        latent_shape=(4, 32, 32),
    )


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

"""Tiny random autoencoders of every supported diffusers class, for tests.

Each function returns one in evaluation mode, always with the same weights; keyword arguments go to its class. Every
config departs from the defaults that would make a wrong convention look right (scale one, shift zero).
"""

import torch
from diffusers import (
    AutoencoderDC,
    AutoencoderKLCogVideoX,
    AutoencoderKLFlux2,
    AutoencoderKLHunyuanVideo,
    AutoencoderKLLTXVideo,
    AutoencoderKLMochi,
    AutoencoderKLQwenImage,
    AutoencoderKLTemporalDecoder,
    AutoencoderKLWan,
    AutoencoderOobleck,
    AutoencoderTiny,
)

from tests.problems import tiny_vae

MEAN = [0.3, -0.2, 0.1, -0.4]
STD = [0.7, 1.3, 0.9, 2.1]


def build(cls, **config):
    torch.manual_seed(0)
    return cls(**config).eval()


def sd_vae(**config):
    return tiny_vae(**{"scaling_factor": 0.2, **config})


def sd3_vae(**config):
    """SD3 and Flux: a scale and a shift, no quantization convolutions."""
    return tiny_vae(
        **{
            "scaling_factor": 1.5,
            "shift_factor": 0.06,
            "use_quant_conv": False,
            "use_post_quant_conv": False,
            **config,
        }
    )


def sdxl_vae(**config):
    """SDXL: asks for float32 explicitly."""
    return tiny_vae(**{"scaling_factor": 0.13, "force_upcast": True, **config})


def playground_vae(**config):
    """Playground 2.5: SDXL's pipeline with a mean and a standard deviation for each channel."""
    return tiny_vae(**{"scaling_factor": 0.5, "latents_mean": MEAN, "latents_std": STD, **config})


def taesd(**config):
    return build(
        AutoencoderTiny,
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1),
        **{"scaling_factor": 0.9, "shift_factor": 0.1, **config},
    )


def flux2_vae(**config):
    """The running statistics of its batch normalization are random."""
    vae = build(
        AutoencoderKLFlux2,
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
        layers_per_block=1,
        **config,
    )
    vae.bn.running_mean.normal_(std=0.3)
    vae.bn.running_var.uniform_(0.02, 2.0)
    return vae


def qwen_vae(**config):
    return build(
        AutoencoderKLQwenImage,
        base_dim=4,
        z_dim=4,
        dim_mult=[1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[True, True],
        latents_mean=MEAN,
        latents_std=STD,
        **config,
    )


def sana_vae(**config):
    return build(
        AutoencoderDC,
        latent_channels=4,
        attention_head_dim=4,
        encoder_block_types=("ResBlock", "EfficientViTBlock"),
        decoder_block_types=("ResBlock", "EfficientViTBlock"),
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        encoder_layers_per_block=(1, 1),
        decoder_layers_per_block=(1, 1),
        encoder_qkv_multiscales=((), (5,)),
        decoder_qkv_multiscales=((), (5,)),
        **{"scaling_factor": 0.41, **config},
    )


def svd_vae(**config):
    """32 channels: the class has groups of a fixed size."""
    return build(
        AutoencoderKLTemporalDecoder,
        block_out_channels=(32, 32),
        down_block_types=("DownEncoderBlock2D",) * 2,
        **{"scaling_factor": 0.2, **config},
    )


def cogvideox_vae(**config):
    return build(
        AutoencoderKLCogVideoX,
        block_out_channels=(8, 8, 8),
        down_block_types=("CogVideoXDownBlock3D",) * 3,
        up_block_types=("CogVideoXUpBlock3D",) * 3,
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=4,
        **{"scaling_factor": 0.7, **config},
    )


def wan_vae(**config):
    return build(
        AutoencoderKLWan,
        base_dim=4,
        z_dim=4,
        dim_mult=[1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[True, True],
        latents_mean=MEAN,
        latents_std=STD,
        scale_factor_spatial=4,
        **config,
    )


def wan22_vae(**config):
    """Wan 2.2: 2 × 2 pixels are one at its entrance."""
    return build(
        AutoencoderKLWan,
        base_dim=4,
        decoder_base_dim=4,
        z_dim=4,
        dim_mult=[1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[True, True],
        latents_mean=MEAN,
        latents_std=STD,
        is_residual=True,
        in_channels=12,
        out_channels=12,
        patch_size=2,
        scale_factor_spatial=8,
        **config,
    )


def ltx_vae(**config):
    """The mean and the standard deviation are buffers."""
    vae = build(
        AutoencoderKLLTXVideo,
        latent_channels=4,
        block_out_channels=(8, 8),
        down_block_types=("LTXVideoDownBlock3D",) * 2,
        decoder_block_out_channels=(8, 8),
        layers_per_block=(1, 1, 1),
        decoder_layers_per_block=(1, 1, 1),
        spatio_temporal_scaling=(True, True),
        decoder_spatio_temporal_scaling=(True, True),
        downsample_type=("conv", "conv"),
        upsample_residual=(False, False),
        upsample_factor=(1, 1),
        patch_size=2,
        **{"decoder_inject_noise": (False,) * 3, "scaling_factor": 0.8, **config},
    )
    vae.latents_mean.copy_(torch.tensor(MEAN))
    vae.latents_std.copy_(torch.tensor(STD))
    return vae


def ltx_timestep_vae(**config):
    """LTX 0.9.5 and later: the decoder is told a timestep."""
    return ltx_vae(**{"timestep_conditioning": True, **config})


def hunyuan_vae(**config):
    return build(
        AutoencoderKLHunyuanVideo,
        latent_channels=4,
        block_out_channels=(8, 8, 8),
        down_block_types=("HunyuanVideoDownBlock3D",) * 3,
        up_block_types=("HunyuanVideoUpBlock3D",) * 3,
        layers_per_block=1,
        norm_num_groups=4,
        spatial_compression_ratio=4,
        **{"scaling_factor": 0.5, **config},
    )


def mochi_vae(**config):
    return build(
        AutoencoderKLMochi,
        latent_channels=4,
        encoder_block_out_channels=(32, 32, 32),
        decoder_block_out_channels=(32, 32, 32),
        layers_per_block=(1, 1, 1, 1),
        temporal_expansions=(1, 3),
        spatial_expansions=(2, 2),
        add_attention_block=(False,) * 4,
        latents_mean=MEAN,
        latents_std=STD,
        **{"scaling_factor": 0.8, **config},
    )


def stable_audio_vae():
    """Of sounds: no picture, no scale; nothing that is supported."""
    sizes = {"encoder_hidden_size": 8, "decoder_channels": 8, "decoder_input_channels": 4}
    return build(AutoencoderOobleck, downsampling_ratios=[2], channel_multiples=[1], **sizes)


PICTURES = [
    ("sd", sd_vae),
    ("sd3", sd3_vae),
    ("sdxl", sdxl_vae),
    ("playground", playground_vae),
    ("taesd", taesd),
    ("flux2", flux2_vae),
    ("qwen", qwen_vae),
    ("sana", sana_vae),
]
VIDEOS = [
    ("svd", svd_vae),
    ("cogvideox", cogvideox_vae),
    ("wan", wan_vae),
    ("wan22", wan22_vae),
    ("ltx", ltx_vae),
    ("ltx-timestep", ltx_timestep_vae),
    ("hunyuan", hunyuan_vae),
    ("mochi", mochi_vae),
]
ALL = PICTURES + VIDEOS


def example(ae, batch=2, seed=0):
    """Random pixels that an autoencoder takes: 4 × 3 latents a frame, three latent frames of a video."""
    g = torch.Generator().manual_seed(seed)
    frames = () if ae.frame_factor is None else (1 + 2 * ae.frame_factor,)
    return torch.rand(batch, 3, *frames, 4 * ae.factor, 3 * ae.factor, generator=g) * 2 - 1

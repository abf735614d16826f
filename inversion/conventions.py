"""How to call each class of diffusers autoencoders, and how its latents are scaled: z = (mode(x) − shift) · scale.

Every pipeline of diffusers holds this in its own code, not in the autoencoder; here it is once for all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

PICTURES = ("AutoencoderKL", "AutoencoderTiny", "AutoencoderDC", "AutoencoderKLFlux2", "AutoencoderKLQwenImage")
VIDEOS = (
    "AutoencoderKLTemporalDecoder",
    "AutoencoderKLCogVideoX",
    "AutoencoderKLWan",
    "AutoencoderKLLTXVideo",
    "AutoencoderKLHunyuanVideo",
    "AutoencoderKLMochi",
)


@dataclass(frozen=True)
class Convention:
    """Two functions in the network's own dtype, and what lies between them and the diffusion model.

    Args:
        mode: pixels (B, 3, [F,] H, W) → the mode of the posterior, or the latents where there is none, (B, C, …).
        pixels: the network's own latents → pixels, not clamped here.
        shift: float32, a number or (C, 1, 1[, 1]), subtracted from the mode.
        scale: float32, a number or (C, 1, 1[, 1]), multiplied with the difference.
        channels: number of latent channels C.
        factor: how many pixels a latent is wide.
        frame_factor: None for pictures; F = 1 + frame_factor · (F' − 1) for videos.
        frame_step: the encoder takes videos of 1 + k · frame_step frames.
    """

    mode: Callable[[Tensor], Tensor]
    pixels: Callable[[Tensor], Tensor]
    shift: Tensor
    scale: Tensor
    channels: int
    factor: int
    frame_factor: int | None = None
    frame_step: int = 1


def convention(vae: Any) -> Convention:  # noqa: ANN401 - diffusers is untyped
    """The convention of an autoencoder, by the name of its class.

    Raises:
        TypeError: for a class whose convention is not known.
        ValueError: for a decoder that draws noise.
    """
    name = type(vae).__name__
    if name in PICTURES:
        return picture_convention(vae)
    if name in VIDEOS:
        return video_convention(vae)
    raise TypeError(
        f"the autoencoder is a {name}: {what_is_missing(vae)}; supported are {', '.join(PICTURES + VIDEOS)}"
    )


def picture_convention(vae: Any) -> Convention:  # noqa: ANN401
    """(B, 3, H, W) ↔ (B, C, h, w)."""
    name, config = type(vae).__name__, vae.config

    def pixels(z: Tensor) -> Tensor:
        return vae.decode(z).sample

    if name == "AutoencoderDC":  # Sana: has a latent, no posterior
        return Convention(
            mode=lambda x: vae.encode(x).latent,
            pixels=pixels,
            shift=torch.zeros(()),
            scale=torch.tensor(float(config.scaling_factor)),
            channels=int(config.latent_channels),
            factor=int(vae.spatial_compression_ratio),
        )

    if name == "AutoencoderKLFlux2":  # 2 × 2 latents become one of 4 C channels, then batch normalization
        std = (vae.bn.running_var.float() + config.batch_norm_eps).sqrt()
        return Convention(
            mode=lambda x: pixel_unshuffle(posterior_mode(vae, x), 2),
            pixels=lambda z: pixels(pixel_shuffle(z, 2)),
            shift=per_channel(vae.bn.running_mean, 2),
            scale=per_channel(1 / std, 2),
            channels=4 * int(config.latent_channels),
            factor=2 * halvings(vae),
        )

    if name == "AutoencoderKLQwenImage":  # a video autoencoder for one frame
        return Convention(
            mode=lambda x: posterior_mode(vae, x[:, :, None].contiguous())[:, :, 0],
            pixels=lambda z: pixels(z[:, :, None].contiguous())[:, :, 0],
            shift=per_channel(config.latents_mean, 2),
            scale=1 / per_channel(config.latents_std, 2),
            channels=int(config.z_dim),
            factor=2 ** len(vae.temperal_downsample),
        )

    shift, scale = shift_and_scale(config)

    def mode(x: Tensor) -> Tensor:
        if name == "AutoencoderTiny":  # no posterior; its latent_magnitude is only for keeping latents as bytes
            return vae.encode(x).latents
        return posterior_mode(vae, x)  # SD, SDXL, SD3, Flux and most others

    return Convention(mode, pixels, shift, scale, int(config.latent_channels), halvings(vae))


def video_convention(vae: Any) -> Convention:  # noqa: ANN401
    """(B, 3, F, H, W) ↔ (B, C, F', h, w)."""
    name, config = type(vae).__name__, vae.config

    def mode(x: Tensor) -> Tensor:
        return posterior_mode(vae, x)

    def pixels(z: Tensor) -> Tensor:
        if config.get("timestep_conditioning"):  # LTX denoises while decoding; its pipeline's default is t = 0
            return vae.decode(z, z.new_zeros(len(z))).sample
        return vae.decode(z).sample

    if name == "AutoencoderKLTemporalDecoder":  # SVD: encodes frames one by one, decodes them together
        return Convention(
            mode=lambda x: unfold_frames(mode(fold_frames(x)), len(x)),
            pixels=lambda z: unfold_frames(vae.decode(fold_frames(z), num_frames=z.shape[2]).sample, len(z)),
            shift=torch.zeros(()),
            scale=torch.tensor(float(config.scaling_factor)),
            channels=int(config.latent_channels),
            factor=halvings(vae),
            frame_factor=1,
        )

    if name == "AutoencoderKLCogVideoX":  # works through pairs of latent frames, after the first one
        n = int(config.temporal_compression_ratio)
        scale, channels = torch.tensor(float(config.scaling_factor)), int(config.latent_channels)
        return Convention(mode, pixels, torch.zeros(()), scale, channels, halvings(vae), n, 2 * n)

    if name == "AutoencoderKLWan":
        shift, scale = per_channel(config.latents_mean, 3), 1 / per_channel(config.latents_std, 3)
        factor, n = int(config.scale_factor_spatial), int(config.scale_factor_temporal)
        return Convention(mode, pixels, shift, scale, int(config.z_dim), factor, n, n)

    if name == "AutoencoderKLLTXVideo":
        if any(config.decoder_inject_noise):
            raise ValueError(
                "this AutoencoderKLLTXVideo draws noise in its decoder (decoder_inject_noise), so that D is not a "
                "function and cannot be inverted"
            )
        shift = per_channel(vae.latents_mean, 3)
        scale = float(config.scaling_factor) / per_channel(vae.latents_std, 3)
    else:  # HunyuanVideo and Mochi
        shift, scale = shift_and_scale(config, dims=3)
    factor, n = int(vae.spatial_compression_ratio), int(vae.temporal_compression_ratio)
    return Convention(mode, pixels, shift, scale, int(config.latent_channels), factor, n, n)


def posterior_mode(vae: Any, x: Tensor) -> Tensor:  # noqa: ANN401
    """The mode of the posterior that a KL autoencoder returns."""
    return vae.encode(x).latent_dist.mode()


def shift_and_scale(config: Any, dims: int = 2) -> tuple[Tensor, Tensor]:  # noqa: ANN401
    """``latents_mean`` and ``scaling_factor / latents_std`` where both are set, else the two scalar factors."""
    mean, std = config.get("latents_mean"), config.get("latents_std")
    scale = float(config.scaling_factor)
    if mean is not None and std is not None:
        return per_channel(mean, dims), scale / per_channel(std, dims)
    return torch.tensor(float(config.get("shift_factor") or 0.0)), torch.tensor(scale)


def per_channel(values: Tensor | Sequence[float], dims: int) -> Tensor:
    """One number for each channel → float32 (C, 1, …, 1) with ``dims`` ones."""
    return torch.as_tensor(values).detach().to(torch.float32).reshape(-1, *[1] * dims)


def halvings(vae: Any) -> int:  # noqa: ANN401
    """2 ^ (number of levels − 1): how many pixels a latent of a U-shaped autoencoder is wide."""
    return 2 ** (len(vae.config.block_out_channels) - 1)


def fold_frames(a: Tensor) -> Tensor:
    """(B, C, F, h, w) → (B · F, C, h, w)."""
    return a.transpose(1, 2).flatten(0, 1)


def unfold_frames(a: Tensor, batch: int) -> Tensor:
    """(B · F, C, h, w) → (B, C, F, h, w)."""
    return a.unflatten(0, (batch, -1)).transpose(1, 2)


def what_is_missing(vae: Any) -> str:  # noqa: ANN401
    """A clause that says why an autoencoder of an unknown class cannot be wrapped."""
    name, config = type(vae).__name__, getattr(vae, "config", {})
    if name == "VQModel":
        return "it rounds latents to a codebook, so it has no posterior mode and E∘D is piecewise constant"
    if name == "ConsistencyDecoderVAE":
        return "its decoder draws noise, so D is not a function"
    if not hasattr(vae, "encode") or not hasattr(vae, "decode"):
        return "it has no encode or no decode method"
    if "scaling_factor" not in config and "latents_mean" not in config:
        return (
            "its config has neither scaling_factor nor latents_mean, so the scale and shift between its latents "
            "and the diffusion model's are unknown; so is whether encode gives a posterior with a mode or latents"
        )
    return (
        "its config has a scale, but how its pipeline applies it, and whether encode gives a posterior with a mode "
        "or latents, is not known here"
    )

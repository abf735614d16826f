"""The encoder E and the decoder D of a latent diffusion model as two functions with one convention.

Pictures x are float32 in [-1, 1], shape (B, 3, H, W); latents z are float32 on the scale that the diffusion
model sees, shape (B, C, H/f, W/f). E is the *mode* of the posterior, never a sample, so that it is a function;
D clamps to the pixel range, because every picture that anybody can verify was clamped when it was saved.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Autoencoder:
    """An encoder E, a decoder D and the sizes that connect them.

    Args:
        encode: E, (B, 3, H, W) float32 in [-1, 1] → (B, channels, H/factor, W/factor) float32.
        decode: D, the other way, with values clamped to [-1, 1].
        channels: number of latent channels C.
        factor: how many pixels a latent is wide, f.
    """

    encode: Callable[[Tensor], Tensor]
    decode: Callable[[Tensor], Tensor]
    channels: int
    factor: int


def from_diffusers(vae: Any) -> Autoencoder:  # noqa: ANN401 - diffusers is untyped
    """Wrap a diffusers ``AutoencoderKL``: z = (mode(x) − shift) · scale, and its inverse.

    The network keeps its own dtype and device; what goes in and comes out is float32.

    Raises:
        TypeError: for any other class, because its scaling convention is not known here.
    """
    if type(vae).__name__ != "AutoencoderKL":
        raise TypeError(
            f"the autoencoder is a {type(vae).__name__}; only AutoencoderKL is supported, because the scale and "
            "shift between its latents and the diffusion model's must be known"
        )
    scale = float(vae.config.scaling_factor)
    shift = float(vae.config.shift_factor or 0.0)

    def like_network(a: Tensor) -> Tensor:
        return a.to(vae.device, vae.dtype, memory_format=torch.channels_last)

    @torch.no_grad()
    def encode(x: Tensor) -> Tensor:
        mode = vae.encode(like_network(x)).latent_dist.mode()
        return ((mode.float() - shift) * scale).contiguous()

    @torch.no_grad()
    def decode(z: Tensor) -> Tensor:
        return vae.decode(like_network(z / scale + shift)).sample.float().clamp(-1, 1).contiguous()

    factor = 2 ** (len(vae.config.block_out_channels) - 1)
    return Autoencoder(encode, decode, channels=int(vae.config.latent_channels), factor=factor)

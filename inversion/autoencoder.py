"""The encoder E and the decoder D of a latent diffusion model as two functions with one convention.

Pictures x are float32 in [-1, 1], shape (B, 3, H, W), and videos (B, 3, F, H, W); latents z are float32 on the
scale that the diffusion model sees, shape (B, C, H/f, W/f) or (B, C, F', H/f, W/f): channels always come second,
whatever a pipeline's own layout. E is the *mode* of the posterior, never a sample, so that it is a function; D
clamps to the pixel range, because every picture that anybody can verify was clamped when it was saved.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from inversion.conventions import convention


@dataclass(frozen=True)
class Autoencoder:
    """An encoder E, a decoder D and the sizes that connect them.

    Args:
        encode: E, (B, 3, [F,] H, W) float32 in [-1, 1] → (B, channels, [F',] H/factor, W/factor) float32; builds
            no graph.
        decode: D, the other way, with values clamped to [-1, 1]; builds no graph.
        channels: number of latent channels C.
        factor: how many pixels a latent is wide, f.
        frame_factor: None for pictures (B, 3, H, W), n for videos of F = 1 + n (F' − 1) frames: 1 where every frame
            has its latent, more where the first frame has one and then every n frames share one.
        decode_with_grad: D, differentiable with respect to z and not clamped; None if there is no such function.
        frame_step: videos have 1 + k · frame_step frames; None is frame_factor.
    """

    encode: Callable[[Tensor], Tensor]
    decode: Callable[[Tensor], Tensor]
    channels: int
    factor: int
    frame_factor: int | None = None
    decode_with_grad: Callable[[Tensor], Tensor] | None = None
    frame_step: int | None = None


def from_diffusers(vae: Any, *, upcast: bool | None = None) -> Autoencoder:  # noqa: ANN401 - diffusers is untyped
    """Wrap an autoencoder of diffusers: z = (mode(x) − shift) · scale, and its inverse, as its pipeline has them.

    Supported are the classes that :mod:`inversion.conventions` lists. What goes in and comes out is float32; the
    network keeps its device and dtype. It is put into evaluation mode and its weights no longer require gradients.
    Wan and QwenImage clamp inside the network, so there ``decode_with_grad`` does too.
    CogVideoX decodes an even number F' of latent frames into n F' frames, as its pipeline does.

    Args:
        vae: an autoencoder of diffusers.
        upcast: whether to use a copy of the network with weights in float32, so that a pipeline that shares the
            autoencoder can go on using it. None upcasts only float16 weights whose config sets ``force_upcast:
            true``, as SDXL's does. The default of that setting, true as well, does not count: SD 1.x has it and is
            fine in float16.

    Raises:
        TypeError: for any other class, because its scaling convention is not known here.
        ValueError: if the decoder draws noise, so that D is not a function; and in ``encode``, if a video has a
            number of frames that the autoencoder cannot represent.
    """
    if upcast is None:
        upcast = vae.dtype == torch.float16 and asks_for_upcast(getattr(vae, "config", {}))
    if upcast:
        vae = copy.deepcopy(vae).to(dtype=torch.float32)
    with torch.inference_mode(False):  # its constants take part in gradients later
        c = convention(vae)
    step = None if c.frame_factor is None else math.lcm(c.frame_factor, c.frame_step)
    vae.eval().requires_grad_(False)

    def to_network(a: Tensor) -> Tensor:
        layout = torch.channels_last if a.ndim == 4 else torch.contiguous_format
        return a.to(vae.device, vae.dtype, memory_format=layout)

    @torch.no_grad()
    def encode(x: Tensor) -> Tensor:
        if step is not None and (x.shape[2] - 1) % step:
            raise ValueError(f"x must have 1 + {step} k frames for {type(vae).__name__}, got {x.shape[2]}")
        mode = c.mode(to_network(x)).float()
        return ((mode - c.shift.to(mode.device)) * c.scale.to(mode.device)).contiguous()

    def decode_with_grad(z: Tensor) -> Tensor:
        z = z.to(torch.float32)
        return c.pixels(to_network(z / c.scale.to(z.device) + c.shift.to(z.device))).float()

    @torch.no_grad()
    def decode(z: Tensor) -> Tensor:
        return decode_with_grad(z).clamp(-1, 1).contiguous()

    return Autoencoder(encode, decode, c.channels, c.factor, c.frame_factor, decode_with_grad, step)


def asks_for_upcast(config: Any) -> bool:  # noqa: ANN401
    """Whether ``force_upcast`` is true in a diffusers config because it was set, not because it is the default."""
    return bool(config.get("force_upcast")) and "force_upcast" not in config.get("_use_default_values", ())

"""diffusers pipelines for pictures as latent diffusion models: Stable Diffusion 1.x, 2.x, XL and 3, Flux, PixArt.

Each function wraps one family. What a pipeline does between its arguments and its network is in its own code, not
in the model, so it is repeated here, with the pipeline's defaults; tests compare both.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.utils import is_bs4_available, is_ftfy_available
from torch import Tensor
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from inversion.autoencoder import from_diffusers
from inversion.model import Conditions, LatentDiffusionModel
from inversion.schedule import draws_noise
from inversion.video_families import animate_diff, cogvideox, stable_video_diffusion, wan


def stable_diffusion(pipe: Any, name: str) -> LatentDiffusionModel:  # noqa: ANN401 - diffusers is untyped
    """SD 1.x and 2.x, and what has their layout."""
    unet = prepared_unet(pipe)

    def network(z: Tensor, t: float, conditions: Conditions) -> Tensor:
        z = z.to(unet.device, unet.dtype, memory_format=torch.channels_last)
        return unet(z, t, encoder_hidden_states=conditions["prompt"]).sample.float().contiguous()

    def conditions(prompts: Sequence[str] | None, batch: int) -> Conditions:
        prompts = list(prompts or [""] * batch)
        return {"prompt": pipe.encode_prompt(prompts, unet.device, 1, do_classifier_free_guidance=False)[0]}

    return LatentDiffusionModel(
        name=name,
        autoencoder=from_diffusers(pipe.vae, upcast=False),  # as this pipeline does
        network=network,
        conditions=conditions,
        scheduler=pipe.scheduler,
        latent_shape=latent_shape(unet.config),
        device=unet.device,
        dtype=unet.dtype,
    )


def rectified_flow(pipe: Any, name: str) -> LatentDiffusionModel:  # noqa: ANN401
    """InstaFlow and 2-rectified flow, https://arxiv.org/abs/2309.06380: the parts of an SD 1.5, trained as a flow.

    The UNet predicts z_0 − ε at times 1000 σ, and the sampler takes n equal steps; the scheduler in the model's
    folder is not used.
    """
    model = stable_diffusion(pipe, name)
    return replace(
        model,
        network=lambda z, t, conditions: -model.network(z, t, conditions),
        scheduler=FlowMatchEulerDiscreteScheduler(),
        scheduler_settings=lambda steps, shape: {"sigmas": equal_steps(steps)},
    )


def stable_diffusion_xl(pipe: Any, name: str) -> LatentDiffusionModel:  # noqa: ANN401
    """SDXL: two text encoders, and the network is told the size of the picture."""
    unet = prepared_unet(pipe)
    autoencoder = from_diffusers(pipe.vae)

    def network(z: Tensor, t: float, conditions: Conditions) -> Tensor:
        prompt, size = conditions["prompt"], [side * autoencoder.factor for side in z.shape[-2:]]
        ids = torch.tensor([[*size, 0, 0, *size]], dtype=prompt.dtype, device=unet.device).expand(len(z), -1)
        added = {"text_embeds": conditions["pooled"], "time_ids": ids}
        z = z.to(unet.device, unet.dtype, memory_format=torch.channels_last)
        return unet(z, t, encoder_hidden_states=prompt, added_cond_kwargs=added).sample.float().contiguous()

    def conditions(prompts: Sequence[str] | None, batch: int) -> Conditions:
        zeros = prompts is None and pipe.config.force_zeros_for_empty_prompt
        prompts = list(prompts or [""] * batch)
        encoded = pipe.encode_prompt(prompts, device=unet.device, do_classifier_free_guidance=False)
        told = {"prompt": encoded[0], "pooled": encoded[2]}
        return {k: torch.zeros_like(v) for k, v in told.items()} if zeros else told

    return LatentDiffusionModel(
        name=name,
        autoencoder=autoencoder,
        network=network,
        conditions=conditions,
        scheduler=pipe.scheduler,
        latent_shape=latent_shape(unet.config),
        device=unet.device,
        dtype=unet.dtype,
    )


def stable_diffusion_3(pipe: Any, name: str) -> LatentDiffusionModel:  # noqa: ANN401
    """SD 3 and 3.5: a flow, with three text encoders, of which T5 may be missing."""
    transformer = pipe.transformer

    def network(z: Tensor, t: float, conditions: Conditions) -> Tensor:
        return transformer(
            z.to(transformer.device, transformer.dtype),
            timestep=torch.full((len(z),), t, device=transformer.device),
            encoder_hidden_states=conditions["prompt"],
            pooled_projections=conditions["pooled"],
        ).sample.float()

    def conditions(prompts: Sequence[str] | None, batch: int) -> Conditions:
        prompts, device = list(prompts or [""] * batch), transformer.device
        encoded = pipe.encode_prompt(prompts, None, None, device=device, do_classifier_free_guidance=False)
        return {"prompt": encoded[0], "pooled": encoded[2]}

    def settings(steps: int, shape: Sequence[int]) -> dict[str, Any]:
        patch = transformer.config.patch_size
        return dynamic_shift(pipe.scheduler.config, (shape[-2] // patch) * (shape[-1] // patch))

    return LatentDiffusionModel(
        name=name,
        autoencoder=from_diffusers(pipe.vae),
        network=network,
        conditions=conditions,
        scheduler=pipe.scheduler,
        latent_shape=latent_shape(transformer.config),
        scheduler_settings=settings,
        device=transformer.device,
        dtype=transformer.dtype,
    )


def flux(pipe: Any, name: str) -> LatentDiffusionModel:  # noqa: ANN401
    """Flux.1: a flow. Its pipeline's latents are packed, 2 × 2 of C channels into one token of 4 C."""
    transformer = pipe.transformer

    def network(z: Tensor, t: float, conditions: Conditions) -> Tensor:
        (h, w), device, dtype = (side // 2 for side in z.shape[-2:]), transformer.device, transformer.dtype
        rows, columns = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
        places = torch.stack([torch.zeros_like(rows), rows, columns], -1).flatten(0, 1)
        tokens = transformer(
            pack(z).to(device, dtype),
            timestep=torch.full((len(z),), t, device=device, dtype=dtype) / 1000,
            guidance=conditions.get("guidance"),
            pooled_projections=conditions["pooled"],
            encoder_hidden_states=conditions["prompt"],
            txt_ids=torch.zeros(conditions["prompt"].shape[1], 3, device=device, dtype=dtype),
            img_ids=places.to(device, dtype),
        ).sample
        return pixel_shuffle(tokens.float().transpose(1, 2).unflatten(2, (h, w)), 2)

    def conditions(prompts: Sequence[str] | None, batch: int) -> Conditions:
        prompt, pooled, _ = pipe.encode_prompt(list(prompts or [""] * batch), None, device=transformer.device)
        return {"prompt": prompt, "pooled": pooled}

    def settings(steps: int, shape: Sequence[int]) -> dict[str, Any]:
        config = pipe.scheduler.config
        sigmas = {} if config.get("use_flow_sigmas") else {"sigmas": equal_steps(steps)}
        return sigmas | dynamic_shift(config, (shape[-2] // 2) * (shape[-1] // 2))

    return LatentDiffusionModel(
        name=name,
        autoencoder=from_diffusers(pipe.vae),
        network=network,
        conditions=conditions,
        scheduler=pipe.scheduler,
        latent_shape=(int(transformer.config.in_channels) // 4, pipe.default_sample_size, pipe.default_sample_size),
        guidance="embedded" if transformer.config.guidance_embeds else "none",
        scheduler_settings=settings,
        pipeline_latents=pack,
        device=transformer.device,
        dtype=transformer.dtype,
    )


def pixart(pipe: Any, name: str) -> LatentDiffusionModel:  # noqa: ANN401
    """PixArt-α and -Σ: T5, and a second half of channels for the variance, which no deterministic sampler needs.

    α for 1024² pixels is told the size of the picture; Σ of that size ignores it.
    """
    transformer, autoencoder = pipe.transformer, from_diffusers(pipe.vae)
    clean = is_bs4_available() and is_ftfy_available()  # without them the pipeline does not clean prompts either

    def network(z: Tensor, t: float, conditions: Conditions) -> Tensor:
        prompt, (height, width) = conditions["prompt"], (side * autoencoder.factor for side in z.shape[-2:])
        told: dict[str, Tensor | None] = {"resolution": None, "aspect_ratio": None}
        if transformer.config.sample_size == 128:
            size = torch.tensor([[height, width, height / width]]).to(prompt).expand(len(z), -1)
            told = {"resolution": size[:, :2], "aspect_ratio": size[:, 2:]}
        prediction = transformer(
            z.to(transformer.device, transformer.dtype),
            encoder_hidden_states=prompt,
            encoder_attention_mask=conditions["mask"],
            timestep=torch.full((len(z),), t, device=transformer.device),
            added_cond_kwargs=told,
        ).sample
        return prediction[:, : z.shape[1]].float()

    def conditions(prompts: Sequence[str] | None, batch: int) -> Conditions:
        prompts, device = list(prompts or [""] * batch), transformer.device
        prompt, mask, _, _ = pipe.encode_prompt(prompts, False, device=device, clean_caption=clean)
        return {"prompt": prompt, "mask": mask}

    return LatentDiffusionModel(
        name=name,
        autoencoder=autoencoder,
        network=network,
        conditions=conditions,
        scheduler=pipe.scheduler,
        latent_shape=latent_shape(transformer.config),
        device=transformer.device,
        dtype=transformer.dtype,
    )


def prepared_unet(pipe: Any) -> Any:  # noqa: ANN401
    """The UNet of a pipeline for pictures, with its memory format and that of the autoencoder channels-last.

    Raises:
        ValueError: if it was distilled to take the guidance scale as an input.
    """
    if pipe.unet.config.time_cond_proj_dim is not None:
        raise ValueError(
            "this UNet takes the guidance scale as an input (time_cond_proj_dim): it is distilled for a sampler "
            "that draws new noise in every step, which cannot be inverted"
        )
    pipe.vae.to(memory_format=torch.channels_last)
    return pipe.unet.to(memory_format=torch.channels_last)


def latent_shape(config: Any) -> tuple[int, int, int]:  # noqa: ANN401
    """(C, h, w) that a network's config gives as its own."""
    size = config.sample_size
    height, width = (size, size) if isinstance(size, int) else size
    return int(config.in_channels), int(height), int(width)


def equal_steps(steps: int) -> list[float]:
    """σ = 1, 1 − 1/n, …, 1/n, to which a scheduler adds 0."""
    return np.linspace(1, 1 / steps, steps).tolist()


def dynamic_shift(config: Any, tokens: int) -> dict[str, float]:  # noqa: ANN401
    """What a flow scheduler that shifts noise levels by the number of tokens is to be told: μ, linear in it."""
    if not config.get("use_dynamic_shifting"):
        return {}
    few, many = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    low, high = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
    return {"mu": low + (high - low) * (tokens - few) / (many - few)}


def pack(z: Tensor) -> Tensor:
    """(B, C, h, w) → (B, h w / 4, 4 C)."""
    return pixel_unshuffle(z, 2).flatten(2).transpose(1, 2)


FAMILIES: dict[str, Callable[[Any, str], LatentDiffusionModel]] = {
    "StableDiffusionPipeline": stable_diffusion,
    "RectifiedFlowPipeline": rectified_flow,
    "StableDiffusionXLPipeline": stable_diffusion_xl,
    "StableDiffusion3Pipeline": stable_diffusion_3,
    "FluxPipeline": flux,
    "PixArtAlphaPipeline": pixart,
    "PixArtSigmaPipeline": pixart,
    "AnimateDiffPipeline": animate_diff,
    "StableVideoDiffusionPipeline": stable_video_diffusion,
    "CogVideoXPipeline": cogvideox,
    "WanPipeline": wan,
}


def wrap(pipe: Any, name: str, family: str | None = None) -> LatentDiffusionModel:  # noqa: ANN401
    """Wrap a pipeline as a family of that name, or by the name of the nearest class that it derives from.

    Raises:
        TypeError: for a family that is not supported.
        ValueError: if parts are missing, or its sampling cannot be inverted, with the reason.
    """
    names = [family] if family is not None else [kind.__name__ for kind in type(pipe).__mro__]
    known = next((n for n in names if n in FAMILIES), None)
    if known is None:
        raise TypeError(f"{names[0]} is not supported; supported are {', '.join(FAMILIES)}")
    texts = {"tokenizer", "text_encoder", "tokenizer_2", "text_encoder_2"}
    dispensable = {*pipe._optional_components, "tokenizer_3", "text_encoder_3"} - texts
    missing = [part for part, value in pipe.components.items() if value is None and part not in dispensable]
    if missing:
        raise ValueError(f"this {known} lacks its {', '.join(missing)}")
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval()
            if part.device.type == "meta":
                raise ValueError("the weights are offloaded one by one; use enable_model_cpu_offload() instead")
    if draws_noise(pipe.scheduler):
        warnings.warn(
            f"{type(pipe.scheduler).__name__} draws noise in every step, which drowns a mark in the first one; "
            "it is read as deterministic. Pictures that the pipeline itself makes need another scheduler, such as "
            "DDIMScheduler",
            stacklevel=3,
        )
    return FAMILIES[known](pipe, name)

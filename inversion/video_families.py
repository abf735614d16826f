"""diffusers pipelines for videos as latent diffusion models: AnimateDiff, Stable Video Diffusion, CogVideoX, Wan.

As :mod:`inversion.families`. Latents are (B, C, F, h, w) here, whatever the pipeline's order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers.pipelines.stable_video_diffusion.pipeline_stable_video_diffusion import _resize_with_antialiasing
from torch import Tensor

from inversion.autoencoder import from_diffusers
from inversion.model import Conditions, LatentDiffusionModel


def animate_diff(pipe: Any, name: str) -> LatentDiffusionModel:  # noqa: ANN401 - diffusers is untyped
    """AnimateDiff: an SD 1.5 with motion modules; its autoencoder takes the frames one by one.

    Raises:
        ValueError: if FreeInit or FreeNoise are switched on, which replace the noise that the pipeline is given.
    """
    if pipe.free_init_enabled or pipe.free_noise_enabled:
        raise ValueError("FreeInit and FreeNoise replace the noise that a video starts from: switch them off")
    unet = pipe.unet

    def network(z: Tensor, t: float, conditions: Conditions) -> Tensor:
        prompt = conditions["prompt"].repeat_interleave(z.shape[2], 0)
        return unet(z.to(unet.device, unet.dtype), t, encoder_hidden_states=prompt).sample.float()

    def conditions(prompts: Sequence[str] | None, batch: int) -> Conditions:
        prompts = list(prompts or [""] * batch)
        return {"prompt": pipe.encode_prompt(prompts, unet.device, 1, do_classifier_free_guidance=False)[0]}

    size = int(unet.config.sample_size)
    return LatentDiffusionModel(
        name=name,
        autoencoder=from_diffusers(pipe.vae, upcast=False),  # as this pipeline does
        network=network,
        conditions=conditions,
        scheduler=pipe.scheduler,
        latent_shape=(int(unet.config.in_channels), 16, size, size),
        device=unet.device,
        dtype=unet.dtype,
    )


def stable_video_diffusion(pipe: Any, name: str) -> LatentDiffusionModel:  # noqa: ANN401
    """SVD: a picture starts the video, as a CLIP embedding and as latents beside those of every frame.

    The pipeline adds noise of strength 0.02 to that picture, which an inversion cannot know; the network is told of
    it all the same. The picture must have the size of the frames. The guidance scale grows from 1 at the first
    frame to what is asked for at the last.
    """
    unet, autoencoder = pipe.unet, from_diffusers(pipe.vae)
    embedding_size = int(pipe.image_encoder.config.projection_dim)
    frames_per_second, motion, noise = 7, 127, 0.02

    def network(z: Tensor, t: float, conditions: Conditions) -> Tensor:
        picture, sides = conditions["latents"], z.shape[-2:]
        if picture.shape[-2:] not in (sides, (1, 1)):
            height, width = (side * autoencoder.factor for side in sides)
            raise ValueError(f"the pictures that these videos start from must have {height} × {width} pixels")
        beside = picture[:, None].expand(-1, z.shape[2], -1, *sides)
        told = torch.tensor([[frames_per_second - 1, motion, noise]]).to(picture).expand(len(z), -1)
        x = torch.cat([z.transpose(1, 2).to(picture), beside], 2)
        prediction = unet(x, t, encoder_hidden_states=conditions["embedding"], added_time_ids=told).sample
        return prediction.transpose(1, 2).float()

    def conditions(pictures: Tensor | None, batch: int) -> Conditions:
        if pictures is None:
            zeros = torch.zeros(batch, 1, 1, 1, device=unet.device, dtype=unet.dtype)
            return {
                "embedding": zeros[..., 0].expand(-1, -1, embedding_size),
                "latents": zeros.expand(-1, autoencoder.channels, -1, -1),
            }
        pictures = pictures.to(unet.device, torch.float32)
        small = (_resize_with_antialiasing(pictures, (224, 224)) + 1) / 2
        embedding = pipe._encode_image(small, unet.device, 1, False)
        return {
            "embedding": embedding,
            "latents": pipe._encode_vae_image(pictures, unet.device, 1, False).to(embedding),
        }

    frames, factor = int(unet.config.num_frames), autoencoder.factor
    return LatentDiffusionModel(
        name=name,
        autoencoder=autoencoder,
        network=network,
        conditions=conditions,
        scheduler=pipe.scheduler,
        latent_shape=(int(unet.config.out_channels), frames, 576 // factor, 1024 // factor),
        guidance_weights=growing,
        takes_pictures=True,
        pipeline_latents=frames_first,
        device=unet.device,
        dtype=unet.dtype,
    )


def cogvideox(pipe: Any, name: str) -> LatentDiffusionModel:  # noqa: ANN401
    """CogVideoX 1.0 and 1.5, for text.

    1.5 takes latent frames in pairs. Its pipeline makes one more where their number is odd and drops it before it
    decodes, so that its noise is not to be recovered from the video.
    """
    transformer, autoencoder = pipe.transformer, from_diffusers(pipe.vae)
    config, together = transformer.config, int(transformer.config.patch_size_t or 1)

    def network(z: Tensor, t: float, conditions: Conditions) -> Tensor:
        frames, (height, width) = z.shape[2], (side * autoencoder.factor for side in z.shape[-2:])
        if frames % together:
            raise ValueError(
                f"this model takes latent frames {together} by {together}, got {frames}: its pipeline drops one "
                "before it decodes a video of this length, and without that one there is no way back"
            )
        rotary = None
        if config.use_rotary_positional_embeddings:
            rotary = pipe._prepare_rotary_positional_embeddings(height, width, frames, transformer.device)
        prediction = transformer(
            hidden_states=frames_first(z).to(transformer.device, transformer.dtype),
            encoder_hidden_states=conditions["prompt"],
            timestep=torch.full((len(z),), t, device=transformer.device),
            image_rotary_emb=rotary,
        ).sample
        return prediction.transpose(1, 2).float()

    def conditions(prompts: Sequence[str] | None, batch: int) -> Conditions:
        prompts = list(prompts or [""] * batch)
        encoded = pipe.encode_prompt(prompts, do_classifier_free_guidance=False, device=transformer.device)
        return {"prompt": encoded[0]}

    latent_frames = (config.sample_frames - 1) // pipe.vae_scale_factor_temporal + 1
    latent_frames += -latent_frames % together
    return LatentDiffusionModel(
        name=name,
        autoencoder=autoencoder,
        network=network,
        conditions=conditions,
        scheduler=pipe.scheduler,
        latent_shape=(int(config.in_channels), latent_frames, int(config.sample_height), int(config.sample_width)),
        pipeline_latents=frames_first,
        device=transformer.device,
        dtype=transformer.dtype,
    )


def wan(pipe: Any, name: str) -> LatentDiffusionModel:  # noqa: ANN401
    """Wan 2.1 and 2.2 for text: a flow. 2.2 may have a second network for times below a boundary.

    Raises:
        ValueError: if a network is missing.
    """
    high, low, boundary = pipe.transformer, pipe.transformer, 0.0
    if pipe.config.boundary_ratio is not None:
        low = pipe.transformer_2
        boundary = pipe.config.boundary_ratio * pipe.scheduler.config.num_train_timesteps
    if high is None or low is None:
        raise ValueError("this WanPipeline lacks its transformer or its transformer_2")

    def network(z: Tensor, t: float, conditions: Conditions) -> Tensor:
        transformer = high if t >= boundary else low
        shape: tuple[int, ...] = (len(z),)
        if pipe.config.expand_timesteps:  # a time for every token of 1 × 2 × 2 latents
            shape = (len(z), z.shape[2] * -(-z.shape[3] // 2) * -(-z.shape[4] // 2))
        return transformer(
            z.to(high.device, high.dtype),
            timestep=torch.full(shape, t, device=high.device),
            encoder_hidden_states=conditions["prompt"],
        ).sample.float()

    def conditions(prompts: Sequence[str] | None, batch: int) -> Conditions:
        prompts, device = list(prompts or [""] * batch), high.device
        encoded = pipe.encode_prompt(prompts, None, False, max_sequence_length=512, device=device)
        return {"prompt": encoded[0].to(high.dtype)}

    autoencoder, frames = from_diffusers(pipe.vae), 80 // pipe.vae_scale_factor_temporal + 1
    height, width = 480 // autoencoder.factor, 832 // autoencoder.factor
    return LatentDiffusionModel(
        name=name,
        autoencoder=autoencoder,
        network=network,
        conditions=conditions,
        scheduler=pipe.scheduler,
        latent_shape=(int(high.config.in_channels), frames, height, width),
        device=high.device,
        dtype=high.dtype,
    )


def growing(guidance: float, shape: Sequence[int]) -> Tensor:
    """1 at the first frame, the scale at the last, linear between them: (1, 1, F, 1, 1)."""
    return torch.linspace(1, guidance, shape[2]).view(1, 1, -1, 1, 1)


def frames_first(z: Tensor) -> Tensor:
    """(B, C, F, h, w) → (B, F, C, h, w)."""
    return z.transpose(1, 2)

"""Latent diffusion models: the one module that knows diffusers pipelines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler, DiffusionPipeline, StableDiffusionPipeline
from torch import Tensor

from inversion.autoencoder import Autoencoder, from_diffusers

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class LatentDiffusionModel:
    """A text-to-image latent diffusion model as the functions that inversion needs.

    Args:
        name: what it was loaded from.
        autoencoder: E and D.
        network: (z (B, C, h, w) float32, timestep, prompt embeddings (B, L, D)) → prediction, float32.
        embed_prompts: prompts → embeddings (B, L, D).
        scheduler_config: the diffusers scheduler config: noise levels, timesteps, prediction type.
        latent_shape: (C, h, w) at the model's own picture size.
        device: where it runs.
        dtype: of the networks.
    """

    name: str
    autoencoder: Autoencoder
    network: Callable[[Tensor, int, Tensor], Tensor]
    embed_prompts: Callable[[Sequence[str]], Tensor]
    scheduler_config: Any
    latent_shape: tuple[int, int, int]
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    dtype: torch.dtype = torch.float32

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of the model's own pictures, in pixels."""
        f = self.autoencoder.factor
        return self.latent_shape[1] * f, self.latent_shape[2] * f

    @classmethod
    def load(
        cls,
        name_or_path: str | Path = "sapling",
        *,
        dtype: str | torch.dtype = "auto",
        device: str | torch.device = "auto",
        variant: str | None = None,
        revision: str | None = None,
    ) -> LatentDiffusionModel:
        """Load ``sapling``, a local diffusers folder, or a model of the hub by its id.

        Args:
            name_or_path: which model. Remote code is never run.
            dtype: ``fp32``, ``bf16``, ``fp16`` or a torch dtype, for every part; ``auto`` is fp16 on a GPU, fp32
                elsewhere.
            device: a torch device; ``auto`` is CUDA, then MPS, then the CPU.
            variant: file variant, e.g. ``"fp16"``, as in diffusers.
            revision: hub revision, as in diffusers. Hub settings and offline mode are those of diffusers too.

        Raises:
            FileNotFoundError: if there is no such model or it cannot be reached.
            ValueError: for an unknown dtype, a model family that is not supported, or a damaged model.
        """
        chosen_device = resolve_device(device)
        chosen_dtype = resolve_dtype(dtype, chosen_device)
        source = str(sapling_folder() if str(name_or_path) == "sapling" else name_or_path)
        try:
            config = DiffusionPipeline.load_config(source, revision=revision)
        except (OSError, ValueError) as error:
            raise FileNotFoundError(
                f"no model {str(name_or_path)!r}: it is not 'sapling', not a diffusers folder, and not a hub model "
                f"that could be reached ({str(error).strip().splitlines()[0]})"
            ) from error
        if config.get("_class_name") != "StableDiffusionPipeline":
            raise ValueError(
                f"{str(name_or_path)!r} is a {config.get('_class_name')}; only StableDiffusionPipeline "
                "(SD 1.x, 2.x and models of that layout) is supported"
            )
        pipe = StableDiffusionPipeline.from_pretrained(
            source,
            dtype=chosen_dtype,
            variant=variant,
            revision=revision,
            safety_checker=None,
            feature_extractor=None,
            image_encoder=None,
            requires_safety_checker=False,
        )
        return cls.from_pipeline(pipe.to(chosen_device), name=str(name_or_path))

    @classmethod
    def from_pipeline(cls, pipe: Any, *, name: str = "pipeline") -> LatentDiffusionModel:  # noqa: ANN401
        """Wrap a loaded ``StableDiffusionPipeline`` (or a subclass), which keeps its dtype and device.

        The memory format of its UNet and autoencoder becomes channels-last, which is faster.

        Raises:
            TypeError: for any other pipeline.
        """
        if not isinstance(pipe, StableDiffusionPipeline):
            raise TypeError(f"only StableDiffusionPipeline is supported, got {type(pipe).__name__}")
        unet = pipe.unet.eval().to(memory_format=torch.channels_last)
        vae = pipe.vae.eval().to(memory_format=torch.channels_last)

        def network(z: Tensor, t: int, embeddings: Tensor) -> Tensor:
            z = z.to(unet.device, unet.dtype, memory_format=torch.channels_last)
            return unet(z, t, encoder_hidden_states=embeddings).sample.float().contiguous()

        def embed_prompts(prompts: Sequence[str]) -> Tensor:
            return pipe.encode_prompt(list(prompts), unet.device, 1, do_classifier_free_guidance=False)[0]

        size = unet.config.sample_size
        height, width = (size, size) if isinstance(size, int) else size
        return cls(
            name=name,
            autoencoder=from_diffusers(vae, upcast=False),  # as this pipeline does
            network=network,
            embed_prompts=embed_prompts,
            scheduler_config=pipe.scheduler.config,
            latent_shape=(int(unet.config.in_channels), int(height), int(width)),
            device=unet.device,
            dtype=unet.dtype,
        )

    def check_latents(self, z: Tensor) -> Tensor:
        """Z on the model's device as float32, or a ValueError if its channels or values cannot be the model's."""
        if z.ndim != 4 or z.shape[1] != self.latent_shape[0]:
            raise ValueError(f"latents must have shape (B, {self.latent_shape[0]}, h, w), got {tuple(z.shape)}")
        if not bool(torch.isfinite(z).all()):
            raise ValueError("latents must be finite")
        return z.to(self.device, torch.float32)

    def noise_predictor(
        self, prompt: str | Sequence[str] | None, *, batch: int, guidance: float
    ) -> Callable[[Tensor, int], Tensor]:
        """ε(z, t) for a batch of samples under their prompts, with classifier-free guidance.

        Raises:
            ValueError: if the number of prompts is neither one nor the batch size, or the scheduler's prediction
                type is unknown.
        """
        prompts = [prompt or ""] * batch if prompt is None or isinstance(prompt, str) else list(prompt)
        if len(prompts) != batch:
            raise ValueError(f"{len(prompts)} prompts for a batch of {batch}")
        kind = self.scheduler_config.get("prediction_type", "epsilon")
        if kind not in {"epsilon", "v_prediction", "sample"}:
            raise ValueError(f"unknown prediction type {kind!r}")
        bar = DDIMScheduler.from_config(self.scheduler_config).alphas_cumprod.double()
        embeddings = self.embed_prompts(prompts)
        if guidance != 1:
            embeddings = torch.cat([self.embed_prompts([""] * batch), embeddings])

        def eps(z: Tensor, t: int) -> Tensor:
            alpha, sigma = float(bar[t]) ** 0.5, float(1 - bar[t]) ** 0.5
            out = self.network(z if guidance == 1 else torch.cat([z, z]), t, embeddings)
            if guidance != 1:
                empty, conditional = out.chunk(2)
                out = empty + guidance * (conditional - empty)
            if kind == "v_prediction":
                return alpha * out + sigma * z
            return out if kind == "epsilon" else (z - alpha * out) / sigma

        return eps


def resolve_device(device: str | torch.device) -> torch.device:
    """``auto`` → CUDA, then MPS, then the CPU."""
    if device != "auto":
        return torch.device(device)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def resolve_dtype(dtype: str | torch.dtype, device: torch.device) -> torch.dtype:
    """``auto`` → fp16 on a GPU, fp32 elsewhere; names → torch dtypes."""
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype == "auto":
        return torch.float32 if device.type == "cpu" else torch.float16
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be one of auto, {', '.join(DTYPES)}, got {dtype!r}")
    return DTYPES[dtype]


def data_folder() -> Path:
    """The data directory: inside the installed package, or that of the checkout."""
    here = Path(__file__).resolve().parent
    for folder in (here / "_data", here.parent / "data"):
        if (folder / "sapling" / "model_index.json").is_file():
            return folder
    raise FileNotFoundError(f"the embedded model is neither in {here / '_data'} nor in {here.parent / 'data'}")


def sapling_folder() -> Path:
    """Where Sapling, the embedded model, lies; in diffusers layout."""
    return data_folder() / "sapling"

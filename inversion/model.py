"""Latent diffusion models, as the functions that sampling and inversion need."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import diffusers
import torch
from torch import Tensor

from inversion.autoencoder import Autoencoder
from inversion.embedded import sapling_folder
from inversion.fields import Field
from inversion.schedule import Schedule, make_schedule

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

Conditions = Mapping[str, Tensor]
"""What a network is told beside z and t; every tensor has the samples in front."""

Prompt = str | Sequence[str] | Tensor | None


def no_settings(steps: int, shape: Sequence[int]) -> dict[str, Any]:
    """The scheduler needs to be told nothing but the number of steps."""
    return {}


def the_scale_itself(guidance: float, shape: Sequence[int]) -> float:
    """The same weight everywhere."""
    return guidance


def unchanged(z: Tensor) -> Tensor:
    """The pipeline lays out latents as treering does."""
    return z


@dataclass(frozen=True)
class LatentDiffusionModel:
    """A latent diffusion model as the functions that sampling and inversion need.

    Latents are (B, C, h, w) or, for videos, (B, C, F, h, w), float32, whatever the pipeline's own layout.

    Attributes:
        name: what it was loaded from.
        autoencoder: E and D.
        network: (z, time, conditions) → prediction, like z.
        conditions: (prompts or None for no prompt, number of samples) → conditions. For a model that starts from a
            picture, (pictures (B, 3, H, W) in [-1, 1] or None, number of samples).
        scheduler: of diffusers: noise levels, timesteps, prediction type.
        latent_shape: (C, h, w) or (C, F, h, w) at the model's own size.
        guidance: how the guidance scale works: ``classifier-free``, ``embedded`` as an input of the network, or
            ``none``.
        guidance_weights: (scale, shape of the latents) → weight, or weights that broadcast against them.
        takes_pictures: whether its prompts are pictures.
        scheduler_settings: (steps, shape of the latents) → further arguments of ``scheduler.set_timesteps``.
        pipeline_latents: latents → what the pipeline takes and returns as its latents.
        device: where it runs.
        dtype: of the networks.
    """

    name: str
    autoencoder: Autoencoder
    network: Callable[[Tensor, float, Conditions], Tensor]
    conditions: Callable[[Any, int], Conditions]
    scheduler: Any
    latent_shape: tuple[int, ...]
    guidance: str = "classifier-free"
    guidance_weights: Callable[[float, Sequence[int]], float | Tensor] = the_scale_itself
    takes_pictures: bool = False
    scheduler_settings: Callable[[int, Sequence[int]], dict[str, Any]] = no_settings
    pipeline_latents: Callable[[Tensor], Tensor] = unchanged
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    dtype: torch.dtype = torch.float32

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of the model's own pictures, in pixels."""
        f = self.autoencoder.factor
        return self.latent_shape[-2] * f, self.latent_shape[-1] * f

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
            OSError: if one of its files is missing or cannot be read.
            ValueError: for an unknown dtype, a device that is not here, or a model family that is not supported.
        """
        chosen_device = resolve_device(device)
        chosen_dtype = resolve_dtype(dtype, chosen_device)
        source = str(sapling_folder() if str(name_or_path) == "sapling" else name_or_path)
        try:
            config = diffusers.DiffusionPipeline.load_config(source, revision=revision)
        except (OSError, ValueError) as error:
            raise FileNotFoundError(
                f"no model {str(name_or_path)!r}: it is not 'sapling', not a diffusers folder, and not a hub model "
                f"that could be reached ({str(error).strip().splitlines()[0]})"
            ) from error
        return cls.from_pipeline(
            load_pipeline(source, config, dtype=chosen_dtype, variant=variant, revision=revision).to(chosen_device),
            name=str(name_or_path),
            family=str(config["_class_name"]),
        )

    @classmethod
    def from_pipeline(
        cls,
        pipe: Any,  # noqa: ANN401
        *,
        name: str | None = None,
        family: str | None = None,
    ) -> LatentDiffusionModel:
        """Wrap a loaded diffusers pipeline, which keeps its dtype and device.

        The supported classes are those of :mod:`inversion.families`, and their subclasses. The memory format of a
        UNet and of its autoencoder becomes channels-last, which is faster. All parts are put into evaluation mode,
        and the autoencoder's weights no longer require gradients.

        Args:
            pipe: the pipeline.
            name: of the model; None is what the pipeline was loaded from, or ``pipeline`` if it does not know.
            family: the name of a supported class, if it is not the pipeline's own: InstaFlow has the parts of a
                ``StableDiffusionPipeline`` and is a ``RectifiedFlowPipeline``.

        Raises:
            TypeError: for any other pipeline.
            ValueError: for a pipeline whose sampling cannot be inverted, with the reason.
        """
        from inversion.families import wrap

        return wrap(pipe, origin(pipe) if name is None else name, family)

    def check_latents(self, z: Tensor) -> Tensor:
        """Latents z on the device as float32, or a ValueError if its shape or values cannot be the model's."""
        if z.ndim != len(self.latent_shape) + 1 or z.shape[1] != self.latent_shape[0] or 0 in z.shape:
            axes = "h, w" if len(self.latent_shape) == 3 else "F, h, w"
            raise ValueError(f"latents must have shape (B, {self.latent_shape[0]}, {axes}), got {tuple(z.shape)}")
        if not bool(torch.isfinite(z).all()):
            raise ValueError("latents must be finite")
        return z.to(self.device, torch.float32)

    def schedule(self, steps: int, shape: Sequence[int] | None = None) -> Schedule:
        """The noise levels of the model's scheduler for latents (B, C, [F,] h, w), its own size by default.

        Raises:
            ValueError: see :func:`inversion.schedule.make_schedule`.
        """
        settings = self.scheduler_settings(steps, shape or (1, *self.latent_shape))
        return make_schedule(self.scheduler, steps, **settings)

    def field(self, prompt: Prompt, *, batch: int, guidance: float) -> Field:
        """The network's prediction for a batch of samples under their prompts and guidance.

        Raises:
            ValueError: if the prompts do not fit the batch or the model, or the model has no guidance.
        """
        if not math.isfinite(guidance):
            raise ValueError(f"guidance must be finite, got {guidance}")
        own = self.conditions(self.check_prompt(prompt, batch), batch)
        if self.guidance == "none" and guidance != 1:
            raise ValueError(f"this model has no guidance, so that guidance must be 1, got {guidance}")
        if self.guidance == "embedded":
            own = {**own, "guidance": torch.full((batch,), float(guidance), device=self.device)}
        if self.guidance != "classifier-free" or guidance <= 1 or prompt is None:
            return lambda z, t, rows: self.network(z, t, {k: v[rows] for k, v in own.items()}).to(z.device)
        empty = self.conditions(None, batch)

        def guided(z: Tensor, t: float, rows: Tensor) -> Tensor:
            both = {k: torch.cat([empty[k][rows].expand_as(v[rows]), v[rows]]) for k, v in own.items()}
            without, with_prompt = self.network(torch.cat([z, z]), t, both).to(z.device).chunk(2)
            weights = torch.as_tensor(self.guidance_weights(guidance, z.shape), dtype=z.dtype, device=z.device)
            return without + weights * (with_prompt - without)

        return guided

    def check_prompt(self, prompt: Prompt, batch: int) -> Sequence[str] | Tensor | None:
        """One prompt for each sample, or None for no prompt."""
        if prompt is None:
            return None
        if isinstance(prompt, Tensor) != self.takes_pictures:
            kind = "pictures (B, 3, H, W) in [-1, 1]" if self.takes_pictures else "strings"
            raise ValueError(f"the prompts of this model are {kind}")
        prompts = [prompt] * batch if isinstance(prompt, str) else prompt
        if len(prompts) != batch:
            raise ValueError(f"{len(prompts)} prompts for a batch of {batch}")
        for text in prompts:
            if isinstance(text, str) and not encodable(text):
                raise ValueError(f"the prompt {text!a} is not Unicode text")
        return prompts


def encodable(text: str) -> bool:
    """Whether a string has no surrogates, which are what is left of bytes that are no text, and stop tokenizers."""
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


def origin(pipe: Any) -> str:  # noqa: ANN401
    """The folder or the id that a pipeline was loaded from."""
    source = str(pipe.config.get("_name_or_path") or "pipeline")
    return "sapling" if Path(source).resolve() == Path(sapling_folder()).resolve() else source


def load_pipeline(source: str, config: Mapping[str, Any], **settings: Any) -> Any:  # noqa: ANN401
    """The pipeline that a model's ``model_index.json`` asks for, without a safety checker.

    Raises:
        ValueError: if its class is not supported.
    """
    from inversion.families import FAMILIES

    name = str(config.get("_class_name"))
    if name not in FAMILIES:
        raise ValueError(f"{source!r} is a {name}; supported are {', '.join(FAMILIES)}")
    unused = ("safety_checker", "feature_extractor", "image_encoder") if "safety_checker" in config else ()
    absent = [part for part, value in config.items() if value in ([None, None], (None, None))]
    extra: dict[str, Any] = dict.fromkeys([*unused, *absent]) | (
        {"requires_safety_checker": False} if unused else {}
    )
    kind = diffusers.StableDiffusionPipeline if name == "RectifiedFlowPipeline" else getattr(diffusers, name)
    pipe = kind.from_pretrained(source, **settings, **extra)
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            part.requires_grad_(False)  # what differentiates the networks differentiates their inputs
    return pipe


def resolve_device(device: str | torch.device) -> torch.device:
    """``auto`` → CUDA, then MPS, then the CPU; a ValueError for a device that is not here."""
    if device != "auto":
        try:
            return torch.empty(0, device=device).device
        except (AssertionError, RuntimeError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise ValueError(f"the device {str(device)!r} cannot be used here: {reason}") from error
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

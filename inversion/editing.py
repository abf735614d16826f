"""Editing a part of a picture with a prompt, while the rest follows its own recovered path.

The latents z_0 … z_T of the picture are recovered. Sampling then starts from z_T with a new prompt, and after every
step takes the recovered latent outside a mask,

    z_s ← M (P z_t + Q f(z_t, t)) + (1 − M) z_s^original,

as blended diffusion does (https://arxiv.org/abs/2206.02779), here with the picture's own path in the place of
fresh noise: the background-preserving editing of Hong et al. 2024, §5.2, https://arxiv.org/abs/2409.18442. Outside
the mask the latent is the recovered one: the picture is as good there as that is, but for what the decoder lets
bleed over the edge. Its own pixels can then take the place of decoded ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import interpolate, max_pool2d

from inversion.decoder import invert_decoder
from inversion.fields import Progress, all_rows, silent
from inversion.model import LatentDiffusionModel
from inversion.schedule import coefficients
from inversion.trajectory import Prompt, Trajectory, trajectory


@dataclass(frozen=True)
class Edited:
    """Edited pictures.

    Attributes:
        x: (B, 3, H, W) float32 in [-1, 1].
        mask: (B, 1, h, w) in [0, 1], where latents were edited.
        background: (B, 1, H, W) in [0, 1], how much each pixel is the original's.
    """

    x: Tensor
    mask: Tensor
    background: Tensor


@torch.no_grad()
def edit(
    model: LatentDiffusionModel,
    x: Tensor,
    prompt: Prompt,
    *,
    mask: Tensor | None = None,
    source: Prompt = None,
    decoder: str = "anderson",
    steps: int = 25,
    guidance: float = 3.0,
    restore: bool = True,
    progress: Progress | None = None,
) -> Edited:
    """Edit pictures with a prompt within a mask.

    Args:
        model: a model of pictures with text prompts.
        x: (B, 3, H, W) float32 in [-1, 1]; H and W of the model's own size are best.
        prompt: what is to be seen inside the mask, one for all or one each.
        mask: (B or 1, 1, H, W) in [0, 1], 1 where the picture may change; None is that of :func:`prompt_mask`.
        source: what is seen now, if it is known.
        decoder: how latents are recovered, see :func:`inversion.invert_decoder`; the default is the one
            of those without gradients that reproduces the picture best.
        steps: of inversion and of sampling.
        guidance: classifier-free guidance scale of the new prompt, of a model that has one.
        restore: whether pixels outside the mask are the picture's own, with a soft edge as wide as a latent. If
            not, all are decoded, as published.
        progress: called with the steps done and their number, 2 · ``steps``.

    Raises:
        ValueError: if a shape or a value does not fit the model, or the model makes videos or takes no text.
    """
    if len(model.latent_shape) != 3 or model.takes_pictures:
        raise ValueError(
            f"{model.name!r} does not make pictures from prompts, and only such can be edited with one"
        )
    model.field(prompt, batch=len(x), guidance=guidance)  # what is wrong is said before the networks run
    model.field(source, batch=len(x), guidance=1.0)
    model.schedule(steps)
    size, factor = tuple(x.shape[-2:]), model.autoencoder.factor
    given = None if mask is None else latent_mask(mask.to(model.device, torch.float32), len(x), size, factor)
    report = progress or silent
    z_0 = invert_decoder(model.autoencoder, x, method=decoder).value
    path = trajectory(model, z_0, steps=steps, prompt=source, progress=lambda done, _: report(done, 2 * steps))
    m = prompt_mask(model, path, prompt, source=source) if given is None else given
    z = blend(model, path, prompt, m, guidance=guidance, progress=lambda done, _: report(steps + done, 2 * steps))
    return finished(model, x.to(z_0), z, m, restore=restore)


def finished(model: LatentDiffusionModel, x: Tensor, z: Tensor, mask: Tensor, *, restore: bool) -> Edited:
    """Edited latents z of pictures x, decoded; see :func:`edit`."""
    background = 1 - interpolate(mask, scale_factor=float(model.autoencoder.factor), mode="bilinear")
    y = model.autoencoder.decode(z)
    if restore:
        y = y + background * (x - y)
    return Edited(y, mask, background)


@torch.no_grad()
def blend(
    model: LatentDiffusionModel,
    path: Trajectory,
    prompt: Prompt,
    mask: Tensor,
    *,
    guidance: float = 3.0,
    progress: Progress | None = None,
) -> Tensor:
    """Sample with a prompt from the end of a path, and take the path's own latents outside a mask.

    Args:
        model: the latent diffusion model.
        path: of the original pictures.
        prompt: one for all, or one each.
        mask: (B, 1, h, w) in [0, 1].
        guidance: as for :func:`inversion.sample`.
        progress: called after every step with the steps done and their number.

    Returns:
        z_0 (B, C, h, w) float32. Where the mask is zero it is that of the path, to the bit.
    """
    schedule, latents = path.schedule, path.latents
    field = model.field(prompt, batch=len(latents), guidance=guidance)
    z = latents[:, -1].to(model.device)
    rows, m = all_rows(z), mask.to(z)
    for k, (t, s) in enumerate(schedule.steps, 1):
        p, q = coefficients(schedule.kind, t, s)
        original = latents[:, -1 - k].to(z)
        z = original + m * (p * z + q * field(z, t.t, rows) - original)
        (progress or silent)(k, len(schedule.steps))
    return z


@torch.no_grad()
def prompt_mask(
    model: LatentDiffusionModel,
    path: Trajectory,
    prompt: Prompt,
    *,
    source: Prompt = None,
    share: tuple[float, float] = (0.4, 0.7),
    threshold: float = 0.5,
) -> Tensor:
    """Where two prompts disagree about a picture, (B, 1, h, w) of 0 and 1.

    DiffEdit, https://arxiv.org/abs/2210.11427, §3.2: the difference of the predictions, absolute, averaged over
    channels and noise, cut at 3 times its mean, scaled to [0, 1] and compared with a threshold. The average is
    over the latents of the picture's own path in the middle, instead of over random noise, and over 3 × 3 of them.

    Args:
        model: the latent diffusion model.
        path: of the pictures.
        prompt: the new one.
        source: what is seen now; None is no prompt.
        share: between which shares of the path's steps, the cleanest at 0, the networks are asked.
        threshold: above which a latent may change.
    """
    latents, batch = path.latents, len(path.latents)
    new, old = (model.field(text, batch=batch, guidance=1.0) for text in (prompt, source))
    last = latents.shape[1] - 1
    asked = range(max(1, round(share[0] * last)), max(1, round(share[1] * last)) + 1)
    total = torch.zeros(batch, 1, *latents.shape[-2:], device=model.device)
    for k in asked:
        z, t = latents[:, k].to(model.device), path.levels[k].t
        rows = all_rows(z)
        total += (new(z, t, rows) - old(z, t, rows)).abs().mean(1, keepdim=True)
    total = torch.nn.functional.avg_pool2d(total, 3, stride=1, padding=1, count_include_pad=False)
    mean = total.mean((2, 3), keepdim=True).clamp(min=1e-30)
    return ((total / (3 * mean)).clamp(max=1) > threshold).float()


def latent_mask(mask: Tensor, batch: int, size: tuple[int, ...], factor: int) -> Tensor:
    """A mask of pixels (B or 1, 1, H, W) as one of latents (B, 1, h, w): the largest value that a latent covers.

    Raises:
        ValueError: if its shape or values are wrong.
    """
    if mask.ndim != 4 or mask.shape[0] not in (1, batch) or mask.shape[1] != 1 or tuple(mask.shape[2:]) != size:
        raise ValueError(f"mask must have shape (1 or {batch}, 1, {size[0]}, {size[1]}), got {tuple(mask.shape)}")
    if not (float(mask.amin()) >= 0 and float(mask.amax()) <= 1):
        raise ValueError("mask must lie within [0, 1]")
    return max_pool2d(mask, factor).expand(batch, -1, -1, -1)

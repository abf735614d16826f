"""Attacks that need the model: functions of pictures (B, 3, H, W) in [-1, 1] and of a seed for each.

- Through the autoencoder and back; the latent moved by a pixel on the way.
- *Regeneration*: noise is added to the latent and the model takes it away again; repeated, it is "rinsing". Zhao et
  al. 2023 (https://arxiv.org/abs/2306.01953), and An et al. 2024 ("WAVES", https://arxiv.org/abs/2401.08573).
- *Adversarial*: the change of the pixels, of at most ε, that moves the encoder's latent farthest, by projected
  gradient ascent, as in WAVES. The attacker has the encoder itself.
- *Averaging* (Yang et al. 2024, https://arxiv.org/abs/2406.09026): what pictures of one key share and pictures
  without a mark do not, taken from a marked picture to hide the mark, or added to another picture to forge it; in
  pixels, as published, and in the same way in latents.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache, partial

import diffusers
import torch
from torch import Tensor

from inversion import LatentDiffusionModel
from inversion.conventions import convention
from inversion.embedded import sapling_folder
from inversion.explicit import ddim_sample

ModelAttack = Callable[[LatentDiffusionModel, Tensor, Sequence[int]], Tensor]


def through_autoencoder(model: LatentDiffusionModel, x: Tensor, seeds: Sequence[int], *, rounds: int) -> Tensor:
    """D(E(x)), so many times."""
    for _ in range(rounds):
        x = model.autoencoder.decode(model.autoencoder.encode(x))
    return x


def move_latent(model: LatentDiffusionModel, x: Tensor, seeds: Sequence[int], *, pixels: int) -> Tensor:
    """The latent moved down and to the right; what leaves comes in at the other side."""
    return model.autoencoder.decode(model.autoencoder.encode(x).roll((pixels, pixels), (-2, -1)))


@torch.no_grad()
def regenerate(
    model: LatentDiffusionModel,
    x: Tensor,
    seeds: Sequence[int],
    *,
    strength: float,
    rounds: int = 1,
    steps: int = 50,
) -> Tensor:
    """Noise added as of the last ``strength`` of so many sampling steps, and sampled away without a prompt."""
    schedule = model.schedule(steps, (len(x), *model.latent_shape))
    schedule = replace(schedule, steps=schedule.steps[-max(1, round(strength * steps)) :])
    level = schedule.steps[0][0]
    field = model.field(None, batch=len(x), guidance=1.0)
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    for _ in range(rounds):
        z = model.autoencoder.encode(x)
        noise = torch.stack([torch.randn(z.shape[1:], generator=g) for g in generators]).to(z)
        x = model.autoencoder.decode(ddim_sample(field, level.alpha * z + level.sigma * noise, schedule))
    return x


def adversarial(
    model: LatentDiffusionModel, x: Tensor, seeds: Sequence[int], *, levels: int, steps: int = 24
) -> Tensor:
    """The picture within ``levels`` / 255 whose latent is farthest from its own, by ascent along gradients' signs.

    The range of 8 bits is 2 here, so that ε is 2 · levels / 255; a step is 2.5 ε / steps.
    """
    encode = differentiable_encoder(model.name, str(model.device))
    x = x.to(model.device)
    epsilon = 2 * levels / 255
    with torch.no_grad():
        own = encode(x)
    start = [torch.rand(x.shape[1:], generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    y = (x + epsilon * (2 * torch.stack(start).to(x) - 1)).clamp(-1, 1)
    for _ in range(steps):
        y.requires_grad_()
        (gradient,) = torch.autograd.grad((encode(y) - own).square().sum(), y)
        y = y.detach() + 2.5 * epsilon / steps * gradient.sign()
        y = torch.minimum(torch.maximum(y, x - epsilon), x + epsilon).clamp(-1, 1)
    return y


@lru_cache(maxsize=1)
def differentiable_encoder(name: str, device: str) -> Callable[[Tensor], Tensor]:
    """E of a model by its name in float32, with a graph: pictures (B, 3, H, W) → latents (B, C, h, w)."""
    source = str(sapling_folder()) if name == "sapling" else name
    vae = diffusers.AutoModel.from_pretrained(source, subfolder="vae", dtype=torch.float32).to(device)
    vae.eval().requires_grad_(False)
    own = convention(vae)

    def encode(x: Tensor) -> Tensor:
        return (own.mode(x) - own.shift.to(device)) * own.scale.to(device)

    return encode


def common_part(marked: Tensor, unmarked: Tensor, *, leave_out: bool = False) -> Tensor:
    """What marked samples (N, …) share and unmarked ones (M, …) do not: the difference of the means.

    (1, …), or (M, …) with each of the unmarked samples left out in turn, for when it is attacked itself.
    """
    total, count = unmarked.sum(0, keepdim=True), len(unmarked)
    mean = (total - unmarked) / (count - 1) if leave_out else total / count
    return marked.mean(0, keepdim=True) - mean


MODEL_ATTACKS: dict[str, ModelAttack] = {
    "autoencoder": partial(through_autoencoder, rounds=1),
    "autoencoder, 4 times": partial(through_autoencoder, rounds=4),
    "latent moved 1": partial(move_latent, pixels=1),
    "regeneration 0.1": partial(regenerate, strength=0.1),
    "regeneration 0.2": partial(regenerate, strength=0.2),
    "regeneration 0.3": partial(regenerate, strength=0.3),
    "rinsing, 2 × 0.1": partial(regenerate, strength=0.1, rounds=2),
    "rinsing, 4 × 0.1": partial(regenerate, strength=0.1, rounds=4),
    "adversarial 2/255": partial(adversarial, levels=2),
    "adversarial 4/255": partial(adversarial, levels=4),
    "adversarial 8/255": partial(adversarial, levels=8),
}
"""Name → attack. Strengths of regeneration are shares of 50 sampling steps."""

"""What a model does to fixed inputs, so that measurements can be bound to the model that they were made with."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

if TYPE_CHECKING:
    from inversion.model import LatentDiffusionModel
    from inversion.schedule import Schedule

SIZE = 128
TOLERANCE = 0.1
"""Relative distance up to which fingerprints are of one model: 16 bits stay below it, other weights do not."""


def digest_of(schedule: Schedule) -> str:
    """A short name of the noise levels that a sampler goes through, and of what its network predicts."""
    levels = [[round(v, 4) for v in (a.t, a.alpha, a.sigma)] for pair in schedule.steps for a in pair]
    return hashlib.sha256(json.dumps([schedule.kind, levels]).encode()).hexdigest()[:16]


@torch.no_grad()
def fingerprint(model: LatentDiffusionModel) -> NDArray[np.float32]:
    """(3 · SIZE,) what E, D and the network answer to fixed noise, each scaled to unit length.

    The noise is 16 × 16 latents, of one frame for videos, whatever the model's own size, to be quick.
    """
    g = torch.Generator().manual_seed(0)
    frames = (1,) if len(model.latent_shape) == 4 else ()
    z = torch.randn((1, model.latent_shape[0], *frames, 16, 16), generator=g, device="cpu").to(model.device)
    picture = z[:, :, 0] if frames and model.autoencoder.frame_factor is None else z
    x = model.autoencoder.decode(picture)
    t, _ = model.schedule(4, z.shape).steps[1]
    f = model.field(None, batch=1, guidance=1.0)(z, t.t, torch.zeros(1, dtype=torch.int64, device=z.device))
    return np.concatenate([sketch(a, g) for a in (model.autoencoder.encode(x), x, f)])


def sketch(a: Tensor, g: torch.Generator) -> NDArray[np.float32]:
    """(SIZE,) random projections of all numbers, of unit length together."""
    flat = a.flatten().float().cpu()
    p = torch.randn((SIZE, len(flat)), generator=g, device="cpu") @ flat
    return (p / p.norm()).numpy()


def same_model(a: NDArray[np.float32], b: NDArray[np.float32]) -> bool:
    """Whether two fingerprints are of the same model, in whatever precision."""
    return a.shape == b.shape and float(np.linalg.norm(a - b)) <= TOLERANCE * float(np.linalg.norm(b))

"""Latents of the pictures, computed once: a diffusion network is trained on nothing else."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from data.sapling.recipe import dataset

BATCH = 50


def encoder_digest(vae: AutoencoderKL) -> str:
    """A short name of the encoder's weights, whatever the decoder's are."""
    sha = hashlib.sha256()
    for name, values in vae.state_dict().items():
        if name.startswith(("encoder.", "quant_conv.")):
            sha.update(values.float().contiguous().numpy().tobytes())
    return sha.hexdigest()[:16]


@torch.no_grad()
def encoded(
    folder: Path, vae: AutoencoderKL, *, rescale: bool, bf16: bool = True
) -> tuple[NDArray[np.float16], NDArray[np.float16], float]:
    """Modes of all pictures' posteriors, (N, 2, C, h, w), as they are and mirrored, and the scaling factor.

    Those to train on come first, the held-out ones second. They are kept, with digests of encoder and pictures, and
    computed again if either is another.

    Args:
        folder: of the run.
        vae: the autoencoder.
        rescale: whether the scaling factor is to bring the latents to unit variance, for an encoder that was
            trained; else it is the autoencoder's own.
        bf16: whether to compute in bfloat16.
    """
    about = folder / "latents.json"
    of = {"encoder": encoder_digest(vae.eval()), "pictures": dataset.digest(folder / "data")}
    state: dict[str, Any] = json.loads(about.read_text(encoding="utf-8")) if about.exists() else {}
    if any(state.get(key) != value for key, value in of.items()):
        state = of | {"done": {}}
        dataset.replace(about, json.dumps(state))  # before any of those that were noted is written over
    for name in (dataset.TRAIN, dataset.HELD_OUT):
        pictures = dataset.load(folder / "data", name)
        path = folder / f"latents-{name}.npy"
        done = state["done"].get(name, 0) if path.is_file() else 0
        if done == len(pictures):
            continue
        side = pictures.pixels.shape[1] // 2 ** (len(vae.config.block_out_channels) - 1)
        shape = (len(pictures), 2, vae.config.latent_channels, side, side)
        file = dataset.array_file(path, np.float16, shape, anew=not done)
        for first in track(range(done, len(pictures), BATCH), f"latents, {name}", console=Console(stderr=True)):
            x = dataset.as_tensor(pictures.pixels[first : first + BATCH])
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                z = vae.encode(torch.cat([x, x.flip(-1)])).latent_dist.mode()
            file[first : first + BATCH] = z.float().unflatten(0, (2, -1)).transpose(0, 1).numpy()
            last = first + len(x)
            if last % dataset.EVERY == 0 or last == len(pictures):
                file.flush()
                state["done"][name] = last
                dataset.replace(about, json.dumps(state))
    train, held_out = (
        np.load(folder / f"latents-{name}.npy", mmap_mode="r") for name in (dataset.TRAIN, dataset.HELD_OUT)
    )
    own = float(vae.config.scaling_factor)
    scale = 1 / float(np.asarray(train[:2000], dtype=np.float32).std()) if rescale else own
    dataset.replace(about, json.dumps(state | {"scaling_factor": scale}))
    return train, held_out, scale

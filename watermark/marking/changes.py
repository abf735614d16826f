"""What raises the correlation of recovered noise with a key: changes of latents, and of pictures of any size."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from inversion import LatentDiffusionModel, sample
from inversion.pullback import pull_back
from watermark.features import key_spectrum
from watermark.keys import RingKey
from watermark.rings import rings_for

Pixels = NDArray[np.uint8]


def climbed(
    model: LatentDiffusionModel, z: Tensor, key: RingKey, wanted: Tensor, steps: int, chunk_size: int = 8
) -> Tensor:
    """The shortest change of latents (B, C, h, w) that raises ρ by what is wanted (B, 1, 1, 1), to first order."""
    _, slope = pull_back(model, z, lambda noise: correlation(noise, key), steps=steps, chunk_size=chunk_size)
    return wanted * slope / slope.square().sum((1, 2, 3), keepdim=True).clamp(min=1e-20)


@torch.no_grad()
def carried(model: LatentDiffusionModel, noise: Tensor, key: RingKey, wanted: Tensor, steps: int) -> Tensor:
    """The change of latents (B, C, h, w) that sampling makes of the shortest change of noise that raises ρ."""
    marks, bins = spectra(noise, key)
    size = bins.abs().square().sum((1, 2, 3), keepdim=True).sqrt()
    along = marks / marks.abs().square().sum().sqrt()
    rho = (bins * along.conj()).real.sum((1, 2, 3), keepdim=True) / size
    change = wanted * size / (1 - rho**2) * (along - rho * bins / size)
    moved = noise.clone()
    channels = list(rings_for(tuple(noise.shape), key.pattern).channels)
    moved[:, channels] += torch.fft.ifft2(change).real
    return sample(model, moved, steps=steps) - sample(model, noise, steps=steps)


def correlation(noise: Tensor, key: RingKey) -> Tensor:
    """ρ of noise (B, C, h, w) with a key, (B,), differentiable; as :func:`watermark.detection.detect` has it."""
    marks, bins = spectra(noise, key)
    energy = bins.abs().square().sum((1, 2, 3)).clamp(min=1e-20)
    return (bins * marks.conj()).real.sum((1, 2, 3)) / (energy * marks.abs().square().sum()).sqrt()


def spectra(noise: Tensor, key: RingKey) -> tuple[Tensor, Tensor]:
    """The key's values (channels, h, w), and the marked bins of noise (B, channels, h, w), else zero."""
    shape = tuple(noise.shape)
    rings = rings_for(shape, key.pattern)
    marks = torch.from_numpy(key_spectrum(key, shape)).to(noise.device, torch.complex64)
    inside = torch.from_numpy(rings.index >= 0).to(noise.device)
    return marks, torch.fft.fft2(noise[:, list(rings.channels)]) * inside


def changed(original: Pixels, change: Tensor, size: tuple[int, int]) -> Pixels:
    """A picture (H, W, 3) uint8 with a change (3, h, w) of what a model of a size sees of it, in units of [-1, 1].

    What it sees is the largest part of its own shape around the centre, see :func:`watermark.reading.fitting.fit`.
    """
    height, width = original.shape[:2]
    scale = min(height / size[0], width / size[1])
    sides = min(round(size[0] * scale), height), min(round(size[1] * scale), width)
    top, left = (height - sides[0]) // 2, (width - sides[1]) // 2
    if sides != tuple(change.shape[1:]):
        change = interpolate(change[None], size=sides, mode="bicubic", antialias=True)[0]
    out = original.copy()
    for row, added in enumerate(change.permute(1, 2, 0).numpy(), top):  # by rows, as pictures may be large
        own = out[row, left : left + sides[1]]
        own[:] = np.rint(own + 127.5 * added).clip(0, 255)
    return out

"""How generated pictures lie to held-out and to training ones: in distribution, and one by one."""

from __future__ import annotations

from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import avg_pool2d, conv2d

from benchmarks.quality_pictures import random_filters
from benchmarks.quality_tests import frechet, principal
from data.sapling.recipe import dataset
from watermark.features import Array

SCALES = (1, 2, 4)
"""Pictures are looked at in these fractions of their size."""

DIMENSIONS = 32
SMALL = 32
"""Side, in pixels, at which pictures are compared one by one."""

MANY, CHUNK, ACROSS = 50, 500, 8


@torch.no_grad()
def textures(x: Tensor) -> Array:
    """What random convolutions see in pictures (n, 3, H, W) at several scales, and their colours, (n, d)."""
    found = []
    for part in x.split(8):
        scaled = [avg_pool2d(part, scale) for scale in SCALES]
        energies = [torch.log(conv2d(s, random_filters()).square().mean((2, 3)) + 1e-6) for s in scaled]
        found.append(torch.cat([*energies, part.mean((2, 3)), part.std((2, 3))], dim=1))
    return torch.cat(found).double().numpy()


def frechet_distances(pictures: Tensor, held_out: Tensor, train: Tensor) -> dict[str, Any]:
    """Fréchet distance of generated pictures from held-out ones, and that of as many training pictures.

    Features are :func:`textures`, reduced to the main directions of the held-out pictures, of unit variance there:
    no network has to be downloaded. Not to be compared with FID; it says little about whether objects are right.
    """
    reference = textures(held_out)
    look = principal(reference, max(2, min(DIMENSIONS, len(reference) // 4)))
    return {
        "pictures": len(pictures),
        "generated": frechet(look(textures(pictures)), look(reference)),
        "training pictures": frechet(look(textures(train)), look(reference)),
    }


def small(x: Tensor) -> Tensor:
    """Pictures (n, 3, S, S) → (n, 3 SMALL²)."""
    return avg_pool2d(x, max(1, x.shape[-1] // SMALL)).flatten(1)


def closest(x: Tensor, train: dataset.Pictures) -> tuple[Tensor, Tensor]:
    """Distance (n,) of pictures (n, 3, S, S) to the nearest training picture, mirrored or not, and its row (n,).

    Relative to the mean distance to the MANY nearest ones: without that, a picture is near to others just because
    it is smooth or gray (Carlini et al. 2023, https://arxiv.org/abs/2301.13188).
    """
    own = small(x)
    best, row = torch.empty(len(x), 0), torch.zeros(len(x), dtype=torch.int64)
    for first in range(0, len(train), CHUNK):
        others = dataset.as_tensor(train.pixels[first : first + CHUNK])
        distance = torch.minimum(*(torch.cdist(own, small(seen)) for seen in (others, others.flip(-1))))
        nearest, at = distance.min(1)
        row = torch.where(nearest < best[:, 0], first + at, row) if first else at
        best = torch.cat([best, distance], 1)
        best = best.topk(min(MANY, best.shape[1]), largest=False).values
    return best[:, 0] / best.mean(1), row


def compared(own: Tensor, others: Tensor) -> dict[str, Any]:
    """Distances to the nearest training pictures, of generated pictures (n,) and of held-out ones (m,).

    A network that merely memorised would be much closer than held-out pictures are.
    """
    levels = [0.0, 0.05, 0.5]
    return {
        "quantiles": levels,
        "generated": own.quantile(torch.tensor(levels)).tolist(),
        "held out": others.quantile(torch.tensor(levels)).tolist(),
        "closer than 99 % of held out": float((own < others.quantile(0.01)).float().mean()),
    }


def draw(pictures: Tensor, train: dataset.Pictures, distances: Tensor, rows: Tensor) -> Image.Image:
    """The pictures that are nearest to a training one, with that below each, as :func:`closest` found them."""
    shown = distances.argsort()[: 2 * ACROSS]
    above = ((pictures[shown] + 1) * 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).contiguous().numpy()
    below = train.pixels[rows[shown].numpy()]
    side = above.shape[1]
    sheet = Image.new("RGB", (ACROSS * side, -(-len(shown) // ACROSS) * 2 * side))
    for i, two in enumerate(zip(above, below, strict=True)):
        for j, picture in enumerate(two):
            sheet.paste(Image.fromarray(picture), (i % ACROSS * side, (i // ACROSS * 2 + j) * side))
    return sheet

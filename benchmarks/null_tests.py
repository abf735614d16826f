"""The null noise of :mod:`benchmarks.calibration`, and p of our tests on it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.null_images import FAMILIES, PHOTOGRAPHS, SEED, photograph_of, secret_key
from inversion.fingerprint import fingerprint
from watermark.calibration import Calibration
from watermark.detection import TINY, angle_test, detect
from watermark.features import Array
from watermark.foreign import ArrayKey, conjugate_bins, coordinates
from watermark.keys import Pattern
from watermark.published_keys import constant_ring_key, tree_ring_key
from watermark.search import key_matrix, search_vectors
from watermark.transforms import IDENTITY, Transform, plain_transforms
from watermark.verify import Verifier
from watermark.views import views

Rows = NDArray[np.int64]

WHITE = "white noise"
OURS = ("dense", "rings", "levels")
CHUNK = 96
"""Images searched at once."""


@dataclass(frozen=True)
class Nulls:
    """Null noise of all families.

    Attributes:
        noise: (n, C, h, w), the images before the white noise.
        families: (n,) family of each.
        units: (n,) what is independent of each other within a family: images, or photographs.
        images: whitening and counts are of these, all but the white noise.
    """

    noise: Array
    families: NDArray[np.str_]
    units: Rows
    images: Calibration

    def of(self, family: str) -> Rows:
        """Positions of a family."""
        return np.flatnonzero(self.families == family)


@dataclass(frozen=True)
class Test:
    """P of every null and key, (n, K), NaN where it is not tried; none can be below ``smallest``."""

    name: str
    p: Array
    smallest: float = 0.0


def nulls_of(noise: Mapping[str, NDArray[np.float32]], verifier: Verifier) -> Nulls:
    """The recovered noise, with white noise behind it."""
    shape = verifier.model.latent_shape
    white = np.random.default_rng(SEED).standard_normal((max(len(noise[f]) for f in FAMILIES), *shape))
    parts = [*(noise[f].astype(np.float64) for f in FAMILIES), white]
    names = [name for name, part in zip((*FAMILIES, WHITE), parts, strict=True) for _ in part]
    total = sum(map(len, PHOTOGRAPHS.values()))
    units = [
        [photograph_of(i, total) for i in range(len(part))] if name == "photographs" else np.arange(len(part))
        for name, part in zip((*FAMILIES, WHITE), parts, strict=True)
    ]
    images = np.concatenate(parts[:-1]).astype(np.float16)
    calibration = Calibration(verifier.settings, fingerprint(verifier.model), images, tuple(names[: len(images)]))
    return Nulls(np.concatenate(parts), np.array(names), np.concatenate(units), calibration)


def their_keys(kind: str, count: int, shape: tuple[int, ...]) -> list[ArrayKey]:
    """Keys of tree-ring code, the defaults there, or the four of constant rings, in proportion to the latent."""
    square = (shape[0], shape[1], shape[2])
    if kind == "tree-ring":
        return [tree_ring_key(seed, square, pattern="ring", channel=3, radius=10) for seed in range(count)]
    level = 80 * shape[-1] / 64
    return [constant_ring_key(number, square, level=level) for number in range(min(count, 4))]


def tests(nulls: Nulls, count: int) -> Iterator[Test]:
    """Our tests, with so many keys of every kind; names are keys | how | where."""
    shape = nulls.noise.shape[1:]
    places = {"alone": IDENTITY, "searched": plain_transforms(shape)}
    for kind in OURS:
        pattern = Pattern(kind)
        directions = key_matrix([secret_key("tested", i, kind) for i in range(count)], (1, *shape))
        halves = [(own, nulls.images.whitening(pattern, other)) for own, other in nulls.images.halves()]
        scales: dict[str, list[tuple[Rows, Array | None]]] = {
            "as it is": [(np.arange(len(nulls.noise)), None)],
            "whitened": [(own, scale) for own, scale in halves],
        }
        for how, parts in scales.items():
            for where, transforms in places.items():
                yield Test(f"{kind} | {how} | {where}", our_p(nulls.noise, directions, pattern, transforms, parts))
    halves_of_images = list(nulls.images.halves())
    smallest = 1 / (1 + min(len(other) for _, other in halves_of_images))
    zeros = detect(nulls.noise, secret_key("tested", 0, "zeros")).p_value[:, None]
    yield Test("zeros | as it is | alone", zeros)
    yield Test("zeros | counted | alone", counted(zeros, halves_of_images), smallest)
    for kind in ("tree-ring", "constant rings"):
        keys = their_keys(kind, count, shape)
        for where, transforms in places.items():
            p = their_p(nulls.noise, keys, transforms)
            yield Test(f"{kind} | as it is | {where}", p)
            yield Test(f"{kind} | counted | {where}", counted(p, halves_of_images), smallest)


def our_p(
    noise: Array,
    directions: Array,
    pattern: Pattern,
    transforms: Sequence[Transform],
    parts: Sequence[tuple[Rows, Array | None]],
) -> Array:
    """P (n, K) of keys (K, d) as the library has it, corrected for transformations; parts have their whitening."""
    p = np.full((len(noise), len(directions)), np.nan)
    for rows, whitening in parts:
        for chunk in np.array_split(rows, -(-len(rows) // CHUNK)):
            matches = search_vectors(noise[chunk], directions, pattern, transforms, whitening)
            p[chunk] = [match.per_key for match in matches]
    return p


def their_p(noise: Array, keys: Sequence[ArrayKey], transforms: Sequence[Transform]) -> Array:
    """P (n, K) of :func:`watermark.foreign.detect_array`, times the transformations.

    The keys have one mask, and are tested as if nobody knew how they were drawn.
    """
    where = keys[0].mask | conjugate_bins(keys[0].mask.astype(np.complex128)).real.astype(bool)
    flat = np.arange(where[0].size).reshape(where.shape[1:])
    twin = np.roll(flat[::-1, ::-1], 1, axis=(0, 1))
    pairs, own = where & (flat < twin), where & (flat == twin)
    k = coordinates(np.stack([key.mark for key in keys]), pairs, own)
    k /= np.linalg.norm(k, axis=1, keepdims=True)
    cosine = np.full((len(noise), len(keys)), -np.inf)
    for view in views(noise, transforms):
        y = coordinates(np.fft.fft2(view), pairs, own)
        cosine = np.maximum(cosine, (y / np.linalg.norm(y, axis=1, keepdims=True)) @ k.T)
    return np.minimum(1.0, len(transforms) * np.maximum(angle_test(cosine, k.shape[1])[1], TINY))


def counted(score: Array, parts: Sequence[tuple[Rows, Rows]]) -> Array:
    """(1 + how many nulls score as low) / (1 + nulls), of scores (n, K), for parts (own, nulls)."""
    p = np.full(score.shape, np.nan)
    for own, other in parts:
        for k in range(score.shape[1]):
            hits = np.searchsorted(np.sort(score[other, k]), score[own, k], side="right")
            p[own, k] = (1 + hits) / (1 + len(other))
    return p

"""Image → verdict: the only place where the whole chain meets.

pixels → :func:`inversion.invert_decoder` → z_0 → :func:`inversion.invert_diffusion` → z_T → :func:`detect`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from inversion import LatentDiffusionModel, invert_decoder, invert_diffusion
from inversion.fingerprint import fingerprint
from watermark.calibration import Calibration, Settings, false_positives
from watermark.detection import detect
from watermark.images import ImageError, Picture, fit, from_image, read_picture, why_inconclusive
from watermark.keys import Pattern, RingKey
from watermark.search import IDENTITY, Transform, key_matrix, search_vectors

WATERMARKED, NOT_DETECTED = "watermarked", "not_detected"
INCONCLUSIVE, UNREADABLE = "inconclusive", "unreadable"


@dataclass(frozen=True)
class Verdict:
    """What can be said about one image.

    Attributes:
        name: the path that was read, or ``image 0``, ``image 1`` … for images in memory.
        status: ``watermarked``, ``not_detected``, ``inconclusive`` or ``unreadable``.
        key: name of the key that fits best, if a test was made.
        p_value: its p-value, times the number of keys and transformations tried (Bonferroni), at most 1; None
            without a test.
        rho: correlation of the marked Fourier bins with that key, about 0.7 for an unharmed mark; None without a
            test.
        keys_tried: number of keys that p_value is corrected for.
        transforms_tried: number of transformations that it is corrected for.
        transform: what was undone to see the key, in words; empty for nothing.
        null_hits: how many null images of the calibration fit this key as well, as they are, nothing undone; None
            without a calibration.
        null_images: how many there are.
        fpr_bound: so the rate at which this key alone is found in such images, at this fit and nothing undone, is
            at most this, at 95 % confidence. Larger than p_value unless there are very many.
        reason: why there is no verdict, or empty.
        warnings: what was not plain about the file, and how it was fitted to the model.
        sha256: of the file's bytes, or empty.
    """

    name: str
    status: str
    key: str | None = None
    p_value: float | None = None
    rho: float | None = None
    keys_tried: int = 0
    transforms_tried: int = 0
    transform: str = ""
    null_hits: int | None = None
    null_images: int | None = None
    fpr_bound: float | None = None
    reason: str = ""
    warnings: tuple[str, ...] = ()
    sha256: str = ""


@dataclass(frozen=True)
class Verifier:
    """Tests images for keys.

    Args:
        model: the model that the images may have been generated with.
        keys: the keys to look for, by name.
        fpr: an image is called ``watermarked`` if its corrected p-value is at most this. The p-value is exact for
            white Gaussian noise; recovered noise is only nearly so, which is why the default is strict.
        steps: DDIM inversion steps.
        decoder: decoder inversion method, see :func:`inversion.invert_decoder`.
        batch_size: images that go through the networks together.
        transforms: what may have been done to an image since it was generated; each is undone on the recovered
            noise, and p corrected for their number. See :func:`watermark.search.transforms_of`.
        calibration: what noise without a mark looks like; whitens the test, and has the key's false positives
            counted.

    Raises:
        ValueError: if the model makes videos, there are no keys, a number is out of range, or the calibration was
            made for something else.
    """

    model: LatentDiffusionModel
    keys: Mapping[str, RingKey]
    fpr: float = 1e-6
    steps: int = 10
    decoder: str = "anderson"
    batch_size: int = 8
    transforms: tuple[Transform, ...] = IDENTITY
    calibration: Calibration | None = None

    def __post_init__(self) -> None:
        if len(self.model.latent_shape) != 3:
            raise ValueError(f"{self.model.name!r} is a model of videos, and only pictures can be verified")
        if not self.keys:
            raise ValueError("keys must name at least one key")
        if not 0 < self.fpr < 1:
            raise ValueError(f"fpr must be between 0 and 1, got {self.fpr}")
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {self.batch_size}")
        if not self.transforms:
            raise ValueError("transforms must hold at least one, Transform() for none")
        if self.calibration is not None:
            self.calibration.check(self.settings, fingerprint(self.model))

    @property
    def settings(self) -> Settings:
        """How noise is recovered: what a calibration is bound to."""
        return Settings(self.model.name, self.model.latent_shape, self.steps, self.decoder)

    def verify(self, images: Iterable[str | Path | Image.Image]) -> Iterator[Verdict]:
        """One verdict for each image, in order, a batch at a time. No image's fault stops the others."""
        for verdict, _ in self.examine(images):
            yield verdict

    def examine(self, images: Iterable[str | Path | Image.Image]) -> Iterator[tuple[Verdict, Tensor | None]]:
        """Like :meth:`verify`, together with the recovered noise (C, h, w) of every image that was tested."""
        numbered = enumerate(images)
        while batch := [self._read(i, image) for i, image in islice(numbered, self.batch_size)]:
            tested = iter(self._test([item for item in batch if isinstance(item, Opened)]))
            for item in batch:
                yield next(tested) if isinstance(item, Opened) else (item, None)

    def recover_noise(self, x: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) float32 in [-1, 1] → recovered initial noise (B, C, h, w) float32.

        A sample whose latents overflow, as they may in fp16, comes back as NaN and leaves the others alone.
        """
        x = x.to(self.model.device)
        z_0 = invert_decoder(self.model.autoencoder, x, method=self.decoder, chunk_size=self.batch_size).value
        finite = torch.isfinite(z_0).flatten(1).all(1)[:, None, None, None]
        z_T = invert_diffusion(self.model, torch.where(finite, z_0, 0.0), steps=self.steps).value
        return torch.where(finite, z_T, torch.nan)

    def _read(self, number: int, image: str | Path | Image.Image) -> Opened | Verdict:
        in_memory = isinstance(image, Image.Image)
        name = f"image {number}" if in_memory else str(image)
        try:
            picture = from_image(image) if isinstance(image, Image.Image) else read_picture(image)
        except ImageError as error:
            return Verdict(name, UNREADABLE, reason=f"{error.code}: {error}")
        reason = why_inconclusive(picture, self.model.image_size)
        if reason is not None:
            return Verdict(name, INCONCLUSIVE, reason=reason, warnings=picture.warnings, sha256=picture.sha256)
        return Opened(name, picture)

    def _test(self, opened: list[Opened]) -> list[tuple[Verdict, Tensor]]:
        if not opened:
            return []
        fitted = [fit(item.picture, self.model.image_size) for item in opened]
        z_T = self.recover_noise(torch.stack([x for x, _ in fitted])).cpu()
        sound = torch.isfinite(z_T).flatten(1).all(1)
        found = iter(self._search(z_T[sound].numpy()))
        return [
            (
                self._verdict(item, next(found) if sound[i] else None, item.picture.warnings + fitted[i][1]),
                z_T[i],
            )
            for i, item in enumerate(opened)
        ]

    @cached_property
    def _null_p(self) -> dict[str, NDArray[np.float64]]:
        """P of all null images for the keys that were asked for so far."""
        return {}

    @cached_property
    def _by_pattern(self) -> tuple[Group, ...]:
        """The keys of every pattern."""
        shape = (1, *self.model.latent_shape)
        groups: dict[Pattern, list[str]] = {}
        for name, key in self.keys.items():
            groups.setdefault(key.pattern, []).append(name)
        return tuple(
            Group(
                pattern,
                tuple(names),
                key_matrix([self.keys[name] for name in names], shape),
                None
                if self.calibration is None or pattern.kind == "zeros"
                else self.calibration.whitening(pattern),
            )
            for pattern, names in groups.items()
        )

    def _search(self, z: NDArray[np.floating]) -> list[Found]:
        """The best of all keys through all transformations, for noise (B, C, h, w), B ≥ 0."""
        best = [Found("", 2.0, 0.0, "")] * len(z)
        for group in self._by_pattern if len(z) else ():
            if group.pattern.kind == "zeros":
                test = detect(z, self.keys[group.names[0]])
                fits = [Found(group.names[0], p, r, "") for p, r in zip(test.p_value, test.rho, strict=True)]
            else:
                matches = search_vectors(
                    z.astype(np.float64), group.directions, group.pattern, self.transforms, group.whitening
                )
                fits = [
                    Found(group.names[m.key], m.single_p_value, m.rho, str(self.transforms[m.transform]))
                    for m in matches
                ]
            best = [min(pair, key=lambda f: f.p_value) for pair in zip(best, fits, strict=True)]
        return best

    def _verdict(self, item: Opened, found: Found | None, notes: tuple[str, ...]) -> Verdict:
        digest = item.picture.sha256
        if found is None:
            reason = "the recovered noise is not finite; try --dtype fp32"
            return Verdict(item.name, INCONCLUSIVE, reason=reason, warnings=notes, sha256=digest)
        family = len(self.keys) * len(self.transforms)
        corrected = min(1.0, float(found.p_value) * family)
        nulls = None
        if self.calibration is not None:
            if found.key not in self._null_p:
                self._null_p[found.key] = self.calibration.null_p_values(self.keys[found.key])
            nulls = false_positives(self._null_p[found.key], float(found.p_value))
        return Verdict(
            name=item.name,
            status=WATERMARKED if corrected <= self.fpr else NOT_DETECTED,
            key=found.key,
            p_value=corrected,
            rho=float(found.rho),
            keys_tried=len(self.keys),
            transforms_tried=len(self.transforms),
            transform=found.transform,
            null_hits=None if nulls is None else nulls.hits,
            null_images=None if nulls is None else nulls.images,
            fpr_bound=None if nulls is None else nulls.bound,
            warnings=notes,
            sha256=digest,
        )


@dataclass(frozen=True)
class Group:
    """Keys of one pattern, their directions (N, d), and what their coordinates are divided by."""

    pattern: Pattern
    names: tuple[str, ...]
    directions: NDArray[np.float64]
    whitening: NDArray[np.float64] | None


@dataclass(frozen=True)
class Found:
    """The key that fits best, its p-value alone, ρ, and what was undone."""

    key: str
    p_value: float
    rho: float
    transform: str


@dataclass(frozen=True)
class Opened:
    """An image that was read and can be tested."""

    name: str
    picture: Picture

"""Image → verdict: the only place where the whole chain meets.

pixels → :func:`inversion.invert_decoder` → z_0 → :func:`inversion.invert_diffusion` → z_T → :func:`detect`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from inversion import LatentDiffusionModel, invert_decoder, invert_diffusion
from inversion.decoder import STEPS
from inversion.diffusion import choose
from inversion.embedded import sapling_folder
from inversion.fingerprint import digest_of, fingerprint
from watermark.calibration import Calibration, CalibrationError, Settings
from watermark.detection import detect
from watermark.family import Family, Finding
from watermark.foreign import ArrayKey, detect_array
from watermark.keys import Pattern, RingKey
from watermark.numbered import Confirmation, confirm
from watermark.reading.decoding import Decoded, decoded
from watermark.reading.fitting import as_tensor
from watermark.transforms import UNCHANGED, Transform, plain_transforms
from watermark.verdict import INCONCLUSIVE, WATERMARKED, Verdict
from watermark.views import undo

ANYBODY = "a key of zeros says that an image is marked, not by whom"
NOT_FINITE = "the recovered noise is not finite; try --dtype fp32"
MOST_NUMBERS = 1_000_000
WAITING = 1000  # verdicts that wait, at most, until a batch is full


@dataclass(frozen=True)
class Verifier:
    """Tests images for keys.

    Args:
        model: the model that the images may have been generated with.
        keys: the keys to look for, by name; those of other code, too, see :mod:`watermark.foreign`.
        fpr: an image is called ``watermarked`` if its corrected p-value is at most this, and no count of null
            images speaks against it. How far that can be relied on is the verdict's ``evidence``.
        steps: of diffusion inversion.
        decoder: decoder inversion method, see :func:`inversion.invert_decoder`. ``shrinkage``, the default, goes
            back towards the encoder's latent where a picture seems changed since; ``anderson`` does not.
        batch_size: images that go through the networks together.
        transforms: what may have been done to an image since it was generated; each is undone on the recovered
            noise, and p corrected for their number, see :mod:`watermark.transforms`. None is
            mirroring and turning by right angles.
        calibration: what noise without a mark looks like; whitens the test, and has the keys' false positives
            counted. See :func:`with_calibration` for that of a model.
        numbers: if a key is found, which of its pictures with these numbers it is, see
            :mod:`watermark.numbered`; empty for pictures whose noise was not numbered.
        workers: processes that read files while the networks run, see
            :func:`watermark.reading.decoding.decoded`; with 0 the calling process reads them, in turn with the
            networks and without bounds on time and memory.

    What an image's batch holds and the number of threads change its noise as much as rounding does: p by less than
    a hundredth of itself for Sapling in fp32.

    Raises:
        ValueError: if the model makes videos, there are no keys, a number is out of range, or the calibration was
            made for something else.
    """

    model: LatentDiffusionModel
    keys: Mapping[str, RingKey | ArrayKey]
    fpr: float = 1e-6
    steps: int = 10
    decoder: str = "shrinkage"
    batch_size: int = 8
    transforms: tuple[Transform, ...] | None = None
    calibration: Calibration | None = None
    numbers: Sequence[int] = ()
    workers: int = 0

    def __post_init__(self) -> None:
        if len(self.model.latent_shape) != 3:
            raise ValueError(f"{self.model.name!r} is a model of videos, and only pictures can be verified")
        object.__setattr__(self, "keys", MappingProxyType(dict(self.keys)))  # the caller's may change
        if not self.keys:
            raise ValueError("keys must name at least one key that fits the model")
        if not 0 < self.fpr < 1:
            raise ValueError(f"fpr must be between 0 and 1, got {self.fpr}")
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {self.batch_size}")
        if self.workers < 0:
            raise ValueError(f"workers must be at least 0, got {self.workers}")
        for name, key in self.keys.items():
            problem = why_unfit(key, self.model.latent_shape)
            if problem is not None:
                raise ValueError(f"the key {name!r} does not fit the model: {problem}")
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}")
        if self.decoder not in STEPS:
            raise ValueError(f"decoder must be one of {', '.join(map(repr, STEPS))}, got {self.decoder!r}")
        if len(self.numbers) > MOST_NUMBERS or min(self.numbers, default=0) < 0:
            raise ValueError(f"numbers must be at least 0, and at most {MOST_NUMBERS:,} of them")
        if self.transforms is not None and not self.transforms:
            raise ValueError("transforms must hold at least one, Transform() for none")
        if self.calibration is not None:
            self.calibration.check(self.settings, fingerprint(self.model))

    @property
    def settings(self) -> Settings:
        """How noise is recovered: what a calibration is bound to."""
        schedule = self.model.schedule(self.steps, (1, *self.model.latent_shape))
        return Settings(
            model=self.model.name,
            latent_shape=self.model.latent_shape,
            steps=self.steps,
            decoder=self.decoder,
            diffusion=choose(schedule),
            schedule=digest_of(schedule),
        )

    def prepare(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Look for the keys in the null images of the calibration now, instead of with the first image.

        Args:
            progress: called with the number of null images done and that of all.
        """
        self._family.count(progress)

    def verify(self, images: Iterable[str | Path | Image.Image]) -> Generator[Verdict, None, None]:
        """One verdict for each image, in order, a batch at a time. No image's fault stops the others.

        Closing the generator ends the workers.
        """
        with closing(self.examine(images)) as examined:
            yield from (one.verdict for one in examined)

    def examine(self, images: Iterable[str | Path | Image.Image]) -> Generator[Examined, None, None]:
        """Like :meth:`verify`, together with the recovered noise of every image that was tested."""
        waiting: list[Decoded] = []
        sound = 0
        with closing(decoded(images, self.model.image_size, workers=self.workers)) as read:
            for item in read:
                waiting.append(item)
                sound += item.status is None
                if sound in (0, self.batch_size) or len(waiting) >= WAITING + self.batch_size:
                    yield from self._examined(waiting)
                    waiting, sound = [], 0
        yield from self._examined(waiting)

    def recover_noise(self, x: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) float32 in [-1, 1] → recovered initial noise (B, C, h, w) float32.

        A sample whose latents overflow, as they may in fp16, comes back as NaN and leaves the others alone.
        """
        return self.recover(x)[1]

    def recover(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The latents that :meth:`recover_noise` recovers the noise from, as they came, and the noise."""
        x = x.to(self.model.device)
        z_0 = invert_decoder(self.model.autoencoder, x, method=self.decoder, chunk_size=self.batch_size).value
        finite = torch.isfinite(z_0).flatten(1).all(1)[:, None, None, None]
        z_T = invert_diffusion(self.model, torch.where(finite, z_0, 0.0), steps=self.steps).value
        return z_0, torch.where(finite, z_T, torch.nan)

    def _examined(self, batch: list[Decoded]) -> list[Examined]:
        """What can be said about images that were read, at most one batch of them to be tested."""
        tested = iter(self._test([item for item in batch if item.status is None]))
        return [next(tested) if item.status is None else Examined(untested(item)) for item in batch]

    def _test(self, opened: list[Decoded]) -> list[Examined]:
        if not opened:
            return []
        z_T = self.recover_noise(as_tensor([item.pixels for item in opened if item.pixels is not None])).cpu()
        sound = torch.isfinite(z_T).flatten(1).all(1)
        findings = self._family.test(z_T[sound].numpy())
        found = iter(zip(findings, self._which_pictures(findings, z_T[sound].numpy()), strict=True))
        out = []
        for item, z, is_sound in zip(opened, z_T, sound, strict=True):
            finding, which = next(found) if is_sound else (None, None)
            transform = UNCHANGED if finding is None else finding.transform
            out.append(Examined(self._verdict(item, finding, which), z, transform))
        return out

    def _which_pictures(self, findings: list[Finding], z: NDArray[np.float32]) -> list[Confirmation | None]:
        """Which numbered pictures of the found keys these samples (n, C, h, w) are; None where nothing is asked."""
        out: list[Confirmation | None] = [None] * len(findings)
        for name in {f.key for f in findings if self.numbers and f.status == WATERMARKED}:
            key = self.keys[name]
            rows = [i for i, f in enumerate(findings) if f.key == name and f.status == WATERMARKED]
            if isinstance(key, RingKey):
                views = [undo(z[i : i + 1].astype(np.float64), findings[i].transform) for i in rows]
                for i, confirmation in zip(rows, confirm(np.concatenate(views), key, self.numbers), strict=True):
                    out[i] = confirmation
        return out

    @cached_property
    def _family(self) -> Family:
        transforms = plain_transforms(self.model.latent_shape) if self.transforms is None else self.transforms
        return Family(self.keys, transforms, self.model.latent_shape, self.fpr, self.calibration)

    def _verdict(self, item: Decoded, found: Finding | None, which: Confirmation | None) -> Verdict:
        if found is None:
            return untested(replace(item, status=INCONCLUSIVE, reason=NOT_FINITE))
        key = self.keys[found.key]
        return Verdict(
            name=item.name,
            status=found.status,
            key=found.key,
            p_value=found.p_value,
            rho=found.rho,
            evidence=found.evidence,
            keys_tried=len(self.keys),
            transforms_tried=found.transforms_tried,
            transform=str(found.transform),
            fpr=self.fpr,
            other_keys=found.other_keys,
            null_hits=None if found.nulls is None else found.nulls.hits,
            null_images=None if found.nulls is None else found.nulls.images,
            fpr_bound=None if found.nulls is None else found.nulls.bound,
            number=None if which is None or which.p_value > self.fpr else which.number,
            correlation=None if which is None else which.correlation,
            number_p_value=None if which is None else which.p_value,
            reason=found.reason,
            warnings=item.warnings
            + ((ANYBODY,) if isinstance(key, RingKey) and key.pattern.kind == "zeros" else ()),
            sha256=item.sha256,
        )


def untested(item: Decoded) -> Verdict:
    """The verdict on an image that was not tested."""
    reason = item.reason or ""
    return Verdict(item.name, item.status or "", reason=reason, warnings=item.warnings, sha256=item.sha256)


def why_unfit(key: RingKey | ArrayKey, shape: tuple[int, ...]) -> str | None:
    """Why a key cannot be looked for in noise (C, h, w), found by trying it; None if it can."""
    if isinstance(key, RingKey):
        return why_unfit_pattern(key.pattern, shape)
    if key.values.shape != shape:
        return f"it is made for latents of {key.values.shape}, not {shape}"
    try:
        detect_array(example(shape), key)
    except ValueError as error:
        return str(error)
    return None


@lru_cache(maxsize=64)
def why_unfit_pattern(pattern: Pattern, shape: tuple[int, ...]) -> str | None:
    """The same for all keys of a pattern, of which one is tried."""
    try:
        detect(example(shape), RingKey(bytes(32), pattern))
    except ValueError as error:
        return str(error)
    return None


def example(shape: tuple[int, ...]) -> NDArray[np.float64]:
    """White noise (1, C, h, w), always the same."""
    return np.random.default_rng(0).standard_normal((1, *shape))


def calibration_file(model: LatentDiffusionModel) -> Path:
    """Where the calibration of a model is looked for: in its folder, for the embedded model and local ones."""
    return (sapling_folder() if model.name == "sapling" else Path(model.name)) / "calibration.safetensors"


def with_calibration(verifier: Verifier) -> Verifier:
    """The verifier with the calibration of its model, as it is if there is none, or one for other settings.

    Raises:
        CalibrationError: if it is damaged, or of a newer version.
    """
    file = calibration_file(verifier.model)
    if not file.is_file():
        return verifier
    found = Calibration.load(file)
    try:
        return replace(verifier, calibration=found)
    except CalibrationError:
        return verifier


@dataclass(frozen=True)
class Examined:
    """A verdict and what it rests on.

    Attributes:
        verdict: the verdict.
        noise: (C, h, w) float32 recovered noise, as it came, also where it is not finite; None without any.
        transform: what has to be undone in it to see the key.
    """

    verdict: Verdict
    noise: Tensor | None = None
    transform: Transform = UNCHANGED

"""What recovered noise looks like without a mark: for whitening, and for rates that were counted, not assumed.

A calibration keeps the noise recovered from null images, with one model and one way of inverting. So any key can be
tried on all of them, the very key in use, and its false positives counted, with the Clopper–Pearson bound that so
many images support. It is bound to the settings, and to the model by what that does to fixed inputs.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from scipy import stats

from inversion.fingerprint import same_model
from watermark.features import Array, groups, noise_vector
from watermark.files import appearing, regular
from watermark.keys import Pattern
from watermark.rings import rings_for

VERSION = 1
CONFIDENCE = 0.95


class CalibrationError(ValueError):
    """A calibration is damaged, of a newer version, or made for something else; the message says which."""


@dataclass(frozen=True)
class Settings:
    """How noise was recovered.

    Attributes:
        model: the model's name, for people.
        latent_shape: (C, h, w).
        steps: of diffusion inversion.
        decoder: method of decoder inversion.
        diffusion: method of diffusion inversion.
        schedule: digest of the noise levels, see :func:`inversion.fingerprint.digest_of`.
    """

    model: str
    latent_shape: tuple[int, ...]
    steps: int
    decoder: str
    diffusion: str
    schedule: str


@dataclass(frozen=True)
class Rate:
    """How many null images are taken for marked.

    Attributes:
        hits: false positives.
        images: null images.
        bound: the rate is at most this for images like these, at 95 % confidence (Clopper–Pearson).
        least: and at least this, at 95 % confidence.
    """

    hits: int
    images: int
    bound: float
    least: float


@dataclass(frozen=True)
class Calibration:
    """Noise recovered from null images.

    Args:
        settings: how.
        fingerprint: (d,) float32, of the model, see :mod:`inversion.fingerprint`.
        noise: (n, C, h, w) float16, n ≥ 2.
        families: (n,) what kind of null image each is from.
        sources: (n,) which image each is from, or empty; so that none is used twice.

    Raises:
        CalibrationError: if the parts do not fit together or are not finite.
    """

    settings: Settings
    fingerprint: NDArray[np.float32] = field(repr=False)
    noise: NDArray[np.float16] = field(repr=False)
    families: tuple[str, ...] = field(repr=False)
    sources: tuple[str, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        n = len(self.families)
        if n < 2 or self.noise.shape != (n, *self.settings.latent_shape):
            raise CalibrationError(
                f"noise of shape {self.noise.shape} does not fit {n} images, at least 2, of "
                f"{self.settings.latent_shape}"
            )
        if len(self.sources) not in (0, n):
            raise CalibrationError(f"there are {len(self.sources)} sources for {n} images")
        repeated = [source for source, times in Counter(self.sources).items() if source and times > 1]
        if repeated:
            raise CalibrationError(f"{len(repeated)} null images are there more than once, such as {repeated[0]!r}")
        if not (np.isfinite(self.noise).all() and np.isfinite(self.fingerprint).all()):
            raise CalibrationError("noise and fingerprint must be finite")

    @property
    def counts(self) -> dict[str, int]:
        """How many images of every family there are."""
        return dict(Counter(self.families))

    @property
    def smallest_level(self) -> float:
        """The lowest false positive rate that so many images can support: the bound if none of them is one."""
        return float(1 - (1 - CONFIDENCE) ** (1 / len(self.families)))

    def whitening(self, pattern: Pattern, rows: Sequence[int] | NDArray[np.int64] | None = None) -> Array:
        """(channels, radii) by what :func:`watermark.detection.detect` divides: RMS over images of unit energy.

        Args:
            pattern: whose coordinates are to be white; not ``zeros``.
            rows: of which images; None is all.
        """
        noise = self.noise if rows is None else self.noise[rows]
        rings = rings_for(noise.shape, pattern)
        y, _ = noise_vector(noise.astype(np.float64), pattern)
        power = y**2 / np.maximum((y**2).mean(1, keepdims=True), np.finfo(np.float64).tiny)
        number = groups(noise.shape, pattern)
        mean = np.bincount(number, power.mean(0)) / np.bincount(number)
        return np.sqrt(mean).reshape(len(rings.channels), len(rings.radii))

    def halves(self) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Positions of one half of the images, every second pair, and of the other; then the other way round."""
        second = np.arange(len(self.families)) // 2 % 2 == 1
        if len(second) < 4:
            second = np.arange(len(second)) % 2 == 1
        for own in (~second, second):
            yield np.flatnonzero(own), np.flatnonzero(~own)

    def check(self, settings: Settings, fingerprint: NDArray[np.float32]) -> None:
        """Raise CalibrationError unless it was made like this, with this model."""
        for name, made in asdict(self.settings).items():
            now = asdict(settings)[name]
            if name != "model" and made != now:
                raise CalibrationError(f"the calibration was made with {name} {made}, not {now}")
        if not same_model(self.fingerprint, fingerprint):
            raise CalibrationError(f"the calibration was made with another model, {self.settings.model!r}")

    def save(self, file: str | Path) -> None:
        """Write a ``.safetensors`` file, all of it or nothing. Raises OSError if that is impossible."""
        tensors = {"noise": torch.from_numpy(self.noise), "fingerprint": torch.from_numpy(self.fingerprint)}
        about = {"settings": asdict(self.settings), "families": self.families, "digest": digest(self)}
        about |= {"sources": self.sources} if self.sources else {}
        metadata = {"format": "treering-calibration", "version": str(VERSION), "about": json.dumps(about)}
        with appearing(os.path.realpath(file)) as part:
            try:
                save_file(tensors, part, metadata)
            except SafetensorError as error:
                raise OSError(f"cannot write {file}: {error}") from None

    @classmethod
    def load(cls, file: str | Path) -> Calibration:
        """Read a file that :meth:`save` wrote.

        Raises:
            CalibrationError: if it is damaged, or of a newer version.
            OSError: if it cannot be read.
        """
        damaged = CalibrationError(f"{file} is not a calibration, or was changed since it was written")
        try:
            with safe_open(regular(file), framework="pt") as tensors:
                metadata = tensors.metadata() or {}
                if metadata.get("format") != "treering-calibration":
                    raise damaged
                if int(metadata["version"]) > VERSION:
                    raise CalibrationError(
                        f"{file} was written by a newer treering (version {metadata['version']})"
                    )
                about = json.loads(metadata["about"])
                settings = Settings(
                    **about["settings"] | {"latent_shape": tuple(about["settings"]["latent_shape"])}
                )
                noise, fingerprint = (tensors.get_tensor(name).numpy() for name in ("noise", "fingerprint"))
            expected = about["digest"]
            found = cls(settings, fingerprint, noise, tuple(about["families"]), tuple(about.get("sources", ())))
        except (SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
            raise error if isinstance(error, CalibrationError) else damaged from None
        if digest(found) != expected:
            raise damaged
        return found


def false_positives(null_p: Array, level: float) -> Rate:
    """How often a key is found at a level where it is not, from p of every null image (n,)."""
    hits, n = int((null_p <= level).sum()), len(null_p)
    bound = 1.0 if hits == n else float(stats.beta.ppf(CONFIDENCE, hits + 1, n - hits))
    return Rate(hits, n, bound, float(stats.beta.ppf(1 - CONFIDENCE, hits, n - hits + 1)) if hits else 0.0)


def digest(calibration: Calibration) -> str:
    """SHA-256 of everything in a calibration."""
    sources = [calibration.sources] if calibration.sources else []
    text = json.dumps([asdict(calibration.settings), calibration.families, *sources]).encode()
    arrays = (calibration.fingerprint, calibration.noise)
    return hashlib.sha256(b"".join([text, *(np.ascontiguousarray(a).tobytes() for a in arrays)])).hexdigest()

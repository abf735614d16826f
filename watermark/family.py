"""All keys and transformations that are looked at together, tested on recovered noise."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np
from numpy.typing import NDArray

from watermark.calibration import Calibration, Rate, false_positives
from watermark.detection import Detection, detect, least_p
from watermark.features import Array
from watermark.foreign import ArrayKey, detect_array
from watermark.keys import Pattern, RingKey
from watermark.search import holm, key_matrix, search_vectors
from watermark.transforms import IDENTITY, Transform, views
from watermark.verdict import INCONCLUSIVE, KEY_BASED, MODEL_BASED, NOT_DETECTED, NULL_BASED, WATERMARKED

ORDER = (WATERMARKED, INCONCLUSIVE, NOT_DETECTED)
"""Which of several keys' findings is told: a mark first, then what cannot be told."""
CHUNK = 64
"""Null images whose views are held at a time."""


@dataclass(frozen=True)
class Finding:
    """What is in one sample of noise; see :class:`watermark.verdict.Verdict` for the fields."""

    status: str
    key: str
    p_value: float
    rho: float
    evidence: str
    transform: Transform
    transforms_tried: int
    other_keys: tuple[str, ...]
    nulls: Rate | None
    reason: str


@dataclass(frozen=True)
class Fit:
    """Keys of one kind in one sample: p of every key, corrected for transformations, and the best one's details."""

    p_values: Array
    best: int
    rho: float
    transform: Transform


@dataclass(frozen=True)
class Family:
    """Keys and transformations that share one level.

    Args:
        keys: by name.
        transforms: at least one.
        shape: (C, h, w) of the noise.
        fpr: the level.
        calibration: null images, or None.
    """

    keys: Mapping[str, RingKey | ArrayKey]
    transforms: tuple[Transform, ...]
    shape: tuple[int, ...]
    fpr: float
    calibration: Calibration | None

    def test(self, z: NDArray[np.floating]) -> list[Finding]:
        """The best of all keys for every sample of noise (B, C, h, w), B ≥ 0; finite."""
        if not len(z):
            return []
        exact = z.astype(np.float64)
        secret, others = self._secret_fits(exact), [self._other_fits(name, exact) for name in self._others]
        return [self._finding([d[i] for d in secret], [a[i] for a in others]) for i in range(len(z))]

    def count(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Run the search on all null images, if there are any; otherwise the first test does it.

        Args:
            progress: called with the number of images done and that of all.
        """
        if self.calibration is None or self._null_p:
            return
        noise, done = self.calibration.noise, 0
        smallest = np.ones(len(noise))
        others = {name: np.ones(len(noise)) for name in self._others}
        for own, rest in self.calibration.halves():
            whitening = {pattern: self.calibration.whitening(pattern, rest) for pattern in self._secret}
            for rows in np.array_split(own, -(-len(own) // CHUNK)):
                z = noise[rows].astype(np.float64)
                for fits in self._secret_fits(z, whitening):
                    smallest[rows] = np.minimum(smallest[rows], [fit.p_values.min() for fit in fits])
                for name, p in others.items():
                    p[rows] = [fit.p_values[0] for fit in self._other_fits(name, z)]
                done += len(rows)
                if progress is not None:
                    progress(done, len(noise))
        self._null_p.update(others)
        self._null_p[None] = smallest

    def null_rate(self, name: str, p: float) -> Rate | None:
        """How many null images fit as well as p, before the correction for keys; None without null images.

        For a key of ours any of them counts that fits as well; for another, that one alone. Each half of the images
        is whitened by the other, and what is tested by both: with few images that is another test.
        """
        return None if self.calibration is None else false_positives(self.null_p_values(name), p)

    def null_p_values(self, name: str) -> Array:
        """(n,) the smallest p of any key of ours in every null image, or that of another key if the name is one."""
        self.count()
        return self._null_p[name if name in self._others else None]

    def _finding(self, secret: list[Fit], others: list[Fit]) -> Finding:
        """The best of all keys in one sample."""
        judged = [
            self._judge(names[fit.best], float(fit.p_values[fit.best]), fit)
            for names, fit in zip(self._secret.values(), secret, strict=True)
        ]
        judged += [self._judge(n, float(fit.p_values[0]), fit) for n, fit in zip(self._others, others, strict=True)]
        best = min(judged, key=lambda found: (ORDER.index(found.status), found.p_value))
        if best.status != WATERMARKED:
            return best
        p = {
            name: q
            for names, fit in zip(self._secret.values(), secret, strict=True)
            for name, q in zip(names, fit.p_values.tolist(), strict=True)
        }
        adjusted = zip(p, holm(np.array([*p.values(), *[1.0] * len(self._others)])), strict=False)
        there = [name for name, q in adjusted if q <= self.fpr and name != best.key]
        return replace(best, other_keys=tuple(n for n in there if not self._contradicted(self._at_level(n, p[n]))))

    def _judge(self, name: str, p: float, fit: Fit) -> Finding:
        """What follows from the p of one key, corrected for transformations alone."""
        nulls, at_level = self.null_rate(name, p), self._at_level(name, p)
        evidence = KEY_BASED
        if name in self._others:
            evidence = MODEL_BASED if nulls is None else NULL_BASED
            p = p if nulls is None else (1 + nulls.hits) / (nulls.images + 1)
        corrected = min(1.0, p * len(self.keys))
        status, reason = self._status(name, corrected, evidence, nulls, at_level)
        tried = len(self._others[name][1] if name in self._others else self.transforms)
        return Finding(status, name, corrected, fit.rho, evidence, fit.transform, tried, (), nulls, reason)

    def _at_level(self, name: str, p: float) -> Rate | None:
        """How many null images would be found at the level themselves, or fit as well as p where that is larger."""
        return self.null_rate(name, max(p, self.fpr / len(self.keys)))

    def _contradicted(self, at_level: Rate | None) -> bool:
        """Whether more null images are found than the level allows, at 95 % confidence."""
        return at_level is not None and at_level.least > self.fpr

    def _status(
        self, name: str, p: float, evidence: str, nulls: Rate | None, at_level: Rate | None
    ) -> tuple[str, str]:
        """The status, and the reason if it is inconclusive."""
        if evidence == NULL_BASED and nulls is not None:
            supported = min(1.0, nulls.bound * len(self.keys))
            if p <= self.fpr and supported <= self.fpr:
                return WATERMARKED, ""
            if not nulls.hits:
                return INCONCLUSIVE, (
                    f"fits better than all {nulls.images} null images, which for this kind of key support no level "
                    f"below {supported:.2g}"
                )
            if p <= self.fpr:
                return INCONCLUSIVE, (
                    f"p is small, but with {nulls.hits} of only {nulls.images} null images that fit as well, the "
                    f"rate may be as large as {supported:.2g}"
                )
            return NOT_DETECTED, ""
        least = self._least(name)
        if least > self.fpr:
            return INCONCLUSIVE, (
                f"a key with so few rings cannot be found at this level: the least p it can have, corrected for "
                f"all that was looked at, is {least:.2g}"
            )
        if p > self.fpr:
            return NOT_DETECTED, ""
        if evidence == MODEL_BASED:
            return INCONCLUSIVE, (
                "p is small, but for this kind of key it holds for white noise only: calibrate on null images"
            )
        if at_level is not None and self._contradicted(at_level):
            return INCONCLUSIVE, (
                f"p is small, but so it is for {at_level.hits} of {at_level.images} null images: either some of "
                "them carry a key, or a key suits such images by chance"
            )
        return WATERMARKED, ""

    def _least(self, name: str) -> float:
        """The least p, corrected for keys and transformations, that a key of ours can have; 0 for others."""
        if name in self._others:
            return 0.0
        pattern, directions = next((q, self._directions[q]) for q, names in self._secret.items() if name in names)
        return min(1.0, least_p(pattern.kind, directions.shape[1]) * len(self.transforms) * len(self.keys))

    @cached_property
    def _secret(self) -> dict[Pattern, list[str]]:
        """Names of the keys whose p is exact over their secret choice, by pattern."""
        out: dict[Pattern, list[str]] = {}
        for name, key in self.keys.items():
            if isinstance(key, RingKey) and key.pattern.kind != "zeros":
                out.setdefault(key.pattern, []).append(name)
        return out

    @cached_property
    def _directions(self) -> dict[Pattern, Array]:
        return {
            pattern: key_matrix([key for n in names if isinstance(key := self.keys[n], RingKey)], (1, *self.shape))
            for pattern, names in self._secret.items()
        }

    @cached_property
    def _whitening(self) -> dict[Pattern, Array | None]:
        return {p: None if self.calibration is None else self.calibration.whitening(p) for p in self._secret}

    def _secret_fits(self, z: Array, whitening: dict[Pattern, Array] | None = None) -> list[list[Fit]]:
        """For every pattern the fits of every sample."""
        out = []
        for pattern, directions in self._directions.items():
            scale = self._whitening[pattern] if whitening is None else whitening[pattern]
            matches = search_vectors(z, directions, pattern, self.transforms, scale)
            out.append([Fit(m.per_key, m.key, m.rho, self.transforms[m.transform]) for m in matches])
        return out

    @cached_property
    def _others(self) -> dict[str, tuple[Callable[[Array], Detection], tuple[Transform, ...]]]:
        """The keys whose p takes the noise to be white, with their tests and where to look for them."""
        out: dict[str, tuple[Callable[[Array], Detection], tuple[Transform, ...]]] = {}
        for name, key in self.keys.items():
            if isinstance(key, ArrayKey):
                out[name] = partial(detect_array, key=key), self.transforms
            elif key.pattern.kind == "zeros":  # what is missing is missing from every side
                out[name] = partial(detect, key=key), IDENTITY
        return out

    def _other_fits(self, name: str, z: Array) -> list[Fit]:
        """Fits of one key in every sample."""
        test, transforms = self._others[name]
        seen = [test(view) for view in views(z, transforms)]
        p, rho = np.stack([d.p_value for d in seen]), np.stack([d.rho for d in seen])
        where = p.argmin(0)
        return [
            Fit(np.minimum(1.0, len(transforms) * p[t, i : i + 1]), 0, float(rho[t, i]), transforms[t])
            for i, t in enumerate(where)
        ]

    @cached_property
    def _null_p(self) -> dict[str | None, Array]:
        """(n,) p of every null image, for keys of ours together under None, see :meth:`count`; empty before."""
        return {}

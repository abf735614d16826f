"""All keys and transformations that are looked at together, tested on recovered noise."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np
from numpy.typing import NDArray

from watermark.calibration import Calibration, Rate, false_positives
from watermark.detection import Detection, detect
from watermark.features import Array
from watermark.foreign import ArrayKey, detect_array
from watermark.keys import Pattern, RingKey
from watermark.search import IDENTITY, Transform, holm, key_matrix, search_vectors, views
from watermark.verdict import CALIBRATED, INCONCLUSIVE, KEY_BASED, MODEL_BASED, NOT_DETECTED, WATERMARKED

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
        transforms: at least one, the identity among them.
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
        drawn, assumed = self._drawn_fits(exact), [self._assumed_fits(name, exact) for name in self._assumed]
        return [self._finding([d[i] for d in drawn], [a[i] for a in assumed]) for i in range(len(z))]

    def _finding(self, drawn: list[Fit], assumed: list[Fit]) -> Finding:
        """The best of all keys in one sample."""
        judged = [self._judge_drawn(names, fit) for names, fit in zip(self._drawn.values(), drawn, strict=True)]
        judged += [self._judge_assumed(name, fit) for name, fit in zip(self._assumed, assumed, strict=True)]
        best, _ = min(judged, key=lambda pair: (pair[0].status != WATERMARKED, pair[0].p_value))
        if best.status != WATERMARKED:
            return best
        p = {name: q for _, each in judged for name, q in each.items()}
        there = [name for name, q in zip(p, holm(np.array(list(p.values()))), strict=True) if q <= self.fpr]
        return replace(best, other_keys=tuple(name for name in there if name != best.key))

    def _judge_drawn(self, names: list[str], fit: Fit) -> tuple[Finding, dict[str, float]]:
        """The best of the keys of one pattern, and p of each alone."""
        own = float(fit.p_values[fit.best])
        nulls = None if self.calibration is None else false_positives(self._null_drawn, own)
        evidence = CALIBRATED if nulls is not None and nulls.bound <= self.fpr else KEY_BASED
        p = dict(zip(names, fit.p_values.tolist(), strict=True))
        if self.calibration is not None:  # what null images speak against is not claimed of a second key, either
            p = {n: 1.0 if false_positives(self._null_drawn, q).least > self.fpr else q for n, q in p.items()}
        return self._judge(names[fit.best], own, fit, evidence, nulls), p

    def _judge_assumed(self, name: str, fit: Fit) -> tuple[Finding, dict[str, float]]:
        """One key of the other kind; for Holm's procedure p counts only if it was counted on null images."""
        own = float(fit.p_values[0])
        if self.calibration is None:
            return self._judge(name, own, fit, MODEL_BASED, None), {name: 1.0}
        nulls = false_positives(self._null_assumed[name], own)
        share = (1 + nulls.hits) / (nulls.images + 1)
        return self._judge(name, share, fit, CALIBRATED, nulls), {name: share}

    def _judge(self, name: str, p: float, fit: Fit, evidence: str, nulls: Rate | None) -> Finding:
        """A finding from the p of one key alone."""
        corrected = min(1.0, p * len(self.keys))
        status, reason = self._status(name, corrected, evidence, nulls)
        return Finding(status, name, corrected, fit.rho, evidence, fit.transform, (), nulls, reason)

    def _status(self, name: str, p: float, evidence: str, nulls: Rate | None) -> tuple[str, str]:
        """The status, and the reason if it is inconclusive."""
        if p <= self.fpr:
            if evidence == MODEL_BASED:
                return INCONCLUSIVE, (
                    "p is small, but for this kind of key it holds for white noise only: calibrate on null images"
                )
            if nulls is not None and nulls.least > self.fpr:
                return INCONCLUSIVE, (
                    f"p is small, but {nulls.hits} of {nulls.images} null images fit as well: "
                    f"a rate above {self.fpr:g}"
                )
            return WATERMARKED, ""
        if name in self._assumed and nulls is not None and not nulls.hits:
            return INCONCLUSIVE, (
                f"fits better than all {nulls.images} null images, which for this kind of key support no level "
                f"below {p:.2g}"
            )
        return NOT_DETECTED, ""

    @cached_property
    def _drawn(self) -> dict[Pattern, list[str]]:
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
            for pattern, names in self._drawn.items()
        }

    @cached_property
    def _whitening(self) -> dict[Pattern, Array | None]:
        return {p: None if self.calibration is None else self.calibration.whitening(p) for p in self._drawn}

    def _drawn_fits(self, z: Array, whitening: dict[Pattern, Array] | None = None) -> list[list[Fit]]:
        """For every pattern the fits of every sample."""
        out = []
        for pattern, directions in self._directions.items():
            scale = self._whitening[pattern] if whitening is None else whitening[pattern]
            matches = search_vectors(z, directions, pattern, self.transforms, scale)
            out.append([Fit(m.per_key, m.key, m.rho, self.transforms[m.transform]) for m in matches])
        return out

    @cached_property
    def _assumed(self) -> dict[str, tuple[Callable[[Array], Detection], tuple[Transform, ...]]]:
        """The keys whose p takes the noise to be white, with their tests and where to look for them."""
        out: dict[str, tuple[Callable[[Array], Detection], tuple[Transform, ...]]] = {}
        for name, key in self.keys.items():
            if isinstance(key, ArrayKey):
                out[name] = partial(detect_array, key=key), self.transforms
            elif key.pattern.kind == "zeros":  # what is missing is missing from every side
                out[name] = partial(detect, key=key), IDENTITY
        return out

    def _assumed_fits(self, name: str, z: Array) -> list[Fit]:
        """Fits of one key in every sample."""
        test, transforms = self._assumed[name]
        seen = [test(view) for view in views(z, transforms)]
        p, rho = np.stack([d.p_value for d in seen]), np.stack([d.rho for d in seen])
        where = p.argmin(0)
        return [
            Fit(np.minimum(1.0, len(transforms) * p[t, i : i + 1]), 0, float(rho[t, i]), transforms[t])
            for i, t in enumerate(where)
        ]

    @cached_property
    def _null_drawn(self) -> Array:
        """(n,) the smallest p of any key in every null image, whitened by the images of the other half."""
        if self.calibration is None:
            return np.empty(0)
        smallest = np.empty(len(self.calibration.families))
        for own, other in self.calibration.halves():
            whitening = {pattern: self.calibration.whitening(pattern, other) for pattern in self._drawn}
            for rows in np.array_split(own, -(-len(own) // CHUNK)):
                each = self._drawn_fits(self.calibration.noise[rows].astype(np.float64), whitening)
                smallest[rows] = [min(fit.p_values.min() for fit in fits) for fits in zip(*each, strict=True)]
        return smallest

    @cached_property
    def _null_assumed(self) -> dict[str, Array]:
        """(n,) p of every null image for each key of the other kind; empty without a calibration."""
        if self.calibration is None:
            return {}
        noise = self.calibration.noise
        parts = np.array_split(np.arange(len(noise)), -(-len(noise) // CHUNK))
        return {
            name: np.concatenate(
                [[fit.p_values[0] for fit in self._assumed_fits(name, noise[r].astype(np.float64))] for r in parts]
            )
            for name in self._assumed
        }

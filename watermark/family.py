"""All keys and transformations that are looked at together, and what follows from how well they fit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from watermark.calibration import Calibration, Rate, false_positives
from watermark.features import Array
from watermark.fits import Fit, Group, groups_of, null_p_values
from watermark.foreign import ArrayKey
from watermark.keys import RingKey
from watermark.search import holm
from watermark.transforms import Transform
from watermark.verdict import INCONCLUSIVE, KEY_BASED, MODEL_BASED, NOT_DETECTED, NULL_BASED, WATERMARKED

ORDER = (WATERMARKED, INCONCLUSIVE, NOT_DETECTED)
"""Which of several keys' findings is told: a mark first, then what cannot be told."""
NOTABLE = 0.05
"""Up to which p a key that cannot reach the level may be there."""


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
    _null_p: dict[str, Array] = field(default_factory=dict, init=False, repr=False, compare=False)
    """Of every key, once :meth:`count` has run."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "keys", MappingProxyType(dict(self.keys)))  # p counts the keys that are tested

    def test(self, z: NDArray[np.floating]) -> list[Finding]:
        """The best of all keys for every sample of noise (B, C, h, w), B ≥ 0; finite."""
        if not len(z):
            return []
        exact = z.astype(np.float64)
        fits = [group.test(exact, scale) for group, scale in zip(self._groups, self._whitening, strict=True)]
        return [self._finding([of_group[i] for of_group in fits]) for i in range(len(z))]

    def count(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Run the search on all null images, if there are any; otherwise the first test does it.

        Args:
            progress: called with the number of images done and that of all.
        """
        if self.calibration is None or self._null_p:
            return
        every = null_p_values(self._groups, self.calibration, progress)
        self._null_p.update({name: p for p, group in zip(every, self._groups, strict=True) for name in group.names})

    def null_rate(self, name: str, p: float) -> Rate | None:
        """How many null images fit as well as p, before the correction for keys; None without null images.

        For a key of ours any of them counts that fits as well; for another, that one alone. Each half of the images
        is whitened by the other, and what is tested by both: with few images that is another test.
        """
        return None if self.calibration is None else false_positives(self.null_p_values(name), p)

    def null_p_values(self, name: str) -> Array:
        """(n,) the smallest p of any key of ours in every null image, or that of another key if the name is one."""
        self.count()
        return self._null_p[name]

    def _finding(self, fits: list[Fit]) -> Finding:
        """The best of all keys in one sample, of which there is a fit for every group."""
        best = min(
            map(self._judge, self._groups, fits), key=lambda found: (ORDER.index(found.status), found.p_value)
        )
        if best.status != WATERMARKED:
            return best
        pairs = [pair for pair in zip(self._groups, fits, strict=True) if pair[0].exact]
        p = {n: q for group, fit in pairs for n, q in zip(group.names, fit.p_values.tolist(), strict=True)}
        uncounted = [1.0] * (len(self.keys) - len(p))
        adjusted = zip(p, holm(np.array([*p.values(), *uncounted])), strict=False)
        there = [name for name, q in adjusted if q <= self.fpr and name != best.key]
        return replace(best, other_keys=tuple(n for n in there if not self._contradicted(self._at_level(n, p[n]))))

    def _judge(self, group: Group, fit: Fit) -> Finding:
        """What follows from the best key of a group."""
        name, p = group.names[fit.best], float(fit.p_values[fit.best])
        nulls, at_level = self.null_rate(name, p), self._at_level(name, p)
        evidence = KEY_BASED
        if not group.exact:
            evidence = MODEL_BASED if nulls is None else NULL_BASED
            p = p if nulls is None else (1 + nulls.hits) / (nulls.images + 1)
        corrected = min(1.0, p * len(self.keys))
        least = min(1.0, group.least * len(self.keys))
        status, reason = self._status(corrected, least, evidence, nulls, at_level)
        tried = len(group.transforms)
        return Finding(status, name, corrected, fit.rho, evidence, fit.transform, tried, (), nulls, reason)

    def _at_level(self, name: str, p: float) -> Rate | None:
        """How many null images would be found at the level themselves, or fit as well as p where that is larger."""
        return self.null_rate(name, max(p, self.fpr / len(self.keys)))

    def _contradicted(self, at_level: Rate | None) -> bool:
        """Whether more null images are found than the level allows, at 95 % confidence."""
        return at_level is not None and at_level.least > self.fpr

    def _status(
        self, p: float, least: float, evidence: str, nulls: Rate | None, at_level: Rate | None
    ) -> tuple[str, str]:
        """The status at p, where a perfect fit has the least one, and the reason if it is inconclusive."""
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
        if p > self.fpr:
            if least > self.fpr and p <= NOTABLE:
                return INCONCLUSIVE, (
                    f"it may be there: a key with so few rings cannot be found at this level, as its p, corrected "
                    f"for all that was looked at, is {least:.2g} at best"
                )
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

    @cached_property
    def _groups(self) -> tuple[Group, ...]:
        return tuple(groups_of(self.keys, self.transforms, self.shape))

    @cached_property
    def _whitening(self) -> tuple[Array | None, ...]:
        """Of every group."""
        made = self.calibration
        return tuple(None if made is None or g.pattern is None else made.whitening(g.pattern) for g in self._groups)

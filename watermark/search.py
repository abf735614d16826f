"""Which of many keys, seen through which transformation, is in recovered noise, and how sure that is.

Looking in many places finds something in one of them, so a p-value is that of the whole family of keys and
transformations: N A p by Bonferroni, or, with decoys, N times the share of random keys that fit as well anywhere.
Both hold for any image, because the keys are secret, see :mod:`watermark.detection`. For one key over white noise
Bonferroni's holds where nothing is undone by interpolation: turned or enlarged noise is not white.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from watermark.detection import TINY, angle_test, scale_of, sign_test
from watermark.features import Array, as_noise, key_vector, noise_vector
from watermark.keys import Pattern, RingKey


@dataclass(frozen=True)
class Transform:
    """What was done to a picture, on the scale of its latent; undone in the order crop, shift, rotation, flip.

    Args:
        angle: degrees it was turned counter-clockwise, about its centre.
        flip: whether it was mirrored left to right, before it was turned.
        shift: (down, right) by how many latent pixels it was moved, what leaves coming in at the other side.
        crop: which share of its height and width, from its middle, fills the picture now; 1 is all. A pair if the
            two differ, so that the picture is stretched.

    Raises:
        ValueError: unless 0 < crop ≤ 1.
    """

    angle: float = 0.0
    flip: bool = False
    shift: tuple[float, float] = (0.0, 0.0)
    crop: float | tuple[float, float] = 1.0

    def __post_init__(self) -> None:
        if not all(0 < share <= 1 for share in self.shares):
            raise ValueError(f"crop must be above 0 and at most 1, got {self.crop}")

    @property
    def shares(self) -> tuple[float, float]:
        """The shares of height and width that were cropped to."""
        return self.crop if isinstance(self.crop, tuple) else (self.crop, self.crop)

    def __str__(self) -> str:
        """What was done, in words; empty for nothing."""
        down, right = self.shift
        high, wide = self.shares
        parts = {
            "mirrored": self.flip,
            f"turned by {self.angle:g}°": self.angle,
            f"moved by {down:g} down and {right:g} right": self.shift != (0.0, 0.0),
            f"cropped to {high:g}" if high == wide else f"cropped to {high:g} × {wide:g}": min(high, wide) < 1,
        }
        return ", ".join(text for text, done in parts.items() if done)


UNCHANGED = Transform()
IDENTITY = (UNCHANGED,)
MOST_NUMBERS = 2**26
"""That are held for the views of a few samples, half a GiB."""


def transforms_of(
    rotations: int = 1, mirrored: bool = False, shifts: int = 0, crops: Sequence[float | tuple[float, float]] = ()
) -> tuple[Transform, ...]:
    """All combinations of what may have been done.

    Args:
        rotations: so many angles, evenly spaced.
        mirrored: with mirroring and without.
        shifts: by up to so many latent pixels either way.
        crops: besides the whole.

    Raises:
        ValueError: if rotations is below 1, shifts is negative, or a crop is out of range.
    """
    if rotations < 1 or shifts < 0:
        raise ValueError(f"rotations must be at least 1 and shifts at least 0, got {rotations} and {shifts}")
    moves = range(-shifts, shifts + 1)
    shares = (crop if isinstance(crop, tuple) and crop[0] != crop[1] else np.max(crop).item() for crop in crops)
    return tuple(
        Transform(360 * turn / rotations, flip, (down, right), crop)
        for crop in dict.fromkeys((1.0, *shares))
        for down in sorted(moves, key=abs)
        for right in sorted(moves, key=abs)
        for turn in range(rotations)
        for flip in ((False, True) if mirrored else (False,))
    )


def plain_transforms(shape: tuple[int, ...]) -> tuple[Transform, ...]:
    """What happens to pictures without a trace, for latents (C, H, W): mirroring, and turning by right angles.

    Eight, or four where the latent is not square.
    """
    return transforms_of(right_angles(shape), mirrored=True)


def right_angles(shape: tuple[int, ...]) -> int:
    """By how many right angles a latent (C, H, W) can be turned and fit: 4, or 2 where it is not square."""
    return 4 if shape[-2] == shape[-1] else 2


@dataclass(frozen=True)
class Match:
    """The best fit in recovered noise.

    Attributes:
        key: position of the key.
        transform: position of the transformation.
        rho: ρ, correlation of all marked bins with the key's, as :class:`watermark.detection.Detection` has it.
        p_value: probability that any key of the family fits as well through any transformation, if none is there.
        single_p_value: that of this key through this transformation alone.
        per_key: (N,) for every key the probability that it fits as well as it does through any transformation; for
            :func:`holm`, where several keys may be there.
        family: how many tests p_value is corrected for, keys times transformations.
    """

    key: int
    transform: int
    rho: float
    p_value: float
    single_p_value: float
    per_key: Array
    family: int


def search(
    noise: Tensor | NDArray[np.floating],
    keys: Sequence[RingKey],
    transforms: Sequence[Transform] = IDENTITY,
    *,
    whitening: NDArray[np.floating] | None = None,
    decoys: int = 0,
) -> list[Match]:
    """The best of many keys and transformations for every sample.

    Args:
        noise: (B, C, H, W) recovered initial noise.
        keys: of one pattern, ``rings``, ``levels`` or ``dense``.
        transforms: undone one by one on the noise, by interpolation.
        whitening: see :func:`watermark.detection.detect`.
        decoys: random keys that take the place of Bonferroni's correction for the transformations; choose their
            number before the result is seen, at least 10 N over the level that is asked for. 0 is none.

    Raises:
        ValueError: if there are no keys or transformations, the keys have several patterns or one without values,
            decoys is negative, or noise is not as :func:`watermark.detection.detect` wants it.
    """
    if not keys or not transforms:
        raise ValueError("search needs at least one key and one transformation")
    patterns = {key.pattern for key in keys}
    if len(patterns) > 1 or keys[0].pattern.kind == "zeros":
        raise ValueError("the keys of a search must be of one pattern, and that must not be 'zeros'")
    if decoys < 0:
        raise ValueError(f"decoys must be at least 0, got {decoys}")
    z = as_noise(noise)
    return search_vectors(z, key_matrix(keys, z.shape), keys[0].pattern, transforms, whitening, decoys)


def key_matrix(keys: Sequence[RingKey], shape: tuple[int, ...]) -> Array:
    """The keys' directions, (N, d) of unit length; a large part of the work, so keep it for many pictures."""
    k = np.stack([key_vector(key, shape) for key in keys])
    return k / np.maximum(np.linalg.norm(k, axis=1, keepdims=True), TINY)


def search_vectors(
    z: Array,
    directions: Array,
    pattern: Pattern,
    transforms: Sequence[Transform],
    whitening: NDArray[np.floating] | None = None,
    decoys: int = 0,
) -> list[Match]:
    """:func:`search` with the matrix of the keys made before; few samples at a time if there is much to look at."""
    at_once = max(1, MOST_NUMBERS // (len(transforms) * directions.shape[1]))
    if len(z) > at_once:
        parts = [z[i : i + at_once] for i in range(0, len(z), at_once)]
        return [
            m for part in parts for m in search_vectors(part, directions, pattern, transforms, whitening, decoys)
        ]
    scale = scale_of(whitening, z.shape, pattern)
    drawn = random_directions(decoys, directions, pattern.kind)
    out = []
    seen = [noise_vector(view, pattern) for view in views(z, transforms)]
    for i in range(len(z)):
        plain, energy = (np.stack([pair[part][i] for pair in seen]) for part in (0, 1))
        y = plain / scale
        norm = np.linalg.norm(y, axis=1)
        if not (norm > 0).all():
            raise ValueError("noise is zero on all rings: nothing to test")
        fits = directions @ (y / norm[:, None]).T
        best, where = fits.max(1), fits.argmax(1)
        single = p_of(best, where, y, directions, pattern.kind)
        if decoys:
            peak = np.sort((drawn @ (y / norm[:, None]).T).max(1))
            per_key = (1 + decoys - np.searchsorted(peak, best - 1e-12)) / (decoys + 1)  # ties count
        else:
            per_key = np.minimum(1.0, len(transforms) * single)
        winner = int(np.lexsort((-best, single))[0])
        out.append(
            Match(
                key=winner,
                transform=int(where[winner]),
                rho=float(plain[where[winner]] @ directions[winner] / np.sqrt(energy[where[winner]])),
                p_value=float(min(1.0, len(directions) * per_key[winner])),
                single_p_value=float(single[winner]),
                per_key=per_key,
                family=len(directions) * len(transforms),
            )
        )
    return out


def p_of(best: Array, where: NDArray[np.int64], y: Array, directions: Array, kind: str) -> Array:
    """P of every key through its best transformation alone, (N,)."""
    p = np.maximum(angle_test(best, directions.shape[1])[1], TINY)
    if kind == "levels":  # counting is slow, so only where it can matter; elsewhere Hoeffding's larger bound
        weighted = y[where] * directions
        fit = np.maximum(weighted.sum(1), 0)
        bound = np.exp(-(fit**2) / np.maximum(2 * (weighted**2).sum(1), TINY))
        counted = p < 0.01
        p[~counted] = np.maximum(p, bound)[~counted]
        for i in np.flatnonzero(counted):
            size = np.abs(directions[i])
            p[i] = max(p[i], sign_test(y[where[i]] * size, np.sign(directions[i])))
    return p


def random_directions(count: int, directions: Array, kind: str) -> Array:
    """Directions of keys that nobody has, (count, d).

    Always the same for the same keys, so that a picture has one verdict, and as secret as they are: an image could
    be made that fits no decoy, if they were known.
    """
    rng = np.random.default_rng(list(hashlib.sha256(np.ascontiguousarray(directions).tobytes()).digest()))
    if kind == "levels":
        return rng.choice([-1.0, 1.0], (count, directions.shape[1])) * np.abs(directions[0])
    drawn = rng.standard_normal((count, directions.shape[1]))
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def holm(p: Array) -> Array:
    """Holm's adjusted p-values (N,): those at most α may all be claimed, with any error at all at most α."""
    order = np.argsort(p)
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted


def views(z: Array, transforms: Sequence[Transform]) -> Iterator[Array]:
    """Noise (B, C, [F,] H, W) with each transformation undone; neighbours share what they have in common."""
    whole: tuple[tuple[float, float], Array] = (1.0, 1.0), z
    upright: tuple[Transform, Array] = UNCHANGED, z
    for transform in transforms:
        if whole[0] != transform.shares:
            whole = transform.shares, uncrop(z, transform.shares)
        if upright[0] != replace(transform, flip=False):
            upright = replace(transform, flip=False), move_back(whole[1], transform)
        yield upright[1][..., ::-1] if transform.flip else upright[1]


def undo(z: Array, transform: Transform) -> Array:
    """Noise (B, C, [F,] H, W) of a transformed picture as that of the picture before."""
    (view,) = views(z, [transform])
    return view


def uncrop(z: Array, shares: tuple[float, float]) -> Array:
    """Noise made small again, with nothing around it."""
    if shares == (1.0, 1.0):
        return z
    factor = 1 / np.array(shares)
    centre = (np.array(z.shape[-2:]) - 1) / 2
    planes = [
        ndimage.affine_transform(plane, factor, centre - centre * factor, order=3, mode="constant")
        for plane in z.reshape(-1, *z.shape[-2:])
    ]
    return np.stack(planes).reshape(z.shape)


def move_back(z: Array, transform: Transform) -> Array:
    """Noise with shift and rotation undone."""
    if transform.shift != (0.0, 0.0):
        down, right = transform.shift
        phase = np.fft.fftfreq(z.shape[-2])[:, None] * down + np.fft.fftfreq(z.shape[-1])[None, :] * right
        z = np.fft.ifft2(np.fft.fft2(z) * np.exp(2j * np.pi * phase)).real
    if transform.angle % (90 if z.shape[-1] == z.shape[-2] else 180) == 0:
        return np.rot90(z, -int(transform.angle // 90), (-2, -1))
    return ndimage.rotate(z, -transform.angle, axes=(-1, -2), reshape=False, order=3, mode="constant")

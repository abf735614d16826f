"""Recovered noise with what was done to a picture undone, as pixels or as what a test looks at.

Noise is resampled by cubic splines. That is linear: one sparse matrix for each transformation, applied to the
spline's coefficients in all samples and channels at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, sparse, special

from watermark.features import Array, as_coordinates, marked_bins
from watermark.rings import Rings
from watermark.transforms import Transform


def coordinates_through(marked: Array, transforms: Sequence[Transform], rings: Rings, kind: str) -> Array:
    """(B, T, d) :func:`watermark.features.coordinates` of marked channels with each transformation undone.

    Of those that differ in whole pixels of shift alone, one is transformed; for the others its bins are turned by
    the phases exp 2πi (k_y down / H + k_x right / W).
    """
    places: dict[Transform, list[int]] = {}
    for place, transform in enumerate(transforms):
        places.setdefault(_without_shift(transform), []).append(place)
    out = np.empty((len(marked), len(transforms), rings.dimension(kind)))
    for (unmoved, rows), view in zip(places.items(), views(marked, list(places)), strict=True):
        bins, _ = marked_bins(view, rings)
        if all(transforms[row] == unmoved for row in rows):
            out[:, rows] = as_coordinates(bins, rings, kind)[:, None]
            continue
        turns = _phases([transforms[row] for row in rows], rings)
        for i, own in enumerate(bins):  # one by one, so that no rounding depends on the other samples
            out[i, rows] = as_coordinates(turns * own, rings, kind)
    return out


def _without_shift(transform: Transform) -> Transform:
    """The transformation that a shift by whole pixels can be added to after it is undone; else itself."""
    whole = all(float(pixels).is_integer() for pixels in transform.shift)
    return replace(transform, shift=(0.0, 0.0)) if whole and transform.angle == 0 else transform


def _phases(transforms: Sequence[Transform], rings: Rings) -> NDArray[np.complex128]:
    """(T, 1, P) what undoing the shift, before a mirror image is undone, makes of every bin."""
    height, width = rings.index.shape
    down = np.array([t.shift[0] for t in transforms])[:, None]
    right = np.array([-t.shift[1] if t.flip else t.shift[1] for t in transforms])[:, None]
    cycles = rings.half // width * down % height / height + rings.half % width * right % width / width
    return np.exp(2j * np.pi * cycles)[:, None]


def views(z: Array, transforms: Sequence[Transform]) -> Iterator[Array]:
    """Noise (B, C, [F,] H, W) with each transformation undone; neighbours share what they have in common."""
    crop: tuple[float, float] | None = None
    shift: tuple[float, float] | None = None
    angle: float | None = None
    whole = moved = upright = z
    splines = None
    for transform in transforms:
        if transform.shares != crop:
            crop, shift = transform.shares, None
            whole = uncrop(z, crop)
        if transform.shift != shift:
            shift, angle = transform.shift, None
            moved, splines = move_back(whole, shift), None
        if transform.angle != angle:
            angle = transform.angle
            if angle % (90 if z.shape[-1] == z.shape[-2] else 180) == 0:
                upright = np.rot90(moved, -int(angle // 90), (-2, -1))
            else:
                splines = coefficients(moved) if splines is None else splines
                cos, sin = special.cosdg(angle), special.sindg(angle)
                upright = resample(splines, np.array([[cos, -sin], [sin, cos]]))
        yield upright[..., ::-1] if transform.flip else upright


def undo(z: Array, transform: Transform) -> Array:
    """Noise (B, C, [F,] H, W) of a transformed picture as that of the picture before."""
    (view,) = views(z, [transform])
    return view


def uncrop(z: Array, shares: tuple[float, float]) -> Array:
    """Noise made small again, with nothing around it."""
    return z if shares == (1.0, 1.0) else resample(coefficients(z), np.diag(1 / np.array(shares)))


def move_back(z: Array, shift: tuple[float, float]) -> Array:
    """Noise with a shift undone."""
    if shift == (0.0, 0.0):
        return z
    down, right = shift
    if float(down).is_integer() and float(right).is_integer():
        return np.roll(z, (-int(down), -int(right)), (-2, -1))
    phase = np.fft.fftfreq(z.shape[-2])[:, None] * down + np.fft.fftfreq(z.shape[-1])[None, :] * right
    return np.fft.ifft2(np.fft.fft2(z) * np.exp(2j * np.pi * phase)).real


def coefficients(z: Array) -> Array:
    """Those of the cubic spline through the pixels (…, H, W), mirrored at the borders."""
    return ndimage.spline_filter1d(ndimage.spline_filter1d(z, 3, -1), 3, -2)


def resample(splines: Array, matrix: Array) -> Array:
    """Splines (…, H, W) at the points that a matrix takes pixels to, from the centre; 0 outside."""
    weights = spline_weights((splines.shape[-2], splines.shape[-1]), matrix)
    return (weights @ splines.reshape(-1, weights.shape[1]).T).T.reshape(splines.shape)


def spline_weights(size: tuple[int, int], matrix: Array) -> sparse.csr_array:
    """(HW, HW): the sixteen coefficients that every new pixel is made of; nothing for those from outside."""
    centre = (np.array(size) - 1) / 2
    at = matrix @ (np.indices(size).reshape(2, -1) - centre[:, None]) + centre[:, None]
    inside = ((at >= 0) & (at <= 2 * centre[:, None])).all(0)
    rows, places, weights = np.flatnonzero(inside), [], []
    for x, length in zip(at[:, inside], size, strict=True):
        first = np.floor(x).astype(np.int64)
        f = x - first
        g = 1 - f
        weights.append(np.stack([g**3, 4 - 6 * f**2 + 3 * f**3, 4 - 6 * g**2 + 3 * g**3, f**3], 1) / 6)
        places.append(mirror(first[:, None] + np.arange(-1, 3), length))
    columns = places[0][:, :, None] * size[1] + places[1][:, None, :]
    values = weights[0][:, :, None] * weights[1][:, None, :]
    entries = np.repeat(rows, 16), columns.ravel()
    return sparse.csr_array((values.ravel(), entries), shape=(inside.size, inside.size))


def mirror(places: NDArray[np.int64], length: int) -> NDArray[np.int64]:
    """Positions outside 0 … length − 1 reflected at the first and the last pixel."""
    around = np.abs(places) % max(1, 2 * (length - 1))
    return np.minimum(around, 2 * (length - 1) - around)

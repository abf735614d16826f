"""Keys that were not made here, as arrays: what they are, files of them, and the test for one.

Whoever has pictures marked by other code can verify them. Such a key is an array of Fourier values and a mask.
Noise being real, only the Hermitian part of what was written into the transform is in it, and is tested for.

Where it is known how a key was drawn, as of rings and random values of tree-ring code, p is exact over the draws,
see :mod:`watermark.draws`. Else it is exact over the noise, if the recovered noise is white and Gaussian, and *not*
over a secret choice of the key: keys of constants or zeros resemble each other, and pictures, far more than random
ones.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from watermark.detection import TINY, Detection, angle_test, energy_test
from watermark.draws import Regression, check_draws, cosine, drawn_values, regression
from watermark.features import as_noise
from watermark.files import appearing, regular

Complex = NDArray[np.complex128]
DIGEST = "sha256 of the arrays"
"""Metadata of files that were written here; those of others are read without."""
SIGNED = (torch.int8, torch.int16, torch.int32, torch.int64)


@dataclass(frozen=True, eq=False)
class ArrayKey:
    """What was written where.

    Args:
        values: (C, H, W) complex, in the order of ``fft2`` and its scale, the one without a factor.
        mask: (C, H, W) bool, where they replaced those of the noise.
        draws: (C, H, W) for a key that was drawn at random, which of m complex Gaussian numbers is in a bin: 1 … m,
            negative for the conjugate, or 0 for none of them; None for any other key. Nothing can check that claim:
            p is worth no more than whoever makes it.

    Raises:
        ValueError: if a shape or dtype does not fit, a value is not finite, nothing is marked, or draws are not as
            above.
    """

    values: Complex = field(repr=False)
    mask: NDArray[np.bool_] = field(repr=False)
    draws: NDArray[np.int64] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.values.ndim != 3 or self.values.shape != self.mask.shape:
            raise ValueError(
                f"values and mask must have the same shape (C, H, W), got {self.values.shape} and {self.mask.shape}"
            )
        if self.mask.dtype != np.bool_:
            raise ValueError(f"mask must be of dtype bool, got {self.mask.dtype}")
        if not np.isfinite(self.values).all():
            raise ValueError("values must be finite")
        if not self.mask.any():
            raise ValueError("mask must mark at least one bin")
        if self.draws is not None:
            check_draws(self.draws, self.values, self.mask)
            if self.vanishes:
                raise ValueError("real noise can hold nothing of these draws")

    @cached_property
    def regression(self) -> Regression:
        """What estimates the draws; only for a key that has some."""
        if self.draws is None:
            raise ValueError("it is not known how this key was drawn")
        return regression(self.draws)

    @property
    def mark(self) -> Complex:
        """(C, H, W) the Hermitian part of the masked values: what real noise can hold of them."""
        written = np.where(self.mask, self.values, 0)
        return (written + conjugate_bins(written)) / 2

    @property
    def vanishes(self) -> bool:
        """Whether real noise can hold nothing of the values, as of zeros."""
        return bool(np.abs(self.mark).max() < 1e-6 * np.sqrt(self.mask[0].size))

    def save(self, file: str | Path) -> None:
        """Write a new ``.safetensors`` file for :func:`read_array_key`, readable by its owner alone."""
        values, mask = (np.fft.fftshift(a, axes=(-2, -1)) for a in (self.values, self.mask))
        tensors = {"values": np.stack([values.real, values.imag], axis=-1), "mask": mask}
        if self.draws is not None:
            tensors["draws"] = np.fft.fftshift(self.draws, axes=(-2, -1))
        written = {name: torch.from_numpy(array) for name, array in tensors.items()}
        data = save(written, {DIGEST: digest(written)})
        with appearing(file, replace=False, private=True) as part:
            part.write_bytes(data)


def digest(tensors: dict[str, Tensor]) -> str:
    """SHA-256 of tensors with their names, types and shapes."""
    found = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        found.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def conjugate_bins(a: Complex) -> Complex:
    """F(−k)* for every k."""
    return np.roll(a[..., ::-1, ::-1], 1, axis=(-2, -1)).conj()


def read_array_key(file: str | Path, *, mask: str | Path | None = None) -> ArrayKey:
    """A key from ``.npy`` or ``.safetensors`` files; nothing in them is ever executed.

    Args:
        file: the values, centred (C, H, W), or (1, C, H, W) as in tree-ring code; complex in a ``.npy``. A
            ``.safetensors`` file holds ``values``, complex, or real with a last axis (real, imaginary), and
            ``mask``, and maybe ``draws``, see :class:`ArrayKey`.
        mask: a ``.npy`` file with the mask in the same order; not for ``.safetensors``.

    Raises:
        ValueError: if a file is not what it should be.
        OSError: if it cannot be read.
    """
    file, draws = Path(file), None
    try:
        if file.suffix == ".safetensors":
            with safe_open(regular(file), framework="pt") as opened:
                names = ("values", "mask", *(["draws"] if "draws" in opened.keys() else []))  # noqa: SIM118
                tensors = {name: opened.get_tensor(name) for name in names}
                kept = (opened.metadata() or {}).get(DIGEST)
            if kept is not None and kept != digest(tensors):
                raise ValueError("it was changed since it was written")
            values, marked = (as_array(tensors[name]) for name in ("values", "mask"))
            draws = tensors.get("draws")
        elif mask is None:
            raise ValueError("a mask is needed beside a .npy file of values")
        else:
            values, marked = (np.load(regular(f), allow_pickle=False) for f in (file, mask))
            if not (isinstance(values, np.ndarray) and isinstance(marked, np.ndarray)):
                raise ValueError("several arrays in a file: save each as .npy")
    except RecursionError:
        raise ValueError(f"{file} is not a key: its header is nested too deeply") from None
    except MemoryError:
        raise ValueError(f"{file} is not a key: it says that it holds more than fits into memory") from None
    except (SafetensorError, ValueError, EOFError, BadZipFile) as error:
        raise ValueError(f"{file} is not a key: {error}") from None
    if not (np.issubdtype(values.dtype, np.number) and marked.dtype.kind in "biuf" and np.isfinite(marked).all()):
        raise ValueError(f"{file} is not a key: values and mask must be numbers")
    if values.ndim in (4, 5) and not np.iscomplexobj(values) and values.shape[-1] == 2:
        values = values[..., 0] + 1j * values[..., 1]
    values, marked = (a[0] if a.ndim == 4 and len(a) == 1 else a for a in (values, marked))
    if values.ndim != 3 or marked.ndim != 3:
        raise ValueError(f"{file} is not a key: values and mask must have shape (C, H, W)")
    if draws is not None and (draws.dtype not in SIGNED or draws.shape != marked.shape):
        raise ValueError(f"{file} is not a key: draws must be signed integers, as many as bins")
    numbers = None if draws is None else draws.numpy()
    return centred(values.astype(np.complex128), marked.astype(bool), numbers)


def as_array(tensor: Tensor) -> NDArray[Any]:
    """A tensor of any dtype as an array."""
    return (tensor if tensor.is_complex() or tensor.dtype == torch.bool else tensor.double()).numpy()


def detect_array(noise: Tensor | NDArray[np.floating], key: ArrayKey) -> Detection:
    """Test recovered noise (B, C, H, W) or (B, C, F, H, W) for a key that was not made here.

    The statistic is that of :func:`watermark.detection.detect` on one bin of every conjugate pair. For a key that
    was drawn at random, it is the same on the draws, see :mod:`watermark.draws`, and for a key whose Hermitian part
    vanishes, zeros, the F test for missing energy.

    Raises:
        ValueError: if the shape does not fit the key, or noise is not finite or zero where the mark is.
    """
    z = as_noise(noise)
    if (z.shape[1], *z.shape[-2:]) != key.values.shape:
        raise ValueError(f"noise of shape {z.shape} does not fit a key of shape {key.values.shape}")
    mark = key.mark
    scale = np.sqrt(mark.shape[-2] * mark.shape[-1])
    if key.vanishes:
        whole = key.mask & conjugate_bins(key.mask.astype(np.complex128)).real.astype(bool)
        if not whole.any():
            raise ValueError("real noise can hold nothing of the key: no marked bin has its conjugate marked, too")
        return energy_test(z, whole)
    flat = np.arange(mark[0].size).reshape(mark.shape[1:])
    twin = np.roll(flat[::-1, ::-1], 1, axis=(0, 1))
    marked = key.mask | conjugate_bins(key.mask.astype(np.complex128)).real.astype(bool)
    pairs, own = marked & (flat < twin), marked & (flat == twin)
    z = z if z.ndim == 5 else z[:, :, None]
    spectrum = np.fft.fft2(z).sum(2) / (scale * np.sqrt(z.shape[2]))
    y = coordinates(spectrum, pairs, own)
    k = coordinates(mark[None] / scale, pairs, own)[0]
    norm = np.linalg.norm(y, axis=1)
    if not (norm > 0).all():
        raise ValueError("noise is zero where the mark is: nothing to test")
    rho = y @ k / (np.linalg.norm(k) * norm)
    r, dimensions = rho, len(k)
    if key.draws is not None:
        through = key.regression
        parts = through.parts(drawn_values(key.draws, key.values))
        r = cosine(through.estimate(coordinates(spectrum, through.pairs, through.own)), parts)
        dimensions = len(parts)
    t, p = angle_test(r, dimensions)
    return Detection(t, np.maximum(p, TINY), rho, dimensions - 1)


def coordinates(spectrum: Complex, pairs: NDArray[np.bool_], own: NDArray[np.bool_]) -> NDArray[np.float64]:
    """(B, C, H, W) → (B, d), real numbers of unit variance for white noise; self-conjugate bins are real."""
    both = np.sqrt(2) * spectrum[:, pairs]
    return np.concatenate([both.real, both.imag, spectrum[:, own].real], axis=1)


def centred(values: Complex, mask: NDArray[np.bool_], draws: NDArray[np.integer] | None = None) -> ArrayKey:
    """A key from arrays with the zero frequency in the middle."""
    order = None if draws is None else np.fft.ifftshift(draws, axes=(-2, -1)).astype(np.int64)
    return ArrayKey(np.fft.ifftshift(values, axes=(-2, -1)), np.fft.ifftshift(mask, axes=(-2, -1)), order)

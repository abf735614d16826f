"""Keys that were not made here: of tree-ring watermarks as first published, of papers, and arrays in files.

Whoever has pictures marked by other code can verify them. Such a key is an array of Fourier values and a mask.
Noise being real, only the Hermitian part of what was written into the transform is in it, and is tested for.

p is exact over the noise, if the recovered noise is white and Gaussian. It is *not* one over a secret choice of the
key, which is unknown here: keys of constants or zeros resemble each other, and pictures, far more than random ones.
"""

from __future__ import annotations

from dataclasses import dataclass, field
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
from watermark.features import as_noise
from watermark.files import appearing

Complex = NDArray[np.complex128]
PATTERNS = ("ring", "rand", "zeros", "const")
CONSTANT_RINGS = (
    (1.2, 0.6, 1.4, 0.8, 0.2, 1.8),
    (1.2, 0.2, 1.2, 1.4, 0.6, 1.4),
    (0.4, 1.4, 1.6, 0.6, 0.8, 1.2),
    (1.4, 0.6, 1.4, 1.2, 0.2, 1.2),
)
"""Heights of the rings 1 … 6 of the keys of Hong et al. 2024, in units of 80."""


@dataclass(frozen=True)
class ArrayKey:
    """What was written where.

    Args:
        values: (C, H, W) complex, in the order of ``fft2`` and its scale, the one without a factor.
        mask: (C, H, W) bool, where they replaced those of the noise.

    Raises:
        ValueError: if a shape does not fit or a value is not finite, or nothing is marked.
    """

    values: Complex = field(repr=False)
    mask: NDArray[np.bool_] = field(repr=False)

    def __post_init__(self) -> None:
        if self.values.ndim != 3 or self.values.shape != self.mask.shape:
            raise ValueError(
                f"values and mask must have the same shape (C, H, W), got {self.values.shape} and {self.mask.shape}"
            )
        if not np.isfinite(self.values).all():
            raise ValueError("values must be finite")
        if not self.mask.any():
            raise ValueError("mask must mark at least one bin")

    @property
    def mark(self) -> Complex:
        """(C, H, W) the Hermitian part of the masked values: what real noise can hold of them."""
        written = np.where(self.mask, self.values, 0)
        return (written + conjugate_bins(written)) / 2

    def save(self, file: str | Path) -> None:
        """Write a new ``.safetensors`` file for :func:`read_array_key`, readable by its owner alone."""
        values, mask = (np.fft.fftshift(a, axes=(-2, -1)) for a in (self.values, self.mask))
        real = np.stack([values.real, values.imag], axis=-1)
        data = save({"values": torch.from_numpy(real), "mask": torch.from_numpy(mask)})
        with appearing(file, replace=False, private=True) as part:
            part.write_bytes(data)


def conjugate_bins(a: Complex) -> Complex:
    """F(−k)* for every k."""
    return np.roll(a[..., ::-1, ::-1], 1, axis=(-2, -1)).conj()


def tree_ring_key(
    seed: int,
    shape: tuple[int, int, int],
    *,
    pattern: str = "ring",
    channel: int = 3,
    radius: int = 10,
    constant: float = 0.0,
) -> ArrayKey:
    """The key that the code of Wen et al. 2023 (https://arxiv.org/abs/2305.20030) makes from a seed.

    It draws noise right after seeding PyTorch, takes its centred transform, and for ``ring`` gives every disc of
    radius ``radius``, ``radius`` − 1, … 1 the value found that far to the right of the first row's corner. The
    global random state is left alone. A seed gives other noise on a GPU than on the CPU: save that key's array
    there.

    Args:
        seed: ``w_seed``; 999999 is their default.
        shape: (C, H, H) of the latent.
        pattern: ``ring``, ``rand``, ``zeros`` or ``const``.
        channel: ``w_channel``; −1 is all.
        radius: ``w_radius``.
        constant: ``w_pattern_const``.

    Raises:
        ValueError: if an argument is out of range.
    """
    depth, height, width = shape
    if pattern not in PATTERNS:
        raise ValueError(f"pattern must be one of {', '.join(map(repr, PATTERNS))}, got {pattern!r}")
    if height != width:
        raise ValueError(f"shape must be square, got {height} × {width}")
    if not -1 <= channel < depth:
        raise ValueError(f"channel must be from -1 to {depth - 1}, got {channel}")
    if not 1 <= radius < height / 2:
        raise ValueError(f"radius must be at least 1 and below {height / 2:g}, got {radius}")
    drawn = torch.randn((1, *shape), generator=torch.Generator().manual_seed(seed))
    transform = torch.fft.fftshift(torch.fft.fft2(drawn), dim=(-1, -2))[0].numpy().astype(np.complex128)
    values = transform.copy()
    if pattern in {"zeros", "const"}:
        values[:] = constant if pattern == "const" else 0
    elif pattern == "ring":
        for r in range(radius, 0, -1):
            values[:, their_disc(height, r)] = transform[:, 0, r][:, None]
    mask = np.zeros(shape, dtype=bool)
    mask[slice(None) if channel == -1 else channel] = their_disc(height, radius)
    return centred(values, mask)


def their_disc(size: int, radius: int) -> NDArray[np.bool_]:
    """The circular mask of that code, in centred order: one row off the centre, as its keys are."""
    y, x = np.ogrid[:size, :size]
    return (x - size // 2) ** 2 + (y[::-1] - size // 2) ** 2 <= radius**2


def constant_ring_key(
    number: int, shape: tuple[int, int, int], *, channel: int = 0, radius: int = 6, level: float = 80.0
) -> ArrayKey:
    """One of the four keys of real constant rings of Hong et al. 2024, https://arxiv.org/abs/2409.18442.

    They are made for 64 × 64 latents of Stable Diffusion, where white noise has a standard deviation of 64 in a
    bin; for other sizes choose ``level`` in proportion to the side.

    Args:
        number: 0 … 3; their experiments use the first three.
        shape: (C, H, H) of the latent.
        channel: the marked one.
        radius: of the outermost ring, at most 6.
        level: of a ring of relative height 1.

    Raises:
        ValueError: if an argument is out of range.
    """
    depth, height, width = shape
    if not 0 <= number < len(CONSTANT_RINGS):
        raise ValueError(f"number must be from 0 to {len(CONSTANT_RINGS) - 1}, got {number}")
    if not 1 <= radius <= 6 or height != width or not 0 <= channel < depth:
        raise ValueError(f"radius must be 1 … 6, shape square and channel in it, got {radius}, {shape}, {channel}")
    values, mask = np.zeros(shape, dtype=np.complex128), np.zeros(shape, dtype=bool)
    for r in range(radius, 0, -1):
        values[:, their_disc(height, r)] = level * CONSTANT_RINGS[number][r - 1]
    mask[channel] = their_disc(height, radius)
    return centred(values, mask)


def read_array_key(file: str | Path, *, mask: str | Path | None = None) -> ArrayKey:
    """A key from ``.npy`` or ``.safetensors`` files; nothing in them is ever executed.

    Args:
        file: the values, centred (C, H, W), or (1, C, H, W) as in tree-ring code; complex in a ``.npy``. A
            ``.safetensors`` file holds ``values``, complex, or real with a last axis (real, imaginary), and
            ``mask``.
        mask: a ``.npy`` file with the mask in the same order; not for ``.safetensors``.

    Raises:
        ValueError: if a file is not what it should be.
        OSError: if it cannot be read.
    """
    file = Path(file)
    try:
        if file.suffix == ".safetensors":
            with safe_open(file, framework="pt") as tensors:
                values, marked = (as_array(tensors.get_tensor(name)) for name in ("values", "mask"))
        elif mask is None:
            raise ValueError("a mask is needed beside a .npy file of values")
        else:
            values, marked = (np.load(f, allow_pickle=False) for f in (file, Path(mask)))
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
    return centred(values.astype(np.complex128), marked.astype(bool))


def as_array(tensor: Tensor) -> NDArray[Any]:
    """A tensor of any dtype as an array."""
    return (tensor if tensor.is_complex() or tensor.dtype == torch.bool else tensor.double()).numpy()


def detect_array(noise: Tensor | NDArray[np.floating], key: ArrayKey) -> Detection:
    """Test recovered noise (B, C, H, W) or (B, C, F, H, W) for a key that was not made here.

    The statistic is that of :func:`watermark.detection.detect` on one bin of every conjugate pair; for a key whose
    Hermitian part vanishes, zeros, the F test for missing energy.

    Raises:
        ValueError: if the shape does not fit the key, or noise is not finite or zero where the mark is.
    """
    z = as_noise(noise)
    if (z.shape[1], *z.shape[-2:]) != key.values.shape:
        raise ValueError(f"noise of shape {z.shape} does not fit a key of shape {key.values.shape}")
    mark = key.mark
    scale = np.sqrt(mark.shape[-2] * mark.shape[-1])
    if np.abs(mark).max() < 1e-6 * scale:
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
    r = y @ k / (np.linalg.norm(k) * norm)
    t, p = angle_test(r, len(k))
    return Detection(t, np.maximum(p, TINY), r, len(k) - 1)


def coordinates(spectrum: Complex, pairs: NDArray[np.bool_], own: NDArray[np.bool_]) -> NDArray[np.float64]:
    """(B, C, H, W) → (B, d), real numbers of unit variance for white noise; self-conjugate bins are real."""
    both = np.sqrt(2) * spectrum[:, pairs]
    return np.concatenate([both.real, both.imag, spectrum[:, own].real], axis=1)


def centred(values: Complex, mask: NDArray[np.bool_]) -> ArrayKey:
    """A key from arrays with the zero frequency in the middle."""
    return ArrayKey(np.fft.ifftshift(values, axes=(-2, -1)), np.fft.ifftshift(mask, axes=(-2, -1)))

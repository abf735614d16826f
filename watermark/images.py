"""Reading image files that nobody should trust, and fitting them to a model.

A file is read once, and what was read is hashed. Its content decides what it is, never its name. Caps apply before
anything is decoded. What cannot be trusted is refused with an :class:`ImageError`; what can be read but was not
plain is read in a fixed way and noted in the picture's warnings.
"""

from __future__ import annotations

import hashlib
import io
import os
import stat
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps
from torch import Tensor

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
MAX_BYTES = 64 * 2**20
MAX_PIXELS = 50_000_000
BACKGROUND = (255, 255, 255)


class ImageError(Exception):
    """A file that is not read. ``code``: not_found, not_a_file, unreadable, unsupported_format or too_large."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Picture:
    """A decoded picture.

    Attributes:
        pixels: (H, W, 3) uint8, sRGB.
        sha256: of the file's bytes, hexadecimal; empty if there was no file.
        warnings: what was not plain about the file and how it was read.
    """

    pixels: NDArray[np.uint8]
    sha256: str = ""
    warnings: tuple[str, ...] = ()


def read_picture(path: str | Path) -> Picture:
    """Read an image file: PNG, JPEG, WebP, GIF or BMP, up to 64 MiB and 50 million pixels.

    Raises:
        ImageError: for anything else.
    """
    raw = read_bytes(path)
    notes: list[str] = []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(raw), formats=FORMATS)
            if image.width * image.height > MAX_PIXELS:
                raise ImageError("too_large", f"{image.width} × {image.height} pixels, more than {MAX_PIXELS:,}")
            check_ending(raw, str(image.format), notes)
            image.load()
            pixels = to_rgb(image, notes)
    except ImageError:
        raise
    except Image.UnidentifiedImageError:
        raise ImageError(
            "unsupported_format" if looks_like_image(raw) else "unreadable",
            f"the content is not a {', '.join(FORMATS[:-1])} or {FORMATS[-1]} image",
        ) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ImageError("too_large", f"more than {MAX_PIXELS:,} pixels") from None
    except MemoryError:
        raise ImageError("too_large", "not enough memory to decode it") from None
    except Exception as error:  # decoders raise anything on hostile input; every one of them means the same
        raise ImageError("unreadable", f"the image is damaged ({type(error).__name__}: {error})") from None
    return Picture(pixels, hashlib.sha256(raw).hexdigest(), tuple(notes))


def from_image(image: Image.Image) -> Picture:
    """A picture from a Pillow image in memory, converted as a file's would be."""
    notes: list[str] = []
    return Picture(to_rgb(image, notes), "", tuple(notes))


def read_bytes(path: str | Path) -> bytes:
    """The bytes of a regular file of at most 64 MiB; never blocks on a pipe or a device."""
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except FileNotFoundError:
        raise ImageError("not_found", "no such file") from None
    except (OSError, ValueError) as error:
        raise ImageError("unreadable", str(getattr(error, "strerror", None) or error)) from None
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        what = "a directory" if stat.S_ISDIR(mode) else "a pipe, socket or device"
        raise ImageError("not_a_file", f"this is {what}, not a regular file")
    with os.fdopen(descriptor, "rb") as file:
        try:
            raw = file.read(MAX_BYTES + 1)
        except OSError as error:
            raise ImageError("unreadable", str(error.strerror or error)) from None
    if len(raw) > MAX_BYTES:
        raise ImageError("too_large", f"more than {MAX_BYTES // 2**20} MiB")
    if not raw:
        raise ImageError("unreadable", "the file is empty")
    return raw


def looks_like_image(raw: bytes) -> bool:
    """Whether the first bytes are those of an image format that is known but not read."""
    return (
        raw.startswith((b"II*\0", b"MM\0*", b"%!PS", b"\0\0\1\0", b"8BPS", b"\x76\x2f\x31\x01", b"\xff\x0a"))
        or raw[4:8] == b"ftyp"
        or b"<svg" in raw[:512]
    )


def check_ending(raw: bytes, kind: str, notes: list[str]) -> None:
    """Refuse a JPEG without its end marker, note a PNG without its end chunk: Pillow reads both silently."""
    if kind == "JPEG" and raw.rfind(b"\xff\xd9") < raw.rfind(b"\xff\xda"):
        raise ImageError("unreadable", "the JPEG is cut off: it has no end marker")
    if kind == "PNG" and b"IEND" not in raw[-4096:]:
        notes.append("the PNG is cut off at its end")


def to_rgb(image: Image.Image, notes: list[str]) -> NDArray[np.uint8]:
    """First frame, upright, in sRGB, alpha over white, 8 bits: (H, W, 3) uint8."""
    if getattr(image, "n_frames", 1) > 1:
        notes.append("animated: only the first frame was read")
        image.seek(0)
    profile = image.info.get("icc_profile")
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I") or image.mode == "F":
        notes.append("more than 8 bits a channel: scaled to 8")
        levels = np.asarray(image, dtype=np.float64)
        if image.mode == "F" or levels.min() < 0 or levels.max() > 65535:
            raise ImageError("unsupported_format", f"pixel mode {image.mode} with values outside 0 … 65535")
        image = Image.fromarray(np.rint(levels / 257).astype(np.uint8))
    if "A" in image.getbands() or "a" in image.getbands() or "transparency" in image.info:
        rgba = image.convert("RGBA")
        if rgba.getchannel("A").getextrema() != (255, 255):
            notes.append("transparent: composited on white")
        opaque = Image.new("RGBA", image.size, (*BACKGROUND, 255))
        image = Image.alpha_composite(opaque, rgba).convert("RGB")
    if profile and image.mode in {"RGB", "CMYK", "L"}:
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
            image = converted or image
        except (ImageCms.PyCMSError, OSError, ValueError):
            notes.append("its colour profile is damaged and was ignored")
    if image.mode in {"1", "L"}:
        notes.append("grey: replicated to three channels")
    return np.asarray(image.convert("RGB"))


def fit(picture: Picture, size: tuple[int, int]) -> tuple[Tensor, tuple[str, ...]]:
    """Fit a picture to a model: cropped around the centre to the model's shape, then resized if it must be.

    Args:
        picture: the picture.
        size: (height, width) of the model's pictures.

    Returns:
        (3, height, width) float32 in [-1, 1], and notes on what was changed.
    """
    height, width = size
    have = picture.pixels.shape[:2]
    image = Image.fromarray(picture.pixels)
    notes = []
    if have != (height, width):
        if have[0] * width != have[1] * height:
            notes.append(f"{have[1]} × {have[0]} pixels: cropped around the centre to {width}:{height}")
        notes.append(f"resized to {width} × {height} pixels")
        image = ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS)
    x = torch.from_numpy(np.array(image, dtype=np.float32)).permute(2, 0, 1) / 127.5 - 1
    return x.contiguous(), tuple(notes)


def why_inconclusive(picture: Picture, size: tuple[int, int]) -> str | None:
    """Why no verdict about this picture could be trusted; None if there is no such reason."""
    height, width = picture.pixels.shape[:2]
    scale = min(height / size[0], width / size[1])
    if scale < 0.25:
        return f"too small: {width} × {height} pixels, less than a quarter of the model's {size[1]} × {size[0]}"
    if max(height / size[0], width / size[1]) > 2 * scale:
        return f"too long: {width} × {height} pixels, more than half of it would be cropped away"
    if picture.pixels.std(axis=(0, 1)).max() < 1:
        return "flat: all pixels have nearly the same colour"
    return None

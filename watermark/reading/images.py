"""Reading image files that nobody should trust.

A file is read once, and what was read is hashed. Its content decides what it is, never its name. Caps apply before
anything is decoded. What cannot be trusted is refused with an :class:`ImageError`; what can be read but was not
plain is read in a fixed way and noted in the picture's warnings.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import stat
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageFile, features

from watermark.reading.containers import content_of
from watermark.reading.content import ANIMATED, DAMAGED_PROFILE, MAX_PIXELS, Content, ImageError, check_pixels

MAX_BYTES = 64 * 2**20
NO_MEMORY = "not enough memory to decode it"
NO_CODEC = "AVIF, and Pillow has no codec for it here"
FOLDER = "this is a directory, not a regular file"
SPECIAL = "this is a pipe, socket or device, not a regular file"
BACKGROUND = (255, 255, 255)
ORIENTATION = 0x0112
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


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
    """Read an image file: PNG, JPEG, WebP, GIF, BMP or AVIF, up to 64 MiB and 50 million pixels.

    Raises:
        ImageError: for anything else; its code is one of :data:`watermark.reading.content.CODES`.
    """
    raw = read_bytes(path)
    digest = hashlib.sha256(raw).hexdigest()
    try:
        content = content_of(raw)
        del raw
        pixels = decode(content)
    except ImageError as error:
        error.sha256 = "" if str(error) == NO_CODEC else digest
        raise
    except Image.UnidentifiedImageError:  # its text is an address in memory
        raise ImageError("unreadable", "the image is damaged: its header makes no sense", digest) from None
    except Image.DecompressionBombError:
        raise ImageError("too_large", f"more than {MAX_PIXELS:,} pixels", digest) from None
    except MemoryError:
        raise ImageError("too_large", NO_MEMORY) from None
    except Exception as error:  # decoders raise anything on hostile input; every one of them means the same
        if "out of memory" in str(error):
            raise ImageError("too_large", NO_MEMORY) from None
        raise ImageError("unreadable", f"the image is damaged ({shown(error)})", digest) from None
    return Picture(pixels, digest, tuple(content.notes))


def from_image(image: Image.Image) -> Picture:
    """A picture from a Pillow image in memory, converted as a file's would be.

    Raises:
        ImageError: if it cannot be read, as one of a damaged file that was opened and not loaded.
    """
    notes: list[str] = []
    try:
        exif = image.info.get("exif")
        if exif is None and ORIENTATION in image.getexif():  # set in memory, or of a format that has it elsewhere
            exif = image.getexif().tobytes()
        pixels = to_rgb(image, notes, image.info.get("icc_profile"), exif)
    except ImageError:
        raise
    except MemoryError:
        raise ImageError("too_large", NO_MEMORY) from None
    except Exception as error:  # as above
        raise ImageError("unreadable", f"the image is damaged ({shown(error)})") from None
    return Picture(pixels, "", tuple(notes))


def read_bytes(path: str | Path) -> bytes:
    """The bytes of a regular file of at most 64 MiB; never blocks on a pipe or a device."""
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except FileNotFoundError:
        raise ImageError("not_found", "no such file") from None
    except (OSError, ValueError) as error:
        if getattr(error, "errno", None) == errno.ENXIO:  # a socket
            raise ImageError("not_a_file", SPECIAL) from None
        raise ImageError("unreadable", str(getattr(error, "strerror", None) or error)) from None
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        raise ImageError("not_a_file", FOLDER if stat.S_ISDIR(mode) else SPECIAL)
    with os.fdopen(descriptor, "rb") as file:
        try:
            raw = file.read(MAX_BYTES + 1)
        except OSError as error:
            raise ImageError("unreadable", str(error.strerror or error)) from None
    if raw is None:  # what says that it is a file and has nothing to read yet, as of /proc
        raise ImageError("not_a_file", SPECIAL)
    if len(raw) > MAX_BYTES:
        raise ImageError("too_large", f"more than {MAX_BYTES // 2**20} MiB")
    if not raw:
        raise ImageError("unreadable", "the file is empty")
    return raw


def shown(error: Exception) -> str:
    """An error of a decoder, in at most 200 printable ASCII characters: it may quote the file."""
    return f"{type(error).__name__}: {error}".encode("unicode_escape").decode("ascii")[:200]


def decode(content: Content) -> NDArray[np.uint8]:
    """The pixels (H, W, 3) uint8 in sRGB of what a file holds; notes what was not plain in its notes."""
    if content.kind == "AVIF" and not features.check("avif"):
        raise ImageError("unsupported_format", NO_CODEC)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if content.colour is not None:
            content.notes.append("more than 8 bits a channel: scaled to 8")
            return to_rgb(sixteen_bits(content), content.notes, content.profile, content.exif)
        image = opened(content.kind, content.data)
        profile = content.profile or image.info.get("icc_profile")
        exif = content.exif or image.info.get("exif")
        pixels = to_rgb(image, content.notes, profile, exif)
        if content.again is not None:
            again = opened(content.kind, content.again)
            if np.array_equal(np.asarray(image), np.asarray(again)):
                return pixels
            raise ImageError("unreadable", "the JPEG is damaged or cut off: parts of its data are missing")
    return pixels


def opened(kind: str, data: bytes) -> ImageFile.ImageFile:
    """Have Pillow open a file of a format, but not decode it yet."""
    image = Image.open(io.BytesIO(data), formats=(kind,))
    check_pixels(*image.size)
    return image


def to_8_bits(levels: NDArray[np.integer]) -> NDArray[np.uint8]:
    """Levels of 16 bits → the nearest of 8: v / 257, rounded."""
    return ((levels.astype(np.uint32) * 255 + 32895) >> 16).astype(np.uint8)


def high_and_low(content: Content) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The bytes of a PNG of 16 bits a channel, each (H, W, channels). Pillow would give the high ones alone."""
    image = opened("PNG", content.data)
    if content.colour == 0:
        pairs = np.asarray(image).astype(">u2").view(np.uint8).reshape(image.height, image.width, 2)
        return pairs[..., :1], pairs[..., 1:]
    if content.colour == 4:
        pairs = np.asarray(image)
        return pairs[..., 0::2], pairs[..., 1::2]
    low = opened("PNG", content.data)  # the high bytes, if they were little-endian
    low.tile = [tile._replace(args=f"{low.mode};16L") for tile in low.tile]
    return np.asarray(image), np.asarray(low)


def sixteen_bits(content: Content) -> Image.Image:
    """A PNG of 16 bits a channel, scaled to 8; a few rows at a time, as memory is bounded."""
    high, low = high_and_low(content)
    channels, clear = high.shape[-1], content.transparent
    pixels = np.empty((*high.shape[:2], channels + (clear is not None)), np.uint8)
    for start in range(0, len(high), 64):
        rows = slice(start, start + 64)
        levels = high[rows].astype(np.uint16) << 8 | low[rows]
        pixels[rows, :, :channels] = to_8_bits(levels)
        if clear is not None:
            pixels[rows, :, channels] = (levels != np.array(clear, np.uint16)).any(-1) * np.uint8(255)
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def to_rgb(image: Image.Image, notes: list[str], profile: bytes | None, exif: bytes | None) -> NDArray[np.uint8]:
    """First frame, upright, in sRGB, alpha over white, 8 bits: (H, W, 3) uint8."""
    if getattr(image, "is_animated", False):
        if ANIMATED not in notes:
            notes.append(ANIMATED)
        image.seek(0)
    image.load()
    turn = orientation(exif, notes)
    if turn in UPRIGHT:
        image = image.transpose(UPRIGHT[turn])
    if image.mode.startswith("I") or image.mode == "F":
        notes.append("more than 8 bits a channel: scaled to 8")
        levels = np.asarray(image)
        if image.mode == "F" or levels.min() < 0 or levels.max() > 65535:
            raise ImageError(
                "unsupported_format", f"pixels of mode {image.mode} that are not whole numbers from 0 to 65535"
            )
        image = Image.fromarray(to_8_bits(levels.astype(np.uint16)))
    if image.mode == "La":
        image = image.convert("LA")
    if image.mode in {"1", "L", "LA"}:
        notes.append("grey: replicated to three channels")
    alpha = None
    if image.mode in {"LA", "PA", "RGBA", "RGBa"} or "transparency" in image.info:
        image = image.convert("RGBA")
        alpha = image.getchannel("A")
        grey = "grey: replicated to three channels" in notes
        image = image.convert("RGB").getchannel("R") if grey else image.convert("RGB")
    if image.mode not in {"L", "RGB", "CMYK"}:
        image = image.convert("L" if image.mode == "1" else "RGB")
    if profile:
        image = in_srgb(image, profile, notes)
    image = image.convert("RGB")
    if alpha is not None and alpha.getextrema() != (255, 255):
        notes.append("transparent: composited on white")
        image = Image.composite(image, Image.new("RGB", image.size, BACKGROUND), alpha)
    return np.asarray(image)


def orientation(exif: bytes | None, notes: list[str]) -> int:
    """How a camera was held, 1 … 8, by its EXIF data; 1 if they do not say."""
    if not exif:
        return 1
    with warnings.catch_warnings(record=True) as complaints:
        warnings.simplefilter("always")
        try:
            data = Image.Exif()
            data.load(exif)
            turn = data.get(ORIENTATION, 1)
        except Exception:  # a parser of hostile input, as above
            turn = None
    sound = isinstance(turn, int) and 0 <= turn <= 8
    if complaints or not sound:
        notes.append("its EXIF data are damaged")
    return int(turn) if sound else 1


def in_srgb(image: Image.Image, profile: bytes, notes: list[str]) -> Image.Image:
    """An image of mode L, RGB or CMYK converted from its ICC profile to sRGB; as it is if that cannot be used."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        converted = None
    if converted is None:
        notes.append(DAMAGED_PROFILE)
    return converted or image

"""What is in an image file, or why it is refused."""

from __future__ import annotations

from dataclasses import dataclass, field

MAX_PIXELS = 50_000_000
MAX_PIECES = 1_000_000  # chunks, segments or blocks of a file
CUT = "cut off at its end"
BEHIND = "there are bytes behind the end of the image, which were ignored"
ZEROS = "its data end in zeros: a part of the picture may be missing"
ANIMATED = "animated: only the first frame was read"
DAMAGED_PROFILE = "its colour profile is damaged and was ignored"
CODES = {
    "not_found": "there is no file of this name",
    "not_a_file": "a directory, pipe, socket or device",
    "unreadable": "the file cannot be opened, is empty, damaged or cut off, or no image",
    "unsupported_format": "an image of a format, or with pixels of a type, that is not read",
    "too_large": "more bytes, pixels, parts or memory than allowed",
    "timeout": "decoding it took too long",
    "crashed": "decoding it ended the process",
}
"""Every code of a refusal and what it means."""


class ImageError(Exception):
    """An image that is not read.

    Args:
        code: one of :data:`CODES`.
        message: why, for people.
        sha256: of the file's bytes, hexadecimal, if reading them again would change nothing; else empty.
    """

    def __init__(self, code: str, message: str, sha256: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.sha256 = sha256


def check_pixels(width: int, height: int) -> None:
    """Refuse more than 50 million pixels."""
    if width * height > MAX_PIXELS:
        raise ImageError("too_large", f"{width} × {height} pixels, more than {MAX_PIXELS:,}")


def ends_in_zeros(data: bytes, pixels: int) -> bool:
    """Whether compressed data end in more zeros than those of a flat picture may, as of a copy that was broken off.

    Of a WebP in one colour they do in one for every 10,000 pixels.
    """
    return len(data) - len(data.rstrip(b"\0")) > 32 + pixels // 8000


@dataclass
class Content:
    """What a decoder needs of a file.

    Attributes:
        kind: the format, in Pillow's words.
        data: a file of that format.
        notes: what was not plain.
        profile: its ICC profile, if that is not in the data.
        exif: its EXIF data, if that is not in the data.
        colour: PNG's colour type, if it has 16 bits a channel; those of type 4 come as RGBA of 8 bits: high and low
            byte of grey, and of alpha.
        transparent: of such a PNG, the levels that stand for transparency.
        again: a JPEG with bits added where each part of its data ends, which no decoder sees if all is there.
    """

    kind: str
    data: bytes
    notes: list[str] = field(default_factory=list)
    profile: bytes | None = None
    exif: bytes | None = None
    colour: int | None = None
    transparent: tuple[int, ...] | None = None
    again: bytes | None = None

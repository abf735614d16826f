"""What is in an image file, found before a decoder sees it, and what of it a decoder needs.

Decoders are given pixels and palettes. Texts, comments, thumbnails, later frames and what follows the end are left
out of most formats, so that nothing unpacks them. What decoders pass over in silence is found here: rows, scans or
ends that are missing, checksums that are wrong, data behind the end.

Sources: the GIF89a specification, RFC 9649 (WebP), ISO/IEC 14496-12 (boxes of AVIF).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator

from watermark.reading.content import (
    ANIMATED,
    BEHIND,
    CUT,
    MAX_PIECES,
    ZEROS,
    Content,
    ImageError,
    check_pixels,
    ends_in_zeros,
)
from watermark.reading.jpeg import jpeg
from watermark.reading.png import PNG_START, png


def content_of(raw: bytes) -> Content:
    """What an image file holds: PNG, JPEG, WebP, GIF, BMP or AVIF, told by its first bytes.

    Raises:
        ImageError: if it is something else, cut off, damaged, or too large.
    """
    if raw.startswith(PNG_START):
        return png(raw)
    if raw.startswith(b"\xff\xd8\xff"):
        return jpeg(raw)
    if raw[:6] in {b"GIF87a", b"GIF89a"}:
        return gif(raw)
    if raw[:4] == b"RIFF" and raw[8:12] == b"WEBP":
        return webp(raw)
    if raw.startswith(b"BM"):
        return bmp(raw)
    if raw[4:8] == b"ftyp" and re.search(rb"avi[fs]", raw[8 : min(int.from_bytes(raw[:4], "big"), 256)]):
        return avif(raw)
    known = (
        raw.startswith((b"II*\0", b"MM\0*", b"%!PS", b"\0\0\1\0", b"8BPS", b"\x76\x2f\x31\x01", b"\xff\x0a"))
        or raw[4:8] in {b"ftyp", b"jP  ", b"JXL "}
        or b"<svg" in raw[:512]
    )
    code = "unsupported_format" if known else "unreadable"
    raise ImageError(code, "the content is not a PNG, JPEG, WebP, GIF, BMP or AVIF image")


def gif_palette(raw: bytes, at: int) -> int:
    """How many bytes a palette has, by the flags before it."""
    flags = raw[at] if at < len(raw) else 0
    return 3 << (flags & 7) + 1 if flags & 128 else 0


def gif_blocks(raw: bytes) -> Iterator[tuple[bytes, int, int]]:
    """The blocks behind the screen and palette of a GIF: kind, start and end, which lies behind the file if cut."""
    at, pieces = 13 + gif_palette(raw, 10), 0
    while (kind := raw[at : at + 1]) in {b"!", b","} and pieces < MAX_PIECES:
        start = at
        at += 2 if kind == b"!" else 11 + gif_palette(raw, at + 9)
        while at < len(raw) and raw[at] and pieces < MAX_PIECES:
            at += 1 + raw[at]
            pieces += 1
        at += 1
        pieces += 1
        yield kind, start, at
    if pieces >= MAX_PIECES:
        raise ImageError("too_large", f"more than {MAX_PIECES:,} blocks")
    yield kind, at, at + 1


def gif(raw: bytes) -> Content:
    """A GIF: its screen, palettes and first frame."""
    out = Content("GIF", b"")
    control, frame = b"", b""
    for kind, start, end in gif_blocks(raw):
        if kind == b"," and frame:
            out.notes.append(ANIMATED)
            break
        if kind == b",":
            frame = raw[start:end]
            left, top, width, height = struct.unpack("<HHHH", frame[1:9].ljust(8, b"\0"))
            check_pixels(width, height)
            if (left, top) != (0, 0) or (width, height) != struct.unpack("<HH", raw[6:10]):
                out.notes.append("the first frame does not fill the picture")
        elif kind == b"!" and raw[start + 1 : start + 2] == b"\xf9" and not frame:
            control = raw[start:end]
        if end > len(raw):
            out.notes.append(CUT)
        elif kind not in {b"!", b","} and (kind != b";" or end < len(raw)):
            out.notes.append(BEHIND)
    if not frame:
        raise ImageError("unreadable", "the GIF is damaged or cut off: it has no picture")
    out.data = raw[: 13 + gif_palette(raw, 10)] + control + frame + b";"
    return out


def webp(raw: bytes) -> Content:
    """A WebP, as it is up to its end."""
    end = 8 + int.from_bytes(raw[4:8], "little")
    if end > len(raw):
        raise ImageError("unreadable", "the WebP is cut off")
    kind, head = raw[12:16], raw[20:30]
    if kind == b"VP8X":
        width, height = 1 + int.from_bytes(head[4:7], "little"), 1 + int.from_bytes(head[7:10], "little")
    elif kind == b"VP8L":
        bits = int.from_bytes(head[1:5], "little")
        width, height = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    else:
        width, height = (int.from_bytes(head[at : at + 2], "little") & 0x3FFF for at in (6, 8))
    check_pixels(width, height)
    out = Content("WEBP", raw[:end], [BEHIND] if end + end % 2 < len(raw) else [])
    at = 12
    for _ in range(MAX_PIECES):
        if at + 8 > end:
            return out
        data = at + 8, at + 8 + int.from_bytes(raw[at + 4 : at + 8], "little")
        if raw[at : at + 4] in {b"VP8 ", b"VP8L", b"ANMF"}:
            out.notes += [ZEROS] if ends_in_zeros(raw[data[0] : data[1]], width * height) else []
            return out
        at = data[1] + data[1] % 2
    raise ImageError("too_large", f"more than {MAX_PIECES:,} chunks")


def bmp(raw: bytes) -> Content:
    """A BMP as it is."""
    out = Content("BMP", raw)
    if len(raw) >= 54 and raw[30:34] in {bytes(4), b"\3\0\0\0"}:
        width, height = struct.unpack("<ii", raw[18:26])
        row = (abs(width) * int.from_bytes(raw[28:30], "little") + 31) // 32 * 4
        if int.from_bytes(raw[10:14], "little") + row * abs(height) + 4 < len(raw):
            out.notes.append(BEHIND)
    return out


def avif(raw: bytes) -> Content:
    """An AVIF, up to the end of its last box."""
    at = 0
    notes: list[str] = []
    for _ in range(MAX_PIECES):
        size = int.from_bytes(raw[at : at + 4], "big")
        if size == 1:
            size = int.from_bytes(raw[at + 8 : at + 16], "big")
        elif size == 0:
            size = len(raw) - at
        if not re.fullmatch(rb"[ -~]{4}", raw[at + 4 : at + 8]) or size < 8:
            return Content("AVIF", raw[:at], [*notes, BEHIND])
        if raw[at + 4 : at + 8] == b"mdat" and ends_in_zeros(raw[at + 8 : at + size], 0):
            notes = [ZEROS]
        at += size
        if at > len(raw):
            raise ImageError("unreadable", "the AVIF is cut off")
        if at == len(raw):
            return Content("AVIF", raw, notes)
    raise ImageError("too_large", f"more than {MAX_PIECES:,} boxes")

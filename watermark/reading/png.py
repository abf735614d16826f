"""The chunks of a PNG (3rd edition, W3C 2025): whether all of its rows are there, and unharmed."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

from watermark.reading.content import (
    ANIMATED,
    BEHIND,
    CUT,
    DAMAGED_PROFILE,
    MAX_PIECES,
    Content,
    ImageError,
    check_pixels,
)

MAX_PROFILE = 4 * 2**20
MOST_NOTES = 8
PNG_START = b"\x89PNG\r\n\x1a\n"
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
ADAM7 = ((0, 8, 0, 8), (4, 8, 0, 8), (0, 4, 4, 8), (2, 4, 0, 4), (0, 2, 2, 4), (1, 2, 0, 2), (0, 1, 1, 2))


def chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_chunks(raw: bytes, notes: list[str]) -> Iterator[tuple[bytes, bytes]]:
    """The chunks of a PNG with the right checksum, and what there is of the last one."""
    at = len(PNG_START)
    for _ in range(MAX_PIECES):
        length, kind = int.from_bytes(raw[at : at + 4], "big"), raw[at + 4 : at + 8]
        data, end = raw[at + 8 : at + 8 + length], at + 12 + length
        if end > len(raw):
            notes.append(CUT)
            if kind == b"IDAT":
                yield kind, data
            return
        if zlib.crc32(raw[at + 4 : end - 4]) == int.from_bytes(raw[end - 4 : end], "big"):
            yield kind, data
        elif kind[:1].isupper():
            raise ImageError("unreadable", f"the PNG is damaged: the checksum of a chunk {kind!r} is wrong")
        elif (note := f"a chunk {kind!r} is damaged and was ignored") not in notes and len(notes) < MOST_NOTES:
            notes.append(note)
        if kind == b"IEND":
            if end < len(raw):
                notes.append(BEHIND)
            return
        at = end
    raise ImageError("too_large", f"more than {MAX_PIECES:,} chunks")


def png_parts(raw: bytes, notes: list[str]) -> tuple[dict[bytes, bytes], bytes]:
    """The first chunk of each kind, and all compressed pixels."""
    first: dict[bytes, bytes] = {}
    pixels: list[bytes] = []
    before = b""
    for kind, data in png_chunks(raw, notes):
        if kind == b"IDAT":
            if pixels and before != b"IDAT":
                raise ImageError("unreadable", "the PNG is damaged: its pixels are not in one piece")
            pixels.append(data)
        elif kind[:1].isupper() and kind not in {b"IHDR", b"PLTE", b"IEND"}:
            raise ImageError("unsupported_format", f"a PNG with a chunk {kind!r}, which is not of the standard")
        first.setdefault(kind, data)
        before = kind
    if next(iter(first), b"") != b"IHDR" or len(first[b"IHDR"]) != 13 or not pixels:
        raise ImageError("unreadable", "the PNG is damaged: it has no header or no pixels")
    return first, b"".join(pixels)


def png(raw: bytes) -> Content:
    """A PNG: its header, palette, transparency and pixels."""
    out = Content("PNG", b"")
    first, body = png_parts(raw, out.notes)
    header, clear = first[b"IHDR"], first.get(b"tRNS", b"")
    width, height, depth, colour, method, _, laced = struct.unpack(">IIBBBBB", header)
    if depth not in DEPTHS.get(colour, ()) or method or laced > 1 or not width or not height:
        raise ImageError("unreadable", "the PNG is damaged: its header makes no sense")
    check_pixels(width, height)
    check_rows(body, png_bytes(width, height, depth * CHANNELS[colour], bool(laced)), out.notes)
    if int.from_bytes(first.get(b"acTL", b"")[:4], "big") > 1:
        out.notes.append(ANIMATED)
    if b"iCCP" in first:
        out.profile = png_profile(first[b"iCCP"], out.notes)
    elif not is_srgb(first):
        out.notes.append("its colours are not those of sRGB, as which they were read")
    out.exif = first.get(b"eXIf")
    if depth == 16:
        out.colour = colour
        if colour in {0, 2} and len(clear) == 2 * CHANNELS[colour]:
            out.transparent = struct.unpack(f">{CHANNELS[colour]}H", clear)
        clear = b""
        if colour == 4:
            header = struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, laced)
    elif colour == 0 and len(clear) == 2 and depth > 1:  # Pillow compares it with levels that it has scaled
        clear = struct.pack(">H", int.from_bytes(clear, "big") % 2**depth * 255 // (2**depth - 1))
    parts = ((b"IHDR", header), (b"PLTE", first.get(b"PLTE", b"")), (b"tRNS", clear), (b"IDAT", body))
    out.data = PNG_START + b"".join(chunk(kind, data) for kind, data in parts if data) + chunk(b"IEND", b"")
    return out


def is_srgb(first: dict[bytes, bytes]) -> bool:
    """Whether chunks say nothing of colours, or nearly what sRGB is; cICP goes before sRGB, that before gAMA."""
    if b"cICP" in first:
        return first[b"cICP"][:2] == b"\x01\x0d"
    gamma = int.from_bytes(first.get(b"gAMA", b""), "big")
    return b"sRGB" in first or not gamma or 40_000 <= gamma <= 50_000


def png_bytes(width: int, height: int, bits: int, laced: bool) -> int:
    """How many bytes the rows of a PNG have, each with that of its filter."""
    passes = ADAM7 if laced else ((0, 1, 0, 1),)
    sizes = [(-(-(width - x) // dx), -(-(height - y) // dy)) for x, dx, y, dy in passes]
    return sum(rows * (1 + (columns * bits + 7) // 8) for columns, rows in sizes if columns > 0 and rows > 0)


def check_rows(packed: bytes, expected: int, notes: list[str]) -> None:
    """Refuse compressed rows that are fewer than expected, or do not fit their checksum; note what is not plain."""
    unpack = zlib.decompressobj()
    try:
        rest, have = packed, 0
        while have <= expected and not unpack.eof:
            piece = unpack.decompress(rest, 2**20)
            rest = unpack.unconsumed_tail
            have += len(piece)
            if not piece and not rest:
                break
    except zlib.error:
        raise ImageError("unreadable", "the PNG is damaged: its pixels cannot be unpacked") from None
    if have < expected:
        raise ImageError("unreadable", "the PNG is cut off: it has fewer rows than its header says")
    if have > expected:
        notes.append("the PNG has more pixels than its header says, which were ignored")
    elif not unpack.eof and CUT not in notes:
        notes.append(CUT)


def png_profile(data: bytes, notes: list[str]) -> bytes | None:
    """The ICC profile in a chunk iCCP; None, with a note, if it is damaged or larger than 4 MiB."""
    name, _, packed = data.partition(b"\0")
    unpack = zlib.decompressobj()
    try:
        profile = unpack.decompress(packed[1:], MAX_PROFILE)
    except zlib.error:
        profile = b""
    if len(name) < 80 and packed[:1] == b"\0" and profile and unpack.eof:
        return profile
    notes.append(DAMAGED_PROFILE)
    return None

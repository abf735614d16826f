"""The outer structure of a JPEG (ITU-T T.81): whether all of its scans are there.

libjpeg fills what is missing with grey, and says nothing. A scan is a stream of bits without a length; whether it
ended too early shows only when it is decoded. So the file is decoded twice: as it is, and with bits added where
every stream ends. Whatever ended too early takes them for its own, and its pixels differ.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from watermark.reading.content import BEHIND, MAX_PIECES, Content, ImageError, check_pixels

MAX_SCANS = 500  # usual are 10
MAX_WORK = 10**9  # pixels times scans: each scan goes over the whole picture
JUNK = b"\xaa" * 256  # enough for a few units of any coding
MARKER = re.compile(rb"\xff+([^\x00\xff])")
SCAN_END = re.compile(rb"\xff+[^\x00\xd0-\xd7\xff]")
RESTART = re.compile(rb"\xff+[\xd0-\xd7]")
SOF, PROGRESSIVE, DHT, DAC, SOS, DRI, EOI = 0xC0, 0xC2, 0xC4, 0xCC, 0xDA, 0xDD, 0xD9
NOT_KEPT = {0xFE, *range(0xE1, 0xEE), 0xEF}  # comments and metadata; E0 and EE say what the colours are
NEVER = 14
EXIF, ICC = b"Exif\0\0", b"ICC_PROFILE\0"


@dataclass
class Frame:
    """The header of a picture, and what its scans brought so far.

    Attributes:
        progressive: whether a scan may bring some of the coefficients, or some of their bits.
        width: in pixels.
        height: in pixels.
        factors: of sampling, across and down, by component.
        missing: how many bits of each coefficient have not come, by component.
        scans: their number.
    """

    progressive: bool
    width: int
    height: int
    factors: dict[int, tuple[int, int]]
    missing: dict[int, list[int]]
    scans: int = 0

    def units(self, components: list[int]) -> int:
        """How many units a scan of these components has, between which it may be restarted."""
        across, down = (max(each[i] for each in self.factors.values()) for i in (0, 1))
        h, v = self.factors[components[0]] if len(components) == 1 else (1, 1)
        return math.ceil(math.ceil(self.width * h / across) / 8) * math.ceil(math.ceil(self.height * v / down) / 8)


def damaged(why: str) -> ImageError:
    """A refusal."""
    return ImageError("unreadable", f"the JPEG is damaged or cut off: {why}")


def segments(raw: bytes) -> Iterator[tuple[int, bytes, bytes, int]]:
    """The segments of a JPEG and its end: marker, content, the bits of a scan, and where the segment ends."""
    at = 2
    for _ in range(MAX_PIECES):
        found = MARKER.search(raw, at)
        if found is None:
            raise damaged("it has no end marker")
        marker, at = found[1][0], found.end()
        if marker == EOI:
            yield marker, b"", b"", at
            return
        if marker == 1 or 0xD0 <= marker <= 0xD8:
            continue
        length = int.from_bytes(raw[at : at + 2], "big")
        body, at = raw[at + 2 : at + length], at + length
        if length < 2 or at > len(raw):
            raise damaged("it ends within a segment")
        stream = b""
        if marker == SOS:
            stop = SCAN_END.search(raw, at)
            if stop is None:
                raise damaged("it has no end marker")
            stream, at = raw[at : stop.start()], stop.start()
        yield marker, body, stream, at
    raise ImageError("too_large", f"more than {MAX_PIECES:,} segments")


def jpeg(raw: bytes) -> Content:
    """A JPEG: its tables and scans.

    Raises:
        ImageError: if it is cut off, of a kind that is not read, or too large.
    """
    out = Content("JPEG", b"")
    kept, again = [b"\xff\xd8"], [b"\xff\xd8"]
    profile: dict[int, bytes] = {}
    frame: Frame | None = None
    interval, end, several = 0, 0, False
    for marker, body, stream, at in segments(raw):
        end = at
        if marker == DRI:
            interval = int.from_bytes(body, "big")
        elif SOF <= marker <= 0xCF and marker not in {DHT, DAC, 0xC8}:
            frame = frame_of(marker, body)
        elif marker == SOS:
            check_scan(body, stream, frame, interval)
        elif marker == 0xE1 and body.startswith(EXIF):
            out.exif = out.exif or body
        elif marker == 0xE2 and body.startswith(ICC) and len(body) > 14:
            profile.setdefault(body[12], body[14:])
        several |= marker == 0xE2 and body.startswith(b"MPF\0")
        if marker not in NOT_KEPT:
            head = bytes((0xFF, marker)) + (b"" if marker == EOI else struct.pack(">H", len(body) + 2) + body)
            kept.append(head + stream)
            more = RESTART.sub(lambda m: JUNK + m[0], stream) + JUNK if marker == SOS else b""
            again.append(head + more)
    check_detail(frame, out.notes)
    if several:
        out.notes.append("several pictures: only the first was read")
    elif end < len(raw):
        out.notes.append(BEHIND)
    out.data, out.again = b"".join(kept), b"".join(again)
    out.profile = b"".join(profile[i] for i in sorted(profile)) if profile else None
    return out


def frame_of(marker: int, body: bytes) -> Frame:
    """The header of a picture."""
    if marker > PROGRESSIVE or body[:1] != b"\x08":
        raise ImageError("unsupported_format", "a JPEG with lossless or arithmetic coding, or of more than 8 bits")
    if len(body) < 6 or len(body) != 6 + 3 * body[5] or not body[5]:
        raise damaged("its header makes no sense")
    height, width = struct.unpack(">HH", body[1:5])
    check_pixels(width, height)
    factors = {body[i]: (body[i + 1] >> 4, body[i + 1] & 15) for i in range(6, len(body), 3)}
    if not width or not height or any(not 1 <= f <= 4 for each in factors.values() for f in each):
        raise damaged("its header makes no sense")
    return Frame(marker == PROGRESSIVE, width, height, factors, {c: [NEVER] * 64 for c in factors})


def check_scan(body: bytes, stream: bytes, frame: Frame | None, interval: int) -> None:
    """Refuse a scan that makes no sense or has too few parts; record in the frame what it brings."""
    if frame is None:
        raise damaged("it has no header")
    frame.scans += 1
    most = min(MAX_SCANS, MAX_WORK // (frame.width * frame.height))
    if frame.scans > most:
        raise ImageError("too_large", f"more than {most} scans of so many pixels")
    count = body[0] if body else 0
    components = list(body[1 : 1 + 2 * count : 2])
    if not count or len(body) != 4 + 2 * count or any(c not in frame.factors for c in components):
        raise damaged("a scan makes no sense")
    first, last, before, bit = 0, 63, 0, 0
    if frame.progressive:
        first, last, before, bit = body[-3], min(body[-2], 63), body[-1] >> 4, body[-1] & 15
    for component in components:
        have = frame.missing[component]
        for i in range(first, last + 1):
            if before == 0 or have[i] == before:  # a first scan, or one that refines what is there
                have[i] = min(have[i], bit)
    restarts = (frame.units(components) - 1) // interval if interval else 0
    if len(RESTART.findall(stream)) != restarts:
        raise damaged("parts of its data are missing")


def check_detail(frame: Frame | None, notes: list[str]) -> None:
    """Refuse a picture without all of its components; note if some bits of its coefficients never came."""
    if frame is None or any(bits[0] == NEVER for bits in frame.missing.values()):
        raise damaged("not all of its colours are there")
    if any(bit for bits in frame.missing.values() for bit in bits):
        notes.append("it is not as detailed as it says: some scans are missing")

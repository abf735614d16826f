"""Image files that a verifier must survive, made here one by one, each with what has to come of it."""

import functools
import math
import os
import socket
import struct
import zlib
from dataclasses import dataclass

import numpy as np
from PIL import Image

from tests.hostile_bytes import (
    COLOURS,
    GREY,
    PIXELS,
    RNG,
    SMOOTH,
    after_start,
    bmp_of,
    chunk,
    chunks,
    encoded,
    exif_of,
    gif_codes,
    gif_of,
    grey,
    header,
    join_jpeg,
    joined,
    lossy,
    png,
    profile,
    riff,
    segment,
    small_png,
    split_jpeg,
    sub_blocks,
    turned,
)

INCONCLUSIVE = "inconclusive"
CUT, BEHIND, ANIMATED, ZEROS = "cut off", "behind the end", "first frame", "end in zeros"


@dataclass(frozen=True)
class Hostile:
    """A file: a code of refusal, ``inconclusive``, or None for a verdict; a part of each warning; its pixels, and
    by how much they may differ."""

    name: str
    raw: bytes
    code: str | None = None
    warnings: tuple[str, ...] = ()
    pixels: np.ndarray | None = None
    tolerance: int = 0


# ---------------------------------------------------------------- sound files


@functools.cache
def sound():
    """Files that nothing is wrong with, by name: bytes and pixels."""
    blue = Image.fromarray(SMOOTH)
    palette = blue.quantize(64)
    made = {
        "png": encoded("PNG"),
        "png smooth": encoded("PNG", SMOOTH),
        "png stored": png(PIXELS, level=0),
        "png palette": encoded("PNG", palette),
        "jpeg": encoded("JPEG", SMOOTH, quality=90),
        "jpeg 4:4:4": encoded("JPEG", SMOOTH, quality=90, subsampling=0),
        "jpeg optimised": encoded("JPEG", SMOOTH, optimize=True),
        "jpeg progressive": encoded("JPEG", SMOOTH, progressive=True),
        "jpeg restarts": encoded("JPEG", SMOOTH, restart_marker_blocks=2),
        "jpeg rows restarts": encoded("JPEG", SMOOTH, restart_marker_rows=1),
        "jpeg progressive restarts": encoded("JPEG", SMOOTH, progressive=True, restart_marker_blocks=3),
        "jpeg cmyk": encoded("JPEG", blue.convert("CMYK"), quality=95),
        "webp": encoded("WEBP", SMOOTH),
        "webp lossless": encoded("WEBP", lossless=True),
        "webp exact alpha off": encoded("WEBP", SMOOTH, quality=100, method=0),
        "gif": encoded("GIF", palette, interlace=0),
        "gif interlaced": encoded("GIF", palette, interlace=1),
        "gif flat blocks": gif_of(gif_codes(GREY)),
        "bmp": encoded("BMP"),
        "bmp 32": bmp_of(np.dstack([PIXELS, GREY]), 32),
        "bmp top down": bmp_of(PIXELS[::-1], size=(-40, 48)),
        "avif": encoded("AVIF", SMOOTH),
    }
    exact = {"png": PIXELS, "png stored": PIXELS, "webp lossless": PIXELS, "bmp": PIXELS, "bmp 32": PIXELS}
    exact |= {"bmp top down": PIXELS, "gif flat blocks": COLOURS[GREY], "png smooth": SMOOTH}
    return {name: (raw, exact.get(name, lossy(raw))) for name, raw in made.items()}


def plain_files():
    for name, (raw, pixels) in sound().items():
        yield Hostile(name, raw, None, (), pixels)


# ---------------------------------------------------------------- files that are no images, or others


def other_files():
    tiff = encoded("TIFF")
    yield Hostile("empty", b"", "unreadable")
    yield Hostile("text", b"this is not an image at all", "unreadable")
    yield Hostile("zeros", bytes(5000), "unreadable")
    yield Hostile("one byte", b"\x89", "unreadable")
    yield Hostile("noise", RNG.bytes(4000), "unreadable")
    yield Hostile("a zip", b"PK\3\4" + RNG.bytes(500), "unreadable")
    yield Hostile("a pickle", b"\x80\x04\x95cposix\nsystem\n.", "unreadable")
    yield Hostile("html", b"<!doctype html><script>alert(1)</script>", "unreadable")
    yield Hostile("tiff", tiff, "unsupported_format")
    yield Hostile("big-endian tiff", b"MM\0*" + bytes(100), "unsupported_format")
    yield Hostile("eps", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "unsupported_format")
    yield Hostile("svg", b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>', "unsupported_format")
    yield Hostile("ico", encoded("ICO"), "unsupported_format")
    yield Hostile("psd", b"8BPS\0\1" + bytes(100), "unsupported_format")
    yield Hostile("exr", b"\x76\x2f\x31\x01" + bytes(100), "unsupported_format")
    yield Hostile("heic", b"\0\0\0\x18ftypheic\0\0\0\0heicmif1" + bytes(40), "unsupported_format")
    yield Hostile("mp4", b"\0\0\0\x18ftypisom\0\0\0\0isommp41" + bytes(40), "unsupported_format")
    yield Hostile("jpeg xl", b"\xff\x0a" + bytes(40), "unsupported_format")
    yield Hostile("jpeg xl box", b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(40), "unsupported_format")
    yield Hostile("jpeg 2000", encoded("JPEG2000"), "unsupported_format")
    for kind in ("PPM", "PCX", "TGA", "SGI", "DDS", "MSP", "PDF"):
        image = Image.fromarray(PIXELS).convert("1" if kind == "MSP" else "RGB")
        yield Hostile(f"{kind} disguised", encoded(kind, image), "unreadable")
    for name, start in (
        ("png", b"\x89PNG\r\n\x1a\n"),
        ("jpeg", b"\xff\xd8\xff"),
        ("gif", b"GIF89a"),
        ("bmp", b"BM"),
    ):
        yield Hostile(f"{name} start alone", start, "unreadable")
        yield Hostile(f"{name} start and noise", start + RNG.bytes(3000), "unreadable")
        yield Hostile(f"{name} start and zeros", start + bytes(3000), "unreadable")
    yield Hostile("webp start alone", b"RIFF\0\0\0\0WEBP", "unreadable")
    yield Hostile("webp of noise", riff((b"VP8 ", RNG.bytes(400))), "unreadable")
    yield Hostile("webp lossless of noise", riff((b"VP8L", b"\x2f\x2f\xc0\x09\0" + RNG.bytes(400))), "unreadable")
    yield Hostile("wave", b"RIFF\x24\0\0\0WAVEfmt " + bytes(28), "unreadable")
    yield Hostile("avif start alone", b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf", "unreadable")
    yield Hostile("text before a png", b"hello" + encoded("PNG"), "unreadable")


# ---------------------------------------------------------------- sizes


def size_files():
    for w, h in (
        (20000, 20000),
        (8000, 8000),
        (2**31 - 1, 1),
        (1, 2**31 - 1),
        (50_000_001, 1),
        (2**31 - 1, 2**31 - 1),
    ):
        yield Hostile(f"png header of {w} × {h}", header(w, h) + chunk(b"IDAT", b"x"), "too_large")
    for w, h in ((0, 10), (10, 0), (0, 0)):
        yield Hostile(f"png of {w} × {h}", header(w, h) + chunk(b"IDAT", zlib.compress(b"")), "unreadable")
    big = bytearray(encoded("JPEG"))
    at = big.index(b"\xff\xc0")
    big[at + 5 : at + 9] = b"\xff\xff\xff\xff"
    yield Hostile("jpeg of 65535²", bytes(big), "too_large")
    big[at + 5 : at + 9] = b"\0\0\0\x30"
    yield Hostile("jpeg without height", bytes(big), "unreadable")
    codes = gif_codes(GREY)
    yield Hostile("gif frame of 65535²", gif_of(codes, frame=(0, 0, 65535, 65535)), "too_large")
    yield Hostile("gif screen of 65535²", gif_of(codes, screen=(65535, 65535)), "too_large")
    yield Hostile("gif frame far away", gif_of(codes, frame=(60000, 60000, 48, 40)), "too_large")
    yield Hostile("gif frame of nothing", gif_of(codes, frame=(0, 0, 0, 0)), "unreadable")
    yield Hostile("bmp of 30000²", bmp_of(PIXELS, size=(30000, 30000), body=b""), "too_large")
    yield Hostile("bmp of nothing", bmp_of(PIXELS, size=(0, 0), body=b""), "unreadable")
    yield Hostile("bmp of negative width", bmp_of(PIXELS, size=(40, -48)), "too_large")
    wide = struct.pack("<I", (16383 | 16383 << 14))
    yield Hostile("webp lossless of 16384²", riff((b"VP8L", b"\x2f" + wide + bytes(90))), "too_large")
    yield Hostile("webp of 16384²", riff((b"VP8X", bytes(4) + b"\xff\x3f\0\xff\x3f\0")), "too_large")
    yield Hostile("webp of 2²⁴ squared", riff((b"VP8X", bytes(4) + b"\xff" * 6)), "too_large")
    key = b"\x10\0\0\x9d\x01\x2a" + b"\xff\x3f\xff\x3f"
    yield Hostile("lossy webp of 16383²", riff((b"VP8 ", key + bytes(90))), "too_large")
    for w, h in ((1, 1), (7, 7), (48, 6), (6, 48), (600, 7)):
        yield Hostile(
            f"tiny {w} × {h}", encoded("PNG", RNG.integers(0, 256, (h, w, 3), dtype=np.uint8)), INCONCLUSIVE
        )
    yield Hostile("30000 × 1", encoded("PNG", np.zeros((1, 30000, 3), np.uint8)), INCONCLUSIVE)
    yield Hostile("1 × 30000", encoded("PNG", np.zeros((30000, 1, 3), np.uint8)), INCONCLUSIVE)
    yield Hostile("long", encoded("PNG", RNG.integers(0, 256, (32, 80, 3), dtype=np.uint8)), INCONCLUSIVE)
    for level in (0, 128, 255):
        flat = np.full((64, 64, 3), level, np.uint8)
        yield Hostile(f"flat {level}", encoded("PNG", flat), INCONCLUSIVE)
        yield Hostile(f"flat jpeg {level}", encoded("JPEG", flat), INCONCLUSIVE)
    hidden = np.dstack([PIXELS, np.zeros((40, 48), np.uint8)])
    yield Hostile("all transparent", encoded("PNG", hidden), INCONCLUSIVE, ("transparent",))


# ---------------------------------------------------------------- PNG


def png_files():
    raw = encoded("PNG")
    parts = chunks(raw)
    stored = png(PIXELS, level=0)
    bomb = zlib.compress(bytes(3 * 10**7), 9)
    yield Hostile("png without its last 20 bytes", raw[:-20], None, (CUT,), PIXELS)
    yield Hostile("png without its end", raw[:-12], None, (CUT,), PIXELS)
    yield Hostile("png with half an end", raw[:-6], None, (CUT,), PIXELS)
    yield Hostile("png with bytes behind", raw + b"<script>", None, (BEHIND,), PIXELS)
    yield Hostile("png and zip", raw + b"PK\3\4" + RNG.bytes(300), None, (BEHIND,), PIXELS)
    yield Hostile("png twice", raw + raw, None, (BEHIND,), PIXELS)
    yield Hostile("half a png", raw[: len(raw) // 2], "unreadable")
    flipped = bytearray(raw)
    flipped[raw.index(b"IDAT") + 40] ^= 0xFF
    yield Hostile("a flipped byte", bytes(flipped), "unreadable")
    flipped = bytearray(stored)
    flipped[stored.index(b"IDAT") + 400] ^= 1
    yield Hostile("a flipped bit in stored pixels", bytes(flipped), "unreadable")
    at = stored.index(b"IDAT") - 4
    length = int.from_bytes(stored[at : at + 4], "big")
    data = bytearray(stored[at + 8 : at + 8 + length])
    data[400] ^= 1
    resealed = stored[:at] + chunk(b"IDAT", bytes(data)) + stored[at + 12 + length :]
    yield Hostile("the same with a right checksum", resealed, "unreadable")
    yield Hostile("a wrong checksum of the header", raw[:29] + b"\0\0\0\0" + raw[33:], "unreadable")
    yield Hostile("a wrong checksum of the end", raw[:-4] + b"\0\0\0\0", "unreadable")
    yield Hostile("fewer rows", png(PIXELS, rows=39), "unreadable")
    yield Hostile("no rows", png(PIXELS, rows=0), "unreadable")
    yield Hostile("one row", png(PIXELS, rows=1), "unreadable")
    more = np.concatenate([PIXELS, PIXELS])
    packed = zlib.compress(b"".join(b"\0" + row.tobytes() for row in more))
    many = header(48, 40) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")
    yield Hostile("more rows", many, None, ("more pixels",), PIXELS)
    bomb_rows = header(48, 40) + chunk(b"IDAT", zlib.compress(bytes(10**7), 9)) + chunk(b"IEND", b"")
    yield Hostile("a bomb of rows", bomb_rows, INCONCLUSIVE, ("more pixels",))
    ihdr, *rest = parts
    for name, extra in (
        ("zTXt", (b"zTXt", b"a\0\0" + bomb)),
        ("iTXt", (b"iTXt", b"a\0\1\0\0\0" + bomb)),
        ("large tEXt", (b"tEXt", b"workflow\0" + b"{}" * 10**6)),
        ("markup", (b"tEXt", b"prompt\0<script>alert(1)</script>\x1b[31m")),
        ("private", (b"prVt", RNG.bytes(100))),
        ("nonsense pHYs", (b"pHYs", b"\xff" * 3)),
        ("nonsense gAMA", (b"gAMA", b"\0")),
        ("gAMA of sRGB", (b"gAMA", struct.pack(">I", 45455))),
        ("cICP of sRGB", (b"cICP", bytes([1, 13, 0, 1]))),
        ("nonsense cHRM", (b"cHRM", b"\xff" * 5)),
        ("second header", (b"IHDR", struct.pack(">IIBBBBB", 9000, 9000, 8, 2, 0, 0, 0))),
        ("palette of RGB", (b"PLTE", bytes(range(30)))),
    ):
        yield Hostile(f"png with {name}", joined([ihdr, extra, *rest]), None, (), PIXELS)
    linear, wide = (b"gAMA", struct.pack(">I", 100_000)), (b"cICP", bytes([9, 16, 0, 1]))
    for name, extra in (("gAMA of linear light", [linear]), ("cICP", [(b"sRGB", b"\0"), wide])):
        yield Hostile(f"png with {name}", joined([ihdr, *extra, *rest]), None, ("not those of sRGB",), PIXELS)
    yield Hostile("png with gAMA and sRGB", joined([ihdr, linear, (b"sRGB", b"\0"), *rest]), None, (), PIXELS)
    own = (b"iCCP", b"sRGB\0\0" + zlib.compress(profile()))
    yield Hostile("png with gAMA and a profile", joined([ihdr, linear, own, *rest]), None, (), PIXELS, 1)
    texts = [(b"zTXt", b"k%d\0\0" % i + zlib.compress(bytes(10**6))) for i in range(100)]
    yield Hostile("png with 100 bombs", joined([ihdr, *texts, *rest]), None, (), PIXELS)
    yield Hostile("png with 50,000 chunks", joined([ihdr, *[(b"tEXt", b"a\0b")] * 50_000, *rest]), None, (), PIXELS)
    bad = chunk(b"tEXt", b"a\0b", crc=0)
    yield Hostile("a damaged text", raw[:33] + bad + raw[33:], None, ("tEXt",), PIXELS)
    yield Hostile(
        "a chunk that is vital and unknown", joined([ihdr, (b"CgBI", b"\x50\0\x20\6"), *rest]), "unsupported_format"
    )
    yield Hostile("a chunk of 4 GiB", raw[:33] + b"\xff\xff\xff\xfftEXt" + raw[33:], "unreadable")
    yield Hostile(
        "pixels in two places", joined([ihdr, rest[0], (b"tEXt", b"a\0b"), rest[0], rest[-1]]), "unreadable"
    )
    pieces = [(b"IDAT", rest[0][1][i : i + 1]) for i in range(len(rest[0][1]))]
    yield Hostile("pixels byte by byte", joined([ihdr, *pieces, rest[-1]]), None, (), PIXELS)
    yield Hostile("no header", joined(rest), "unreadable")
    yield Hostile("no pixels", joined([ihdr, rest[-1]]), "unreadable")
    yield Hostile("header last", joined([*rest, ihdr]), "unreadable")
    for depth, colour in ((8, 1), (8, 5), (3, 0), (4, 2), (16, 3), (0, 2), (32, 2)):
        odd = struct.pack(">IIBBBBB", 48, 40, depth, colour, 0, 0, 0)
        yield Hostile(f"depth {depth} of colour {colour}", joined([(b"IHDR", odd), *rest]), "unreadable")
    for tail in ((1, 0, 0), (0, 1, 0), (0, 0, 2)):
        odd = struct.pack(">IIBBBBB", 48, 40, 8, 2, *tail)
        yield Hostile(f"methods {tail}", joined([(b"IHDR", odd), *rest]), "unreadable")
    filtered = b"".join(b"\x09" + row.tobytes() for row in PIXELS)
    yield Hostile("an unknown filter", joined([ihdr, (b"IDAT", zlib.compress(filtered)), rest[-1]]), "unreadable")
    yield Hostile("not packed at all", joined([ihdr, (b"IDAT", filtered), rest[-1]]), "unreadable")


def depth_files():
    scaled = "more than 8 bits"
    levels = RNG.integers(0, 65536, (40, 48, 4)).astype(np.uint16)
    eight = np.rint(levels / 257).astype(np.uint8)
    white = np.rint((eight[..., :3] * (eight[..., 3:] / 255)) + 255 - eight[..., 3:]).astype(np.uint8)
    yield Hostile("16 bits RGB", png(levels[..., :3], 16, 2), None, (scaled,), eight[..., :3])
    yield Hostile("16 bits grey", png(levels[..., :1], 16, 0), None, (scaled, "grey"), grey(eight[..., 0]))
    yield Hostile("16 bits RGBA", png(levels, 16, 6), None, (scaled, "transparent"), white, 1)
    two = levels[..., 2:]
    over = np.rint(eight[..., 2] * (eight[..., 3] / 255) + 255 - eight[..., 3]).astype(np.uint8)
    yield Hostile("16 bits grey and alpha", png(two, 16, 4), None, (scaled, "grey", "transparent"), grey(over), 1)
    near = np.where(np.arange(48)[:, None] % 2, 1000, 1001).astype(np.uint16) * np.ones((40, 1, 3), np.uint16)
    near[:20] = levels[:20, :, :3]
    clear = np.where((near == 1000).all(-1, keepdims=True), 255, np.rint(near / 257)).astype(np.uint8)
    rgb = png(near, 16, 2, chunk(b"tRNS", struct.pack(">HHH", 1000, 1000, 1000)))
    yield Hostile("16 bits RGB, one level clear", rgb, None, (scaled, "transparent"), clear)
    one = png(near[..., :1], 16, 0, chunk(b"tRNS", struct.pack(">H", 1000)))
    clear = np.where(near[..., 0] == 1000, 255, np.rint(near[..., 0] / 257)).astype(np.uint8)
    yield Hostile("16 bits grey, one level clear", one, None, (scaled, "grey", "transparent"), grey(clear))
    yield Hostile("16 bits RGB, fewer rows", png(levels[..., :3], 16, 2, rows=30), "unreadable")
    yield Hostile("16 bits RGB, cut", png(levels[..., :3], 16, 2)[:-3000], "unreadable")
    ramp = np.repeat(np.arange(0, 65536, 1366).astype(np.uint16)[None, :, None], 40, 0)
    yield Hostile("16 bits ramp", png(ramp, 16, 0), None, (scaled, "grey"), grey(np.rint(ramp[..., 0] / 257)))
    for depth in (1, 2, 4):
        top = 2**depth - 1
        small = RNG.integers(0, top + 1, (40, 48))
        seen = (small * 255 // top).astype(np.uint8)
        yield Hostile(f"{depth} bits grey", small_png(small, depth, 0), None, ("grey",), grey(seen))
        raw = small_png(small, depth, 0, chunk(b"tRNS", struct.pack(">H", 1)))
        seen = np.where(small == 1, 255, seen)
        warnings = ("grey", "transparent")
        yield Hostile(f"{depth} bits grey, one level clear", raw, None, warnings, grey(seen))
        palette = RNG.integers(0, 256, (top + 1, 3), dtype=np.uint8)
        raw = small_png(small, depth, 3, chunk(b"PLTE", palette.tobytes()))
        yield Hostile(f"{depth} bits palette", raw, None, (), palette[small])
    for name, depth, colour, count in (("RGB", 8, 2, 3), ("RGB of 16 bits", 16, 2, 3), ("grey", 8, 0, 1)):
        data = (levels if depth == 16 else PIXELS)[..., :count]
        seen = eight[..., :3] if depth == 16 else PIXELS if count == 3 else grey(GREY)
        warnings = (*((scaled,) if depth == 16 else ()), *(("grey",) if colour == 0 else ()))
        yield Hostile(f"interlaced {name}", interlaced(data, depth, colour), None, warnings, seen)
        yield Hostile(f"interlaced {name}, cut", interlaced(data, depth, colour, -1), "unreadable")


def interlaced(pixels, depth, colour, last=None):
    """A PNG of Adam7's passes, without the bytes behind ``last``."""
    passes = ((0, 8, 0, 8), (4, 8, 0, 8), (0, 4, 4, 8), (2, 4, 0, 4), (0, 2, 2, 4), (1, 2, 0, 2), (0, 1, 1, 2))
    data = pixels.astype(">u2" if depth == 16 else np.uint8)
    rows = [row for x, dx, y, dy in passes for row in data[y::dy, x::dx]]
    body = b"".join(b"\0" + row.tobytes() for row in rows)[:last]
    start = header(pixels.shape[1], pixels.shape[0], depth, colour, 1)
    return start + chunk(b"IDAT", zlib.compress(body)) + chunk(b"IEND", b"")


# ---------------------------------------------------------------- alpha, colour, orientation


def colour_files():
    half = np.zeros((40, 48), np.uint8)
    half[:, 24:] = 255
    shown = PIXELS.copy()
    shown[:, :24] = 255
    clear = ("transparent",)
    yield Hostile("hidden colours", encoded("PNG", np.dstack([PIXELS, half])), None, clear, shown)
    webp = encoded("WEBP", np.dstack([PIXELS, half]), lossless=True, exact=True)
    yield Hostile("hidden colours in webp", webp, None, clear, shown)
    opaque = np.dstack([PIXELS, np.full_like(half, 255)])
    yield Hostile("opaque alpha", encoded("PNG", opaque), None, (), PIXELS)
    faint = np.dstack([PIXELS, np.full_like(half, 51)])
    mixed = np.rint(PIXELS * 0.2 + 255 * 0.8).astype(np.uint8)
    yield Hostile("faint alpha", encoded("PNG", faint), None, clear, mixed, 1)
    grey_shown = np.where(half, GREY, 255)
    raw = encoded("PNG", np.dstack([GREY, half]))
    yield Hostile("grey and alpha", raw, None, ("grey", "transparent"), grey(grey_shown))
    yield Hostile("grey", encoded("PNG", GREY), None, ("grey",), grey(GREY))
    raw = encoded("JPEG", SMOOTH[..., 0])
    yield Hostile("grey jpeg", raw, None, ("grey",), lossy(raw))
    bits = Image.fromarray(GREY).convert("1")
    black_white = grey(np.asarray(bits).astype(np.uint8) * 255)
    yield Hostile("black and white", encoded("PNG", bits), None, ("grey",), black_white)
    yield Hostile("grey gif", encoded("GIF", GREY), None, (), grey(GREY))
    palette = Image.fromarray(SMOOTH).quantize(16)
    seen = np.asarray(palette.convert("RGB")).copy()
    seen[np.asarray(palette) == 3] = 255
    yield Hostile("palette, one clear", encoded("PNG", palette, transparency=3), None, clear, seen)
    yield Hostile("gif, one clear", encoded("GIF", palette, transparency=3, optimize=False), None, clear, seen)
    first = encoded("PNG", palette, transparency=bytes([0, 128] + [255] * 14))
    yield Hostile("palette, two clear", first, None, clear)
    red = np.where((PIXELS[0, 0] == PIXELS).all(-1, keepdims=True), 255, PIXELS)
    raw = png(PIXELS, before=chunk(b"tRNS", struct.pack(">HHH", *map(int, PIXELS[0, 0]))))
    yield Hostile("one colour clear", raw, None, clear, red)
    raw = png(GREY[..., None], 8, 0, chunk(b"tRNS", struct.pack(">H", int(GREY[0, 0]))))
    seen = grey(np.where(GREY[0, 0] == GREY, 255, GREY))
    yield Hostile("one grey clear", raw, None, ("grey", "transparent"), seen)
    missing = small_png(np.arange(48)[None].repeat(40, 0) % 4, 2, 3, chunk(b"PLTE", bytes([255, 0, 0])))
    yield Hostile("a palette that is too short", missing)
    raw = bmp_of(
        np.dstack([PIXELS, half]), 32, 3, head=56, more=struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF << 24)
    )
    yield Hostile("bmp with alpha", raw, None, clear, shown)
    for kind, tolerance in (("PNG", 1), ("WEBP", 1)):
        more = {"lossless": True} if kind == "WEBP" else {}
        same = encoded(kind, icc_profile=profile(), **more)
        yield Hostile(f"{kind} with the profile of sRGB", same, None, (), PIXELS, tolerance)
        other = encoded(kind, icc_profile=profile(True), **more)
        yield Hostile(f"{kind} with another profile", other, None, (), PIXELS[..., ::-1], 2)
        bad = encoded(kind, icc_profile=b"nonsense" * 20, **more)
        yield Hostile(f"{kind} with a corrupt profile", bad, None, ("profile is damaged",), PIXELS)
    raw = encoded("PNG", np.dstack([PIXELS, half]), icc_profile=profile(True))
    yield Hostile(
        "alpha with another profile", raw, None, clear, np.where(half[..., None], PIXELS[..., ::-1], 255), 2
    )
    raw = encoded("PNG", Image.fromarray(SMOOTH).quantize(64), icc_profile=profile(True))
    yield Hostile("palette with another profile", raw, None, (), lossy(raw)[..., ::-1], 2)
    raw = encoded("JPEG", SMOOTH, quality=95, icc_profile=profile(True))
    yield Hostile("jpeg with another profile", raw, None, (), lossy(raw)[..., ::-1], 2)
    raw = encoded("AVIF", SMOOTH, quality=95, icc_profile=profile(True))
    yield Hostile("avif with another profile", raw, None, (), lossy(raw)[..., ::-1], 2)
    damaged = ("profile is damaged",)
    raw = encoded("JPEG", SMOOTH, icc_profile=profile()[:300])
    yield Hostile("jpeg with half a profile", raw, None, damaged, lossy(raw))
    raw = encoded("PNG", GREY, icc_profile=profile())
    yield Hostile("grey with the profile of colours", raw, None, ("grey", *damaged), grey(GREY))
    ihdr, *rest = chunks(encoded("PNG"))
    for name, data in (
        ("bomb", b"a\0\0" + zlib.compress(bytes(10**8), 9)),
        ("empty", b""),
        ("unpacked", b"a\0\0" + profile()),
        ("nameless", zlib.compress(profile())),
        ("cut", b"a\0\0" + zlib.compress(profile())[:-90]),
    ):
        raw = joined([ihdr, (b"iCCP", data), *rest])
        yield Hostile(f"png with a profile that is {name}", raw, None, damaged, PIXELS)


def orientation_files():
    broken = ("EXIF data are damaged",)
    for i in range(1, 9):
        yield Hostile(f"png turned {i}", encoded("PNG", exif=exif_of(i)), None, (), turned(PIXELS, i))
        raw = encoded("JPEG", SMOOTH)
        seen = turned(lossy(raw), i)
        yield Hostile(f"jpeg turned {i}", after_start(raw, segment(0xE1, exif_of(i, order=">"))), None, (), seen)
        raw = encoded("WEBP", lossless=True, exif=exif_of(i))
        yield Hostile(f"webp turned {i}", raw, None, (), turned(PIXELS, i))
    raw = encoded("JPEG", SMOOTH)
    for name, data in (
        ("noise", b"Exif\0\0" + RNG.bytes(500)),
        ("a start", b"Exif\0\0II*\0"),
        ("a start that leads nowhere", b"Exif\0\0II*\0\xff\xff\xff\xff"),
        ("a turn of 9", exif_of(9)),
        ("a turn of 65535", exif_of(65535)),
        ("a turn in letters", exif_of(0x41, 2)),
        ("a turn as a fraction", exif_of(200, 5)),
        ("an entry that is cut", exif_of(6)[:-10]),
        ("65,535 entries", b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + RNG.bytes(300)),
    ):
        seen = lossy(raw)
        yield Hostile(f"EXIF with {name}", after_start(raw, segment(0xE1, data)), None, broken, seen)
    nothing = after_start(raw, segment(0xE1, b"Exif\0\0"))
    yield Hostile("EXIF with nothing", nothing, None, (), lossy(raw))
    yield Hostile("EXIF without a turn", encoded("PNG", exif=exif_of(0)), None, (), PIXELS)
    twice = after_start(raw, segment(0xE1, exif_of(1)), segment(0xE1, exif_of(6)))
    yield Hostile("EXIF twice", twice, None, (), lossy(raw))


# ---------------------------------------------------------------- JPEG, GIF, WebP, BMP, AVIF


def jpeg_files():
    raw = encoded("JPEG", SMOOTH, quality=90)
    seen = lossy(raw)
    parts = split_jpeg(raw)
    yield Hostile("jpeg without its end", raw[:-2], "unreadable")
    yield Hostile("jpeg with half an end", raw[:-1], "unreadable")
    yield Hostile("jpeg with bytes behind", raw + b"\0<script>", None, (BEHIND,), seen)
    yield Hostile("jpeg and zip", raw + b"PK\3\4" + RNG.bytes(300), None, (BEHIND,), seen)
    yield Hostile("jpeg twice", raw + raw, None, (BEHIND,), seen)
    for name, (file, _) in sound().items():
        if name.startswith("jpeg"):
            start = file.index(b"\xff\xda") + 20
            for share in (0.3, 0.6, 0.9, 0.96):
                cut = start + math.floor((len(file) - start) * share)
                cut -= file[cut - 1] == 0xFF
                yield Hostile(f"{name} with its end at {share}", file[:cut] + b"\xff\xd9", "unreadable")
                thumbnail = file[:cut] + b"\xff\xfe\0\4\xff\xd9" + file[cut + 40 :]
                if "progressive" not in name:
                    yield Hostile(f"{name} with a hole at {share}", thumbnail, "unreadable")
    progressive = split_jpeg(sound()["jpeg progressive"][0])
    scans = [i for i, (marker, _) in enumerate(progressive) if marker == 0xDA]
    for count in (1, len(scans) // 2, len(scans) - 1):
        yield Hostile(f"the first {count} scans", join_jpeg(progressive[: scans[count]]), None, ("detailed",))
    yield Hostile("no scans", join_jpeg(progressive[: scans[0]]), "unreadable")
    yield Hostile("no first scan", join_jpeg([p for i, p in enumerate(progressive) if i != scans[0]]), "unreadable")
    yield Hostile("500,000 scans", join_jpeg(progressive + progressive[scans[1] :] * 60_000), "too_large")
    one = split_jpeg(encoded("JPEG", SMOOTH[..., 0]))
    frame = next(data for marker, data in one if marker == 0xC0)
    three = frame[:2] + b"\0\x11" + frame[4:9] + b"\3\1\x11\0\2\x11\0\3\x11\0"
    lone = join_jpeg([(m, three if m == 0xC0 else d) for m, d in one])
    yield Hostile("one colour of three", lone, "unreadable")
    for marker in (0xC1, 0xC3, 0xC5, 0xC9, 0xCA, 0xCB, 0xCF):
        other = join_jpeg([(m, d[:1] + bytes([marker]) + d[2:] if m == 0xC0 else d) for m, d in parts])
        code = None if marker == 0xC1 else "unsupported_format"
        yield Hostile(f"coding {marker:X}", other, code, (), seen if code is None else None)
    twelve = join_jpeg([(m, d[:4] + b"\x0c" + d[5:] if m == 0xC0 else d) for m, d in parts])
    yield Hostile("12 bits", twelve, "unsupported_format")
    tables = join_jpeg([p for p in parts if p[0] != 0xC4])
    yield Hostile("no codes, as in videos", tables, None, (), seen)
    for gone in (0xC0, 0xDB, 0xDA):
        yield Hostile(f"no segment {gone:X}", join_jpeg([p for p in parts if p[0] != gone]), "unreadable")
    comment = segment(0xFE, b"<script>\x1b[31m" + RNG.bytes(60_000))
    yield Hostile("jpeg with 300 comments", after_start(raw, *[comment] * 300), None, (), seen)
    yield Hostile(
        "jpeg with much EXIF",
        after_start(raw, *[segment(0xE1, b"Exif\0\0" + bytes(60_000))] * 200),
        None,
        ("EXIF",),
        seen,
    )
    yield Hostile("jpeg with fills", after_start(raw, b"\xff" * 5000), None, (), seen)
    yield Hostile("a segment that is too long", after_start(raw, b"\xff\xfe\xff\xff"), "unreadable")
    yield Hostile("a segment of no length", after_start(raw, b"\xff\xfe\0\0"), "unreadable")
    thumbnail = segment(0xE1, exif_of(1) + encoded("JPEG", SMOOTH[:8, :8]))
    yield Hostile("a thumbnail", after_start(raw, thumbnail), None, (), seen)
    yield Hostile("a thumbnail and no end", after_start(raw, thumbnail)[:-2], "unreadable")
    several = encoded("MPO", SMOOTH, save_all=True, append_images=[Image.fromarray(255 - SMOOTH)], quality=90)
    yield Hostile("several pictures", several, None, ("several pictures",), seen)
    restarts = sound()["jpeg restarts"][0]
    yield Hostile("a restart that is missing", restarts.replace(b"\xff\xd1", b""), "unreadable")


def gif_files():
    codes = gif_codes(GREY)
    seen = COLOURS[GREY]
    whole = gif_of(codes)
    control = b"!\xf9\4\0\0\0\0\0"
    comment = b"!\xfe" + sub_blocks(b"<script>" * 5000)
    for share in (0, 0.1, 0.5, 0.9, 0.999):
        yield Hostile(f"gif that ends at {share}", gif_of(gif_codes(GREY, int(1920 * share))), "unreadable")
    yield Hostile("gif without its end", whole[:-1], None, (CUT,), seen)
    yield Hostile("gif without its last blocks", whole[:-30], "unreadable")
    yield Hostile("gif with bytes behind", whole + b"PK\3\4", None, (BEHIND,), seen)
    yield Hostile("gif with nonsense behind its frame", whole[:-1] + b"\x99\x99", None, (BEHIND,), seen)
    yield Hostile("gif with comments", gif_of(codes, before=comment * 100), None, (), seen)
    yield Hostile("gif with 200,000 comments", gif_of(codes, before=b"!\xfe\1x\0" * 200_000), None, (), seen)
    yield Hostile("gif with 1,000,000 comments", gif_of(codes, before=b"!\xfe\0" * 1_000_001), "too_large")
    yield Hostile("gif with one endless comment", gif_of(codes, before=b"!\xfe" + b"\1x" * 1_100_000), "too_large")
    yield Hostile("gif without a frame", whole[: 13 + 768] + b";", "unreadable")
    yield Hostile("gif with controls", gif_of(codes, before=control * 20), None, (), seen)
    frame = whole[13 + 768 : -1]
    yield Hostile(
        "gif of 30,000 frames",
        gif_of(codes, end=frame + frame[:12] + b"\0" * 3 + b";" * 30_000),
        None,
        (ANIMATED,),
        seen,
    )
    many = gif_of(codes, end=(b"," + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x4c\x01\0") * 200_000 + b";")
    yield Hostile("gif of 200,000 frames", many, None, (ANIMATED,), seen)
    part = gif_of(gif_codes(GREY[:20, :24]), frame=(10, 5, 24, 20))
    yield Hostile("a frame that does not fill the gif", part, None, ("does not fill",))
    yield Hostile("gif whose codes are too wide", whole.replace(b"\x08\xff", b"\x0d\xff", 1), "unreadable")
    images = [Image.fromarray(SMOOTH).quantize(32), Image.fromarray(255 - SMOOTH).quantize(32)]
    raw = encoded("GIF", images[0], save_all=True, append_images=images[1:])
    yield Hostile("animated gif", raw, None, (ANIMATED,), lossy(raw))


def animated_files():
    frames = [Image.fromarray(PIXELS), Image.fromarray(255 - PIXELS)]
    raw = encoded("PNG", frames[0], save_all=True, append_images=frames[1:])
    yield Hostile("animated png", raw, None, (ANIMATED,), PIXELS)
    parts = chunks(raw)
    lie = [(k, struct.pack(">II", 10**9, 0) if k == b"acTL" else d) for k, d in parts]
    yield Hostile("animated png of 10⁹ frames", joined(lie), None, (ANIMATED,), PIXELS)
    raw = encoded("PNG", frames[0], save_all=True, append_images=frames, default_image=True)
    yield Hostile("animated png with a default", raw, None, (ANIMATED,), PIXELS)
    raw = encoded("WEBP", frames[0], save_all=True, append_images=frames[1:], lossless=True)
    yield Hostile("animated webp", raw, None, (ANIMATED,), PIXELS)
    yield Hostile("animated webp, cut", raw[: len(raw) // 2], "unreadable")
    smooth = [Image.fromarray(SMOOTH), Image.fromarray(255 - SMOOTH)]
    raw = encoded("AVIF", smooth[0], save_all=True, append_images=smooth[1:])
    yield Hostile("animated avif", raw, None, (ANIMATED,), lossy(raw))


def more_files():
    raw = sound()["webp lossless"][0]
    yield Hostile("webp with bytes behind", raw + b"<script>", None, (BEHIND,), PIXELS)
    yield Hostile("webp that says it is longer", raw[:4] + struct.pack("<I", len(raw)) + raw[8:], "unreadable")
    yield Hostile("webp that says it is shorter", raw[:4] + struct.pack("<I", 900) + raw[8:], "unreadable")
    yield Hostile("webp that says it is empty", raw[:4] + bytes(4) + raw[8:], "unreadable")
    for name in ("webp", "webp lossless"):
        whole = sound()[name][0]
        for share in (0.1, 0.5, 0.9, 0.97):
            body = whole[20 : 20 + int((len(whole) - 20) * share)]
            yield Hostile(f"{name}, {share} of it in a sound frame", riff((whole[12:16], body)), "unreadable")
        half = riff((whole[12:16], whole[20 : 20 + len(whole) // 2] + bytes(len(whole) // 2)))
        yield Hostile(f"{name}, its half zeros", half, None, (ZEROS,))
    parts = (b"VP8X", bytes(4) + struct.pack("<HBHB", 47, 0, 39, 0)), (b"VP8L", raw[20:])
    yield Hostile("webp with zeros behind its picture", riff(*parts, (b"EXIF", bytes(200))), None, (), PIXELS)
    yield Hostile("webp of odd parts", riff(parts[0], (b"ABC ", b"\0"), parts[1]), None, (), PIXELS)
    yield Hostile("webp of parts without a picture", riff(parts[0], (b"ABC ", b"")), "unreadable")
    flat = np.zeros((1000, 1000, 3), np.uint8)
    flat[:200] = RNG.integers(0, 256, (200, 1000, 3))
    flat = encoded("WEBP", flat)
    assert flat.endswith(bytes(64))
    yield Hostile("webp that is flat below", flat)
    raw = sound()["bmp"][0]
    yield Hostile("bmp with bytes behind", raw + b"PK\3\4" * 10, None, (BEHIND,), PIXELS)
    yield Hostile("bmp without its last byte", raw[:-1], "unreadable")
    yield Hostile("bmp cut", raw[: len(raw) // 2], "unreadable")
    yield Hostile("bmp that begins behind its end", raw[:10] + struct.pack("<I", 10**6) + raw[14:], "unreadable")
    line = [b"".join(b"\1" + bytes([v]) for v in row) + b"\0\0" for row in GREY[::-1]]
    packed = bmp_of(PIXELS, 8, 1, b"".join(line) + b"\0\1")
    yield Hostile("packed bmp", packed, None, ("grey",), grey(GREY))
    yield Hostile("packed bmp, cut", bmp_of(PIXELS, 8, 1, b"".join(line[:20]) + b"\0\1"), "unreadable")
    yield Hostile("packed bmp of nothing", bmp_of(PIXELS, 8, 1, b"\0\1"), "unreadable")
    for bits, compression in ((24, 9), (7, 0), (0, 0), (24, 4), (24, 5), (8, 2)):
        odd = bmp_of(PIXELS, bits, compression, b"\xff" * 6000)
        yield Hostile(f"bmp of {bits} bits, compression {compression}", odd, "unreadable")
    raw = sound()["avif"][0]
    seen = sound()["avif"][1]
    yield Hostile("avif with bytes behind", raw + b"\0\0\0\0\0\0\0\0", None, (BEHIND,), seen)
    yield Hostile("avif with text behind", raw + b"<script>", "unreadable")
    yield Hostile("avif with an empty box behind", raw + b"\0\0\0\x08free", None, (), seen)
    yield Hostile("avif cut", raw[: len(raw) // 2], "unreadable")
    yield Hostile("avif without its last byte", raw[:-1], "unreadable")
    at = raw.index(b"mdat") + 4
    yield Hostile("avif of zeros", raw[:at] + bytes(len(raw) - at), "unreadable")
    detailed = encoded("AVIF", PIXELS, quality=90)
    yield Hostile("avif that ends in zeros", detailed[:-60] + bytes(60), None, (ZEROS,))
    size = raw.index(b"ispe") + 8
    huge = raw[:size] + struct.pack(">II", 60000, 60000) + raw[size + 8 :]
    yield Hostile("avif of 60000²", huge, "unreadable")


FAMILIES = (
    plain_files,
    other_files,
    size_files,
    png_files,
    depth_files,
    colour_files,
    orientation_files,
    jpeg_files,
    gif_files,
    animated_files,
    more_files,
)


@functools.cache
def hostile_files():
    """All of them."""
    return tuple(file for family in FAMILIES for file in family())


def special_files(folder):
    """What is in a folder besides files, as (path, code); made there."""
    os.mkfifo(folder / "pipe")
    (folder / "loop").symlink_to(folder / "loop")
    (folder / "dangling").symlink_to(folder / "missing")
    (folder / "to a folder").symlink_to(folder)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "socket"))
    return (
        (folder, "not_a_file"),
        (folder / "pipe", "not_a_file"),
        (folder / "loop", "unreadable"),
        (folder / "dangling", "not_found"),
        (folder / "to a folder", "not_a_file"),
        (folder / "socket", "not_a_file"),
        (folder / "missing.png", "not_found"),
        (folder / ("long" * 100), "unreadable"),
        ("/dev/zero", "not_a_file"),
        ("/dev/null", "not_a_file"),
        ("nul\0byte", "unreadable"),
    )

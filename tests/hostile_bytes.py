"""Bytes of image files, put together part by part, so that every part can be wrong."""

import io
import struct
import zlib

import numpy as np
from PIL import Image, ImageCms

RNG = np.random.default_rng(7)
SIZE = (32, 32)  # of the model that the files are fitted to
PIXELS = RNG.integers(0, 256, (40, 48, 3), dtype=np.uint8)
GREY = PIXELS[..., 0]
SMOOTH = np.stack(
    [np.add.outer(np.arange(40) * a, np.arange(48) * b) % 256 for a, b in ((2, 1), (1, 3), (3, 2))], -1
)
SMOOTH = (SMOOTH // 2 + 40).astype(np.uint8)
COLOURS = np.stack([np.arange(256), 255 - np.arange(256), np.arange(256) // 2], -1).astype(np.uint8)


def encoded(kind, pixels=PIXELS, **options):
    """A file of Pillow's."""
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def lossy(raw):
    """What Pillow reads in a sound file."""
    return np.asarray(Image.open(io.BytesIO(raw)).convert("RGB"))


def grey(levels):
    return np.repeat(np.asarray(levels)[..., None], 3, -1)


def chunk(kind, data, crc=None):
    crc = zlib.crc32(kind + data) if crc is None else crc
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc)


END = chunk(b"IEND", b"")


def header(width, height, depth=8, colour=2, laced=0):
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, laced))


def png(pixels, depth=8, colour=2, before=b"", after=b"", rows=None, level=9):
    """A PNG of (h, w, channels) of 8 or 16 bits, without filters; of ``rows`` rows, whatever its header says."""
    data = pixels.astype(">u2" if depth == 16 else np.uint8)
    packed = zlib.compress(b"".join(b"\0" + row.tobytes() for row in data[:rows]), level)
    height, width = pixels.shape[:2]
    return header(width, height, depth, colour) + before + chunk(b"IDAT", packed) + after + END


def small_png(levels, depth, colour, before=b""):
    """A PNG of (h, w) levels of 1, 2 or 4 bits."""
    bits = (levels[..., None] >> np.arange(depth)[::-1] & 1).reshape(len(levels), -1)
    packed = np.packbits(bits.astype(np.uint8), axis=1)
    body = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row.tobytes() for row in packed)))
    return header(levels.shape[1], levels.shape[0], depth, colour) + before + body + chunk(b"IEND", b"")


def chunks(raw):
    """The chunks of a PNG as (kind, data)."""
    at, out = 8, []
    while at < len(raw):
        length = int.from_bytes(raw[at : at + 4], "big")
        out.append((raw[at + 4 : at + 8], raw[at + 8 : at + 8 + length]))
        at += 12 + length
    return out


def joined(parts):
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def split_jpeg(raw):
    """The segments of a JPEG as (marker, bytes), the bits of scans with their headers."""
    at, out = 2, []
    while raw[at + 1] != 0xD9:
        marker, end = raw[at + 1], at + 2 + int.from_bytes(raw[at + 2 : at + 4], "big")
        if marker == 0xDA:
            while raw[end] != 0xFF or raw[end + 1] == 0 or 0xD0 <= raw[end + 1] <= 0xD7:
                end += 1
        out.append((marker, raw[at:end]))
        at = end
    return out


def join_jpeg(parts, end=b"\xff\xd9"):
    return b"\xff\xd8" + b"".join(data for _, data in parts) + end


def segment(marker, data):
    return bytes((0xFF, marker)) + struct.pack(">H", len(data) + 2) + data


def after_start(raw, *added):
    """A JPEG with segments behind its start marker."""
    return raw[:2] + b"".join(added) + raw[2:]


def profile(swapped=False):
    """The ICC profile of sRGB; or that of a device that calls blue what sRGB calls red."""
    raw = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    if swapped:
        red, blue = raw.index(b"rXYZ", 128), raw.index(b"bXYZ", 128)
        raw[red : red + 4], raw[blue : blue + 4] = b"bXYZ", b"rXYZ"
    return bytes(raw)


def exif_of(value, kind=3, order="<"):
    """EXIF data that hold nothing but an orientation, of a TIFF type."""
    start = b"II*\0" if order == "<" else b"MM\0*"
    short = struct.pack(order + "HH", value, 0) if kind == 3 else struct.pack(order + "I", value)
    entry = struct.pack(order + "HHI", 0x112, kind, 1) + short
    return b"Exif\0\0" + start + struct.pack(order + "IH", 8, 1) + entry + struct.pack(order + "I", 0)


def turned(pixels, orientation):
    """Pixels as they are seen, of a file with this orientation (TIFF 6.0, section 8)."""
    return {
        1: pixels,
        2: pixels[:, ::-1],
        3: pixels[::-1, ::-1],
        4: pixels[::-1],
        5: pixels.transpose(1, 0, 2),
        6: np.rot90(pixels, -1),
        7: pixels[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(pixels),
    }[orientation]


def sub_blocks(data):
    return b"".join(bytes([len(data[i : i + 255])]) + data[i : i + 255] for i in range(0, len(data), 255)) + b"\0"


def gif_of(codes, *, screen=(48, 40), frame=(0, 0, 48, 40), before=b"", end=b";"):
    """A GIF of 9-bit LZW codes, with the palette COLOURS."""
    bits = sum(code << 9 * i for i, code in enumerate(codes))
    packed = bits.to_bytes(-(-9 * len(codes) // 8), "little")
    palette = COLOURS.tobytes()
    start = b"GIF89a" + struct.pack("<HHBBB", *screen, 0xF7, 0, 0) + palette
    return start + before + b"," + struct.pack("<HHHHB", *frame, 0) + b"\x08" + sub_blocks(packed) + end


def gif_codes(levels, count=None):
    """LZW codes of pixels, cleared so often that none gets longer than 9 bits; the end code behind the last."""
    flat = list(levels.reshape(-1))[:count]
    out = []
    for i in range(0, len(flat), 200):
        out += [256, *map(int, flat[i : i + 200])]
    return [*out, 257]


def bmp_of(pixels, bits=24, compression=0, body=None, size=None, head=40, more=b""):
    """A BMP of (h, w, channels), or of a given body."""
    height, width = pixels.shape[:2] if size is None else size
    if body is None:
        rows = pixels[::-1][..., [2, 1, 0, *range(3, pixels.shape[-1])]]
        body = b"".join(row.tobytes() + bytes(-row.nbytes % 4) for row in rows)
    palette = b"".join(bytes([i, i, i, 0]) for i in range(256)) if bits == 8 else b""
    info = struct.pack("<IiiHHIIiiII", head, width, height, 1, bits, compression, len(body), 0, 0, 0, 0)
    info = (info + more).ljust(head, b"\0") + palette
    start = 14 + len(info)
    return b"BM" + struct.pack("<IHHI", start + len(body), 0, 0, start) + info + body


def riff(*parts, size=None):
    body = b"WEBP" + b"".join(kind + struct.pack("<I", len(d)) + d + b"\0" * (len(d) % 2) for kind, d in parts)
    return b"RIFF" + struct.pack("<I", len(body) if size is None else size) + body

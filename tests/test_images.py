import io
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from watermark.reading import images
from watermark.reading.content import ImageError
from watermark.reading.fitting import as_tensor, fit, why_inconclusive
from watermark.reading.images import Picture, from_image, read_picture, to_8_bits

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (40, 60, 3), dtype=np.uint8)


def encoded(kind, image=None, **options):
    buffer = io.BytesIO()
    (image or Image.fromarray(PIXELS)).save(buffer, kind, **options)
    return buffer.getvalue()


def png_chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_header(width, height, *, depth=8, colour=2):
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header)


def bad_crc():
    raw = bytearray(encoded("PNG"))
    at = raw.index(b"IDAT") + 40
    raw[at] ^= 0xFF
    return bytes(raw)


REFUSED = {
    "empty": (b"", "unreadable"),
    "text": (b"this is not an image at all", "unreadable"),
    "half a PNG": (encoded("PNG")[: len(encoded("PNG")) // 2], "unreadable"),
    "half a JPEG": (encoded("JPEG")[: len(encoded("JPEG")) // 2], "unreadable"),
    "a JPEG without its end": (encoded("JPEG")[:-2], "unreadable"),
    "a bad checksum": (bad_crc(), "unreadable"),
    "no rows": (png_header(0, 10) + png_chunk(b"IEND", b""), "unreadable"),
    "a header that claims 20000 squared": (png_header(20000, 20000) + png_chunk(b"IDAT", b""), "too_large"),
    "a header that claims 8000 squared": (png_header(8000, 8000) + png_chunk(b"IDAT", b""), "too_large"),
    "TIFF": (encoded("TIFF"), "unsupported_format"),
    "EPS": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "unsupported_format"),
    "HEIC": (b"\0\0\0\x18ftypheic" + bytes(40), "unsupported_format"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_trusted_is_refused(what, tmp_path):
    raw, code = REFUSED[what]
    file = tmp_path / "innocent.png"
    file.write_bytes(raw)
    with pytest.raises(ImageError) as error:
        read_picture(file)
    assert error.value.code == code, str(error.value)


def test_what_is_not_a_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for path, code in (
        (tmp_path, "not_a_file"),
        (tmp_path / "pipe", "not_a_file"),
        ("/dev/zero", "not_a_file"),
        (tmp_path / "loop", "unreadable"),
        (tmp_path / "missing.png", "not_found"),
        ("nul\0byte", "unreadable"),
    ):
        with pytest.raises(ImageError) as error:
            read_picture(path)
        assert error.value.code == code


def test_a_file_that_has_nothing_to_read_yet_is_refused(tmp_path, monkeypatch):
    """As some of /proc, which are files for all that ``stat`` says."""

    class Waiting(io.BytesIO):
        def read(self, size=-1):
            return None

    (tmp_path / "x.png").write_bytes(b"")
    monkeypatch.setattr(images.os, "fdopen", lambda descriptor, mode: os.close(descriptor) or Waiting())
    with pytest.raises(ImageError) as error:
        read_picture(tmp_path / "x.png")
    assert error.value.code == "not_a_file"


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "BMP"])
def test_lossless_files_give_their_pixels(kind, tmp_path):
    file = tmp_path / "x.jpg"  # the name says nothing
    file.write_bytes(encoded(kind, **({"lossless": True} if kind == "WEBP" else {})))
    picture = read_picture(file)
    assert np.array_equal(picture.pixels, PIXELS)
    assert picture.warnings == ()
    assert len(picture.sha256) == 64


def read(tmp_path, raw):
    (tmp_path / "x").write_bytes(raw)
    return read_picture(tmp_path / "x")


def test_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = read(tmp_path, encoded("PNG", exif=exif))
    assert np.array_equal(picture.pixels, np.rot90(PIXELS, -1))


def test_alpha_is_composited_on_white(tmp_path):
    rgba = np.dstack([PIXELS, np.zeros((40, 60), np.uint8)])
    rgba[:, 30:, 3] = 255
    picture = read(tmp_path, encoded("PNG", Image.fromarray(rgba)))
    assert (picture.pixels[:, :30] == 255).all()
    assert np.array_equal(picture.pixels[:, 30:], PIXELS[:, 30:])
    assert "transparent" in picture.warnings[0]


def test_palette_with_a_transparent_colour(tmp_path):
    image = Image.fromarray(PIXELS).quantize(8)
    picture = read(tmp_path, encoded("PNG", image, transparency=0))
    assert (picture.pixels[np.asarray(image) == 0] == 255).all()


def test_sixteen_bits_are_scaled(tmp_path):
    levels = np.linspace(0, 65535, 2400).round().astype(np.uint16).reshape(40, 60)
    picture = read(tmp_path, encoded("PNG", Image.fromarray(levels)))
    assert np.array_equal(picture.pixels[..., 0], np.rint(levels / 257))
    assert "more than 8 bits" in picture.warnings[0]


def test_grey_is_replicated(tmp_path):
    picture = read(tmp_path, encoded("PNG", Image.fromarray(PIXELS).convert("L")))
    assert (picture.pixels[..., 0] == picture.pixels[..., 2]).all()
    assert "grey" in picture.warnings[0]


def test_cmyk_and_colour_profiles(tmp_path):
    assert read(tmp_path, encoded("JPEG", Image.fromarray(PIXELS).convert("CMYK"))).pixels.shape == (40, 60, 3)
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    same = read(tmp_path, encoded("PNG", icc_profile=srgb))
    assert np.abs(same.pixels.astype(int) - PIXELS).max() <= 1
    damaged = read(tmp_path, encoded("PNG", icc_profile=b"nonsense" * 20))
    assert np.array_equal(damaged.pixels, PIXELS)
    assert "profile is damaged" in damaged.warnings[0]


def test_first_frame_of_an_animation(tmp_path):
    frames = [Image.fromarray(PIXELS), Image.fromarray(255 - PIXELS)]
    picture = read(tmp_path, encoded("PNG", frames[0], save_all=True, append_images=frames[1:]))
    assert np.array_equal(picture.pixels, PIXELS)
    assert "first frame" in picture.warnings[0]


def test_a_png_without_its_end_is_noted(tmp_path):
    picture = read(tmp_path, encoded("PNG")[:-12])
    assert np.array_equal(picture.pixels, PIXELS)
    assert "cut off" in picture.warnings[0]


def test_fit_leaves_the_models_own_size_alone():
    pixels = RNG.integers(0, 256, (32, 32, 3), dtype=np.uint8)
    fitted, notes = fit(Picture(pixels), (32, 32))
    assert notes == ()
    assert np.array_equal(fitted, pixels)


def test_fit_crops_and_resizes_and_says_so():
    fitted, notes = fit(from_image(Image.fromarray(PIXELS)), (32, 32))
    assert (fitted.shape, fitted.dtype) == ((32, 32, 3), np.uint8)
    assert ["cropped" in notes[0], "resized" in notes[1]] == [True, True]
    assert len(fit(from_image(Image.new("RGB", (64, 64))), (32, 32))[1]) == 1


def test_networks_take_pictures_from_minus_one_to_one():
    pixels = RNG.integers(0, 256, (2, 32, 24, 3), dtype=np.uint8)
    pixels[0, 0, 0] = (0, 51, 255)
    x = as_tensor(list(pixels))
    assert x.shape == (2, 3, 32, 24)
    assert x[0, :, 0, 0].tolist() == pytest.approx([-1, -0.6, 1])
    assert np.array_equal(((x + 1) * 127.5).round().permute(0, 2, 3, 1).numpy(), pixels)


def test_sixteen_bits_are_rounded_to_the_nearest_of_eight():
    levels = np.arange(65536, dtype=np.uint16)
    assert np.array_equal(to_8_bits(levels), np.rint(levels / 257))


@pytest.mark.parametrize("spread", [0, 1, 2, 5])
def test_flat_is_what_has_a_variance_below_one_in_every_colour(spread):
    levels = (100 + np.arange(128 * 128) % (spread + 1)).astype(np.uint8).reshape(128, 128)
    pixels = np.stack([np.full_like(levels, 7), levels, np.zeros_like(levels)], axis=-1)
    reason = why_inconclusive(from_image(Image.fromarray(pixels)), (128, 128))
    assert (reason is not None and reason.startswith("flat")) == bool(levels.var() < 1)


@pytest.mark.parametrize(
    ("size", "reason"),
    [((1, 1), "too small"), ((30, 128), "too small"), ((3000, 100), "too long"), ((128, 128), "flat")],
)
def test_reasons_for_no_verdict(size, reason):
    picture = from_image(Image.new("RGB", size, (10, 20, 30)))
    assert reason in why_inconclusive(picture, (128, 128))


def test_a_usual_picture_has_no_such_reason():
    assert why_inconclusive(from_image(Image.fromarray(PIXELS)), (128, 128)) is None


@pytest.mark.parametrize(
    "mode", ["1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "LAB", "HSV", "LA", "La", "PA", "RGBa"]
)
def test_every_mode_in_memory_is_read(mode):
    picture = from_image(Image.new(mode, (6, 4)))
    assert (picture.pixels.shape, picture.pixels.dtype) == ((4, 6, 3), np.uint8)


@pytest.mark.parametrize("kind", ["<u2", ">u2", "<i4"])
def test_sixteen_bits_in_memory_are_scaled(kind):
    levels = RNG.integers(0, 65536, (40, 60)).astype(kind)
    picture = from_image(Image.fromarray(levels))
    assert np.array_equal(picture.pixels[..., 1], np.rint(levels / 257))
    assert "more than 8 bits" in picture.warnings[0]


@pytest.mark.parametrize(
    "levels", [np.float32([[0.5]]), np.float32([[np.inf]]), np.int32([[-1]]), np.int32([[65536]])]
)
def test_levels_without_a_known_scale_are_refused(levels):
    with pytest.raises(ImageError, match="not whole numbers from 0 to 65535") as error:
        from_image(Image.fromarray(levels))
    assert error.value.code == "unsupported_format"


def test_orientation_set_in_memory_is_applied():
    image = Image.fromarray(PIXELS)
    image.getexif()[0x0112] = 8
    assert np.array_equal(from_image(image).pixels, np.rot90(PIXELS))


@pytest.mark.parametrize("error", [MemoryError(), OSError("out of memory error when reading image file")])
def test_want_of_memory_is_told_from_damage(monkeypatch, tmp_path, error):
    def failing(content):
        raise error

    monkeypatch.setattr(images, "decode", failing)
    with pytest.raises(ImageError, match="not enough memory") as found:
        read(tmp_path, encoded("PNG"))
    assert (found.value.code, found.value.sha256) == ("too_large", "")  # another time it may be read

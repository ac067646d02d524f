"""Every kind of file yields its exact pixels, or the reason why it has none."""

from __future__ import annotations

import io
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from pipeline.core.image_decode import DecodeError, Raster, TooLargeError, decode_image
from tests.helpers.dedupe import Pixels, encode, photo

LIMIT = 1_000_000


def decode(data: bytes) -> Raster:
    return decode_image(data, max_pixels=LIMIT)


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def insert_chunk(png: bytes, new: bytes) -> bytes:
    """Insert a chunk right after IHDR."""
    return png[:33] + new + png[33:]


def break_crc(png: bytes, name: bytes) -> bytes:
    at = png.index(name)
    length = int.from_bytes(png[at - 4 : at], "big")
    broken = bytearray(png)
    broken[at + 4 + length] ^= 1
    return bytes(broken)


@pytest.mark.parametrize("shape", [(64, 64), (1, 1), (7, 300), (256, 256)])
def test_the_fast_decoder_yields_the_pixels_of_pillow(shape: tuple[int, int]) -> None:
    pixels = photo(1, *shape)
    raster = decode(encode(pixels))
    assert (raster.format, raster.mode, raster.has_alpha) == ("png", "RGB", False)
    np.testing.assert_array_equal(raster.pixels_HWC, pixels)


# Start and steps of each Adam7 pass, (y, x, dy, dx); W3C PNG, third edition, section 8.1.
ADAM7 = [
    (0, 0, 8, 8),
    (0, 4, 8, 8),
    (4, 0, 8, 4),
    (0, 2, 4, 4),
    (2, 0, 4, 2),
    (0, 1, 2, 2),
    (1, 0, 2, 1),
]


def interlaced_png(pixels: Pixels) -> bytes:
    """An Adam7 PNG without filters."""
    height, width = pixels.shape[:2]
    passes = [pixels[y::dy, x::dx] for y, x, dy, dx in ADAM7]
    rows = b"".join(b"\0" + row.tobytes() for part in passes if part.size for row in part)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 1)
    data = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + data


@pytest.mark.parametrize("shape", [(1, 1), (5, 3), (64, 70)])
def test_an_interlaced_png_is_read(shape: tuple[int, int]) -> None:
    pixels = photo(4, *shape)
    data = interlaced_png(pixels)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(data))), pixels)
    np.testing.assert_array_equal(decode(data).pixels_HWC, pixels)


def test_image_data_in_many_chunks_is_read() -> None:
    png = encode(photo(5))
    at = png.index(b"IDAT")
    length = int.from_bytes(png[at - 4 : at], "big")
    body = png[at + 4 : at + 4 + length]
    pieces = b"".join(chunk(b"IDAT", body[n : n + 37]) for n in range(0, length, 37))
    data = png[: at - 4] + pieces + chunk(b"IEND", b"")
    np.testing.assert_array_equal(decode(data).pixels_HWC, photo(5))


@pytest.mark.parametrize("name", [b"IHDR", b"IDAT", b"IEND", b"tEXt"])
def test_a_wrong_crc_in_any_chunk_is_named(name: bytes) -> None:
    png = insert_chunk(encode(photo(1)), chunk(b"tEXt", b"a\0b"))
    with pytest.raises(DecodeError, match=f"wrong CRC in PNG chunk {name.decode()}"):
        decode(break_crc(png, name))


@pytest.mark.parametrize("keep", [0.0, 0.001, 0.01, 0.5, 0.99])
@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP", "GIF"])
def test_truncated_files_have_no_pixels(file_format: str, keep: float) -> None:
    data = encode(photo(1), file_format)
    with pytest.raises(DecodeError):
        decode(data[: int(len(data) * keep)])


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "empty file"),
        (b"<!DOCTYPE html><html><body>404</body></html>", "HTML page"),
        (b'\n <HTML><img src="x">', "HTML page"),
        (b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
        (b"%!PS-Adobe-3.0 EPSF-3.0", "no image format"),
        (b"\x00" * 100, "no image format"),
    ],
)
def test_files_that_are_not_images_are_named(data: bytes, said: str) -> None:
    with pytest.raises(DecodeError, match=said):
        decode(data)


def test_broken_image_data_has_the_same_message_every_time() -> None:
    png = encode(photo(1))
    at = png.index(b"IDAT")
    length = int.from_bytes(png[at - 4 : at], "big")
    bad = png[: at - 4] + chunk(b"IDAT", b"\xff" * length) + chunk(b"IEND", b"")
    said = set()
    for _ in range(2):
        with pytest.raises(DecodeError) as error:
            decode(bad)
        said.add(str(error.value))
    assert len(said) == 1
    assert "0x" not in said.pop()


@pytest.mark.parametrize("colour_type", [0, 2, 6])
def test_a_decompression_bomb_is_never_decoded(colour_type: int) -> None:
    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, colour_type, 0, 0, 0)
    rows = zlib.compress(bytes(1000))
    bomb = (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    )
    with pytest.raises(TooLargeError, match="30000×30000"):
        decode_image(bomb, max_pixels=40_000_000)


def test_a_bomb_in_another_format_is_never_decoded() -> None:
    data = encode(Image.new("L", (2000, 2000)), "GIF")
    with pytest.raises(TooLargeError, match="2000×2000"):
        decode(data)


@pytest.mark.parametrize("file_format", ["GIF", "WEBP", "PNG"])
def test_of_an_animation_the_first_frame_counts(file_format: str) -> None:
    first, second = Image.new("RGB", (8, 8), (255, 0, 0)), Image.new("RGB", (8, 8), (0, 0, 255))
    data = encode(first, file_format, save_all=True, append_images=[second], lossless=True)
    np.testing.assert_array_equal(decode(data).pixels_HWC[0, 0], [255, 0, 0])


def test_cmyk_becomes_rgb() -> None:
    raster = decode(encode(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=100))
    assert raster.mode == "CMYK"
    red, green, blue = (int(v) for v in raster.pixels_HWC[4, 4])
    assert (red > 240, green < 15, blue < 15) == (True, True, True)


def test_of_16_bits_the_upper_8_count() -> None:
    grey = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000
    raster = decode(encode(Image.fromarray(grey)))
    np.testing.assert_array_equal(raster.pixels_HWC, np.repeat((grey >> 8)[..., None], 3, axis=2))


def test_a_16_bit_colour_png_is_read_by_its_upper_bytes() -> None:
    rows = b"".join(b"\0" + bytes([10, 99, 20, 99, 30, 99]) * 4 for _ in range(4))
    header = struct.pack(">IIBBBBB", 4, 4, 16, 2, 0, 0, 0)
    data = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    raster = decode(b"\x89PNG\r\n\x1a\n" + data)
    np.testing.assert_array_equal(raster.pixels_HWC[2, 2], [10, 20, 30])


def test_transparency_is_flattened_over_white() -> None:
    raster = decode(encode(Image.new("RGBA", (4, 4), (255, 0, 0, 0))))
    assert (raster.mode, raster.has_alpha) == ("RGBA", True)
    assert (raster.pixels_HWC == 255).all()


def test_a_palette_with_transparency_is_flattened_over_white() -> None:
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    raster = decode(encode(image, transparency=1))
    assert (raster.mode, raster.has_alpha) == ("P", True)
    assert (raster.pixels_HWC == 255).all()
    assert (decode(encode(image)).pixels_HWC == [10, 20, 30]).all()


def test_a_transparent_colour_of_an_rgb_png_is_flattened_over_white() -> None:
    image = Image.new("RGB", (4, 4), (10, 20, 30))
    raster = decode(encode(image, transparency=(10, 20, 30)))
    assert raster.has_alpha
    assert (raster.pixels_HWC == 255).all()


@pytest.mark.parametrize("file_format", ["JPEG", "PNG"])
def test_the_exif_orientation_is_applied(file_format: str) -> None:
    image = Image.fromarray(photo(1, 32, 64))
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encode(image, file_format, exif=exif)
    assert decode(data).pixels_HWC.shape == (64, 32, 3)
    if file_format == "PNG":
        np.testing.assert_array_equal(decode(data).pixels_HWC, np.rot90(np.asarray(image), -1))


def test_grey_becomes_rgb() -> None:
    grey = photo(1)[..., 0]
    raster = decode(encode(Image.fromarray(grey)))
    np.testing.assert_array_equal(raster.pixels_HWC, np.repeat(grey[..., None], 3, axis=2))


def test_pillows_own_limit_is_restored() -> None:
    before = Image.MAX_IMAGE_PIXELS
    decode(encode(photo(1), "JPEG"))
    with pytest.raises(DecodeError):
        decode(io.BytesIO(b"GIF89a").getvalue())
    assert before == Image.MAX_IMAGE_PIXELS


def test_pillows_own_limit_is_restored_after_threads() -> None:
    before = Image.MAX_IMAGE_PIXELS
    files = [encode(photo(seed), "JPEG") for seed in range(40)]
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(decode, files))
    assert before == Image.MAX_IMAGE_PIXELS

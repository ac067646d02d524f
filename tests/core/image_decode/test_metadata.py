"""Broken, odd or huge metadata never make an image unusable; a readable orientation is applied."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from pipeline.core.image_decode import DecodeError, Pixels, decode_image, is_plain_png
from tests.core.image_decode.files import (
    chunk,
    encode,
    exif,
    insert_chunks,
    insert_segment,
    orientation,
    photo,
)

BOMB = zlib.compress(bytes(90 << 20))
TEXTS = {
    "zTXt": chunk(b"zTXt", b"note\0\0" + BOMB),
    "iTXt": chunk(b"iTXt", b"note\0\1\0\0\0" + BOMB),
    "iCCP": chunk(b"iCCP", b"profile\0\0" + BOMB),
    "many zTXt": b"".join(
        chunk(b"zTXt", b"note\0\0" + zlib.compress(bytes(900_000))) for _ in range(90)
    ),
    "broken iCCP": chunk(b"iCCP", b"profile\0\0garbage"),
    "iCCP of an unknown kind": chunk(b"iCCP", b"profile\0\7garbage"),
    "empty pHYs": chunk(b"pHYs", b""),
    "short gAMA": chunk(b"gAMA", b"x"),
    "short cHRM": chunk(b"cHRM", b"x"),
    "empty acTL": chunk(b"acTL", b""),
    "broken eXIf": chunk(b"eXIf", b"garbage, and more of it"),
    "empty eXIf": chunk(b"eXIf", b""),
}


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "LA"])
def test_large_and_broken_chunks_of_a_png_are_ignored(name: str, mode: str) -> None:
    image = Image.fromarray(photo(1)).convert(mode)
    plain = encode(image)
    found = decode_image(insert_chunks(plain, TEXTS[name]))
    np.testing.assert_array_equal(found.pixels_HWC, decode_image(plain).pixels_HWC)
    assert found.mode == mode


ODD_EXIF = {
    "a string as a number": (0x011A, 5, 1, b"\xff\xff\xff\xff"),
    "an unknown type": (0x010F, 99, 7, b"abcd"),
    "a count without end": (0x010E, 2, 0xFFFFFFF0, b"\0\0\0\x09"),
    "a float as a date": (0x0132, 12, 3, b"\0\0\0\x01"),
    "a directory beyond the end": (0x8769, 4, 1, b"\x7f\xff\xff\xff"),
    "a directory that is a text": (0x8769, 2, 4, b"text"),
    "a place that is a fraction of nothing": (0x8825, 5, 9, bytes(4)),
}


def with_exif(file_format: str, data: bytes) -> bytes:
    """A 64×48 image with these EXIF."""
    if file_format == "JPEG":
        return insert_segment(encode(photo(1), "JPEG", quality=95), 0xE1, b"Exif\0\0" + data)
    if file_format == "PNG":
        return insert_chunks(encode(photo(1)), chunk(b"eXIf", data))
    return encode(photo(1), file_format, exif=b"Exif\0\0" + data)


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("name", ODD_EXIF)
def test_other_tags_of_wrong_types_do_not_prevent_rotation(name: str, file_format: str) -> None:
    data = with_exif(file_format, exif(ODD_EXIF[name], orientation(6)))
    assert decode_image(data).pixels_HWC.shape == (64, 48, 3)


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize(
    "data",
    [b"", b"garbage", b"MM\0*", b"MM\0*\xff\xff\xff\xff", b"II*\0\x08\0\0\0\xff\xff", bytes(64)],
)
def test_garbage_instead_of_exif_leaves_the_image_unrotated(data: bytes, file_format: str) -> None:
    found = decode_image(with_exif(file_format, data))
    assert found.pixels_HWC.shape == (48, 64, 3)


TURNS: dict[int, Callable[[Pixels], Pixels]] = {
    2: np.fliplr,
    3: lambda pixels: np.rot90(pixels, 2),
    4: np.flipud,
    5: lambda pixels: pixels.transpose(1, 0, 2),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: np.rot90(pixels, 2).transpose(1, 0, 2),
    8: np.rot90,
}


@pytest.mark.parametrize("value", range(11))
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_every_orientation_is_applied_as_by_pillow(value: int, file_format: str) -> None:
    tags = Image.Exif()
    tags[0x0112] = value
    if file_format == "AVIF" and not 1 <= value <= 8:
        pytest.skip("AVIF has no such turn")
    options = {"lossless": True} if file_format == "WEBP" else {}
    image = Image.fromarray(photo(2))
    turns = {5, 6, 7, 8}
    found = decode_image(encode(image, file_format, exif=tags, **options)).pixels_HWC
    assert found.shape == ((64, 48, 3) if value in turns else (48, 64, 3))
    if file_format in ("PNG", "WEBP", "TIFF"):
        turned = TURNS[value](photo(2)) if value in TURNS else photo(2)
        np.testing.assert_array_equal(found, turned)


def test_an_orientation_of_four_bytes_is_read() -> None:
    data = with_exif("JPEG", exif((0x0112, 4, 1, struct.pack(">I", 8))))
    assert decode_image(data).pixels_HWC.shape == (64, 48, 3)


HELD = b"Exif\0\0" + exif(orientation(6))
PROFILE = b"\nexif\n%8d\n%s\n" % (len(HELD), HELD.hex().encode())  # as ImageMagick writes it
XMP = b'<x:xmpmeta><a tiff:Orientation="6"/></x:xmpmeta>'
TURNING_TEXTS = {
    "tEXt": chunk(b"tEXt", b"Raw profile type exif\0" + PROFILE),
    "zTXt": chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(PROFILE)),
    "iTXt": chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP),
    "compressed iTXt": chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0en\0XMP\0" + zlib.compress(XMP)),
}


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
@pytest.mark.parametrize("kind", TURNING_TEXTS)
def test_the_orientation_in_a_text_of_a_png_is_applied(kind: str, mode: str) -> None:
    image = Image.fromarray(photo(1)).convert(mode)
    data = insert_chunks(encode(image), TURNING_TEXTS[kind])
    expected = np.rot90(np.asarray(image.convert("RGB")), -1)
    np.testing.assert_array_equal(decode_image(data).pixels_HWC, expected)
    assert not is_plain_png(data)


def test_exif_takes_precedence_over_xmp() -> None:
    xmp = b'http://ns.adobe.com/xap/1.0/\0<x:xmpmeta><a tiff:Orientation="6"/></x:xmpmeta>'
    plain = encode(photo(1), "JPEG")
    turned = insert_segment(plain, 0xE1, xmp)
    assert decode_image(turned).pixels_HWC.shape == (64, 48, 3)
    left = insert_segment(turned, 0xE1, b"Exif\0\0" + exif(orientation(1)))
    assert decode_image(left).pixels_HWC.shape == (48, 64, 3)


def test_a_tiff_with_odd_tags_is_rotated() -> None:
    tags = Image.Exif()
    tags[0x0112] = 6
    data = bytearray(
        encode(photo(1), "TIFF", exif=tags, description="a text that is longer than four")
    )
    at = data.index(struct.pack("<HH", 270, 2))
    data[at : at + 4] = struct.pack("<HH", 0x8825, 5)  # the description becomes a broken place
    assert decode_image(bytes(data)).pixels_HWC.shape == (64, 48, 3)


def test_a_jpeg_with_broken_segments_is_read() -> None:
    plain = encode(photo(1), "JPEG")
    for marker, data in (
        (0xE2, b"MPF\0garbage"),
        (0xE2, b"MPF\0MM\0*\0\0\0\x08\0\x01\xb0\x02\0\x07\xff\xff\xff\xff\0\0\0\0"),
        (0xE2, b"ICC_PROFILE\0\0\0"),
        (0xED, b"Photoshop 3.0\x008BIM\x03\xed\0\0\0\0\0\x02xx"),
        (0xE1, b"http://ns.adobe.com/xap/1.0/\0\xff\xfe<"),
        (0xEE, b"Adobe"),
    ):
        found = decode_image(insert_segment(plain, marker, data))
        np.testing.assert_array_equal(found.pixels_HWC, decode_image(plain).pixels_HWC)


def with_components(data: bytes, names: bytes) -> bytes:
    """The same JPEG with other names of its three components."""
    named = bytearray(data)
    frame, scan = data.index(b"\xff\xc0"), data.index(b"\xff\xda")
    for place, name in enumerate(names):
        named[frame + 10 + 3 * place] = named[scan + 5 + 2 * place] = name
    return bytes(named)


@pytest.mark.parametrize("kind", ["JFIF", "Adobe"])
def test_a_jpeg_with_a_broken_segment_keeps_the_colours_that_its_header_names(kind: str) -> None:
    """Without the JFIF segment, R, G and B name RGB; without the Adobe segment, 1, 2 and 3 name YCbCr."""
    data = encode(photo(1), "JPEG", quality=95, keep_rgb=kind == "Adobe")
    plain = with_components(data, b"RGB" if kind == "JFIF" else b"\1\2\3")
    found = decode_image(insert_segment(plain, 0xEE, b"Adobe")).pixels_HWC
    assert np.abs(found.astype(int) - photo(1)).mean() < 5


def test_an_avif_with_garbage_for_exif_is_read() -> None:
    tags = Image.Exif()
    tags[0x010E] = "a description"
    data = encode(photo(1), "AVIF", exif=tags)
    at = data.rindex(b"MM\0*") if b"MM\0*" in data else data.rindex(b"II*\0")
    broken = data[:at] + b"XXXX" + data[at + 4 :]
    found = decode_image(broken).pixels_HWC
    np.testing.assert_array_equal(found, decode_image(data).pixels_HWC)


def test_a_png_with_an_unknown_critical_chunk_is_refused() -> None:
    with pytest.raises(DecodeError):
        decode_image(insert_chunks(encode(photo(1)), chunk(b"CgBI", b"\0\0\0\0")))

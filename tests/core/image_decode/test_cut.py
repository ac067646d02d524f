"""A truncated JPEG is recognised by its data, never by a grey bottom."""

from __future__ import annotations

import contextlib
import io
import random
import re

import numpy as np
import pytest
from PIL import Image

from pipeline.core.image_decode import DecodeError, decode_image, ends_early, looks_cut
from tests.core.image_decode.files import encode, insert_segment, photo

END = b"\xff\xd9"


def is_cut(data: bytes) -> bool:
    return looks_cut(data, decode_image(data).pixels_HWC)


def is_cut_or_refused(data: bytes) -> bool:
    """A file that ends within a table has no pixels at all."""
    try:
        return is_cut(data)
    except DecodeError:
        return True


KINDS: dict[str, dict[str, object]] = {
    "baseline": {},
    "progressive": {"progressive": True},
    "fine colours": {"subsampling": 0, "quality": 95},
    "coarse": {"quality": 10},
    "restarts": {"restart_marker_blocks": 4},
    "optimized": {"optimize": True},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.3, 0.5, 0.7, 0.9])
def test_half_a_jpeg_with_an_end_looks_cut(kind: str, share: float) -> None:
    data = encode(photo(1, 200, 300), "JPEG", **KINDS[kind])
    head = data.index(b"\xff\xda") + 20
    half = data[: head + int((len(data) - head) * share)].rstrip(b"\xff")
    assert is_cut_or_refused(half + END)
    assert is_cut_or_refused(half + END + b"\r\n")


@pytest.mark.parametrize("side", [32, 33, 34, 35, 40, 41, 47, 48])
@pytest.mark.parametrize("subsampling", [0, 2])
def test_a_jpeg_of_any_size_without_its_last_two_blocks_looks_cut(
    side: int, subsampling: int
) -> None:
    options = {"restart_marker_blocks": 1, "subsampling": subsampling, "quality": 95}
    data = encode(photo(3, side, side), "JPEG", **options)
    restarts = list(re.finditer(rb"\xff[\xd0-\xd7]", data))
    assert is_cut(data[: restarts[-2].end()] + END)


@pytest.mark.parametrize("mode", ["L", "CMYK", "RGB"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_every_mode_and_orientation(mode: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(Image.fromarray(photo(1, 200, 300)).convert(mode), "JPEG", exif=exif)
    assert not is_cut(data)
    assert is_cut(data[: len(data) * 2 // 3].rstrip(b"\xff") + END)


def sound(bottom: str, kind: str) -> bytes:
    pixels = photo(2, 120, 160).copy()
    if bottom == "grey":
        pixels[60:] = 128
    elif bottom == "all grey":
        pixels[:] = 128
    elif bottom == "white":
        pixels[60:] = 255
    elif bottom == "black":
        pixels[60:] = 0
    elif bottom == "noise":
        pixels[60:] = np.random.default_rng(1).integers(0, 256, (60, 160, 3), dtype=np.uint8)
    return encode(pixels, "JPEG", **KINDS[kind])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bottom", ["grey", "all grey", "white", "black", "noise", "as it is"])
def test_an_intact_image_never_looks_cut(bottom: str, kind: str) -> None:
    data = sound(bottom, kind)
    assert not is_cut(data)
    assert not is_cut(data + bytes(100))
    assert not is_cut(data[:-2])


@pytest.mark.parametrize("kind", KINDS)
def test_no_intact_image_of_any_size_looks_cut(kind: str) -> None:
    for number in range(60):
        height, width = 1 + number * 7 % 53, 1 + number * 11 % 47
        pixels = photo(number, height, width).copy()
        pixels[height // 2 :] = 128
        assert not is_cut(encode(pixels, "JPEG", **KINDS[kind])), (height, width)


def test_stray_bytes_before_the_end_marker_are_no_cut() -> None:
    data = encode(photo(1), "JPEG")
    assert not is_cut(data[:-2] + bytes(30) + END)
    assert not is_cut(data[:-2] + b"\xff\xff\xff" + END)
    assert not is_cut(insert_segment(data, 0xFE, b"a comment with \xff\xda in it"))


@pytest.mark.parametrize("file_format", ["PNG", "GIF", "WEBP", "TIFF", "BMP", "AVIF"])
def test_truncated_files_of_other_formats_are_refused(file_format: str) -> None:
    data = encode(photo(1), file_format)
    assert not is_cut(data)
    with pytest.raises(DecodeError):
        decode_image(data[: len(data) // 2])


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_without_end_marker_is_decoded_and_half_a_jpeg_is_not(progressive: bool) -> None:
    data = encode(photo(1, 200, 300), "JPEG", progressive=progressive)
    without = decode_image(data[:-2]).pixels_HWC
    np.testing.assert_array_equal(without, decode_image(data).pixels_HWC)
    assert not ends_early(data[:-2])
    assert ends_early(data[: len(data) // 2])
    with pytest.raises(DecodeError, match="ends early"):
        decode_image(data[: len(data) // 2])


@pytest.mark.parametrize("subsampling", [0, 2])
@pytest.mark.parametrize("quality", [75, 90])
def test_without_end_marker_any_visible_loss_in_the_last_block_is_noticed(
    subsampling: int, quality: int
) -> None:
    whole = encode(photo(4, 40, 40), "JPEG", subsampling=subsampling, quality=quality)
    with Image.open(io.BytesIO(whole)) as image:
        expected = np.asarray(image)
    lost = 0
    for count in range(2, 40):
        cut = whole[:-count].rstrip(b"\xff")
        with Image.open(io.BytesIO(cut + END)) as image:
            is_visible = not np.array_equal(np.asarray(image), expected)
        assert ends_early(cut) or not is_visible, count
        lost += is_visible
    assert lost > 10


def test_of_two_images_in_one_file_the_first_is_used() -> None:
    buffer = io.BytesIO()
    Image.fromarray(photo(1)).save(
        buffer, "MPO", save_all=True, append_images=[Image.fromarray(photo(2))], quality=95
    )
    found = decode_image(buffer.getvalue()).pixels_HWC
    assert np.abs(found.astype(int) - photo(1)).mean() < 5
    assert not looks_cut(buffer.getvalue(), found)


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "AVIF", "BMP"])
def test_damage_of_any_kind_yields_pixels_or_a_reason(file_format: str) -> None:
    dice = random.Random(file_format)
    whole = encode(photo(1), file_format)
    for _ in range(150):
        data = bytearray(whole)
        for _ in range(dice.randint(1, 6)):
            at = dice.randrange(len(data))
            data[at : at + dice.randint(0, 9)] = dice.randbytes(dice.randint(0, 9))
        with contextlib.suppress(DecodeError):
            is_cut(bytes(data))

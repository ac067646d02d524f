"""Transparency at every depth, and the background that it is flattened over."""

from __future__ import annotations

import struct
from itertools import combinations

import numpy as np
import pytest
from PIL import Image, ImageDraw

from pipeline.core.image_decode import Pixels, decode_image, hash_pixels
from tests.core.image_decode.files import chunk, encode, insert_chunks, photo, raw_png


def pack(samples: list[int], depth: int) -> bytes:
    """A row of samples, the first in the highest bits."""
    if depth == 16:
        return struct.pack(f">{len(samples)}H", *samples)
    bits = "".join(f"{sample:0{depth}b}" for sample in samples)
    return int(bits.ljust(-(-len(bits) // 8) * 8, "0"), 2).to_bytes(-(-len(bits) // 8), "big")


@pytest.mark.parametrize(
    ("depth", "samples", "hidden", "seen"),
    [
        (1, [0, 1, 0, 1], 0, [255, 255, 255, 255]),
        (2, [0, 1, 2, 3], 1, [0, 255, 170, 255]),
        (4, [0, 1, 8, 15], 1, [0, 255, 136, 255]),
        (8, [0, 1, 128, 255], 1, [0, 255, 128, 255]),
        (16, [0, 1000, 1001, 65535], 1000, [0, 255, 3, 255]),
    ],
)
def test_the_transparent_grey_is_compared_at_its_own_depth(
    depth: int, samples: list[int], hidden: int, seen: list[int]
) -> None:
    # The rows below ensure that most of what is visible is not white.
    rows = [pack(samples, depth), *[pack([2 if depth > 1 else 1] * 4, depth)] * 3]
    data = raw_png(rows, 4, depth, 0, chunk(b"tRNS", struct.pack(">H", hidden)))
    found = decode_image(data)
    assert found.has_alpha
    if depth == 1:  # all that is seen is white: it lies over black
        seen = [0, 255, 0, 255]
    assert found.pixels_HWC[0].tolist() == [[value] * 3 for value in seen]


@pytest.mark.parametrize("depth", [8, 16])
def test_the_transparent_colour_is_compared_at_its_own_depth(depth: int) -> None:
    near = (10, 20, 31) if depth == 8 else (2560, 5120, 7681)
    hidden = (10, 20, 30) if depth == 8 else (2560, 5120, 7680)
    data = raw_png(
        [pack([*hidden, *near], depth)], 2, depth, 2, chunk(b"tRNS", struct.pack(">3H", *hidden))
    )
    found = decode_image(data)
    assert (found.mode, found.has_alpha) == ("RGB", True)
    assert found.pixels_HWC.tolist() == [[[255, 255, 255], [10, 20, 31 if depth == 8 else 30]]]


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_the_transparent_colours_of_a_palette_are_seen_at_every_depth(depth: int) -> None:
    palette = chunk(b"PLTE", bytes([200, 0, 0, 0, 0, 200]))
    data = raw_png([pack([0, 1], depth)], 2, depth, 3, palette, chunk(b"tRNS", b"\x80\0"))
    found = decode_image(data)
    assert (found.mode, found.has_alpha) == ("P", True)
    assert found.pixels_HWC[0, 1].tolist() == [255, 255, 255]
    assert found.pixels_HWC[0, 0].tolist() == pytest.approx([227, 127, 127], abs=1)


@pytest.mark.parametrize("colour", [0, 2])
def test_only_the_lower_bits_of_a_transparent_colour_count(colour: int) -> None:
    samples = [7] * (3 if colour else 1)
    hidden = struct.pack(f">{len(samples)}H", *(256 + 7 for _ in samples))
    data = raw_png([bytes(samples)], 1, 8, colour, chunk(b"tRNS", hidden))
    assert decode_image(data).pixels_HWC.tolist() == [[[255, 255, 255]]]


@pytest.mark.parametrize("colour", [0, 2, 3, 4, 6])
@pytest.mark.parametrize("content", [b"", b"\0"])
def test_a_broken_transparent_colour_is_ignored(colour: int, content: bytes) -> None:
    samples = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    between = [chunk(b"PLTE", bytes([9, 9, 9]))] if colour == 3 else []
    data = raw_png([bytes(samples)], 1, 8, colour, *between, chunk(b"tRNS", content))
    assert decode_image(data).pixels_HWC.shape == (1, 1, 3)


def test_a_rotated_image_with_a_transparent_colour_is_rotated() -> None:
    turn = chunk(b"eXIf", b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0")
    data = raw_png([b"\x05\x63"], 2, 8, 0, chunk(b"tRNS", b"\0\x05"), turn)
    assert decode_image(data).pixels_HWC[:, 0, 0].tolist() == [255, 99]


@pytest.mark.parametrize("colour", [4, 6])
def test_alpha_of_16_bits_is_read_by_its_upper_8(colour: int) -> None:
    grey = [0x1234] if colour == 4 else [0x1234, 0x1234, 0x1234]
    data = raw_png([pack([*grey, 0xFFFF, *grey, 0x0000], 16)], 2, 16, colour)
    found = decode_image(data)
    assert found.has_alpha
    assert found.pixels_HWC.tolist() == [[[0x12] * 3, [255] * 3]]


# --- The background ------------------------------------------------------------------------------


def drawing(shape: str, colour: tuple[int, int, int], *, back: int = 0) -> Image.Image:
    """A shape in one colour on transparency; the transparent pixels have another, invisible colour."""
    image = Image.new("RGBA", (64, 64), (back, back, back, 0))
    draw = ImageDraw.Draw(image)
    ink = (*colour, 255)
    if shape == "circle":
        draw.ellipse((8, 8, 56, 56), outline=ink, width=5)
    elif shape == "cross":
        draw.line((8, 8, 56, 56), fill=ink, width=5)
        draw.line((8, 56, 56, 8), fill=ink, width=5)
    elif shape == "box":
        draw.rectangle((12, 20, 52, 44), outline=ink, width=5)
    else:
        draw.polygon([(32, 6), (58, 54), (6, 54)], fill=ink)
    return image


SHAPES = ("circle", "cross", "box", "triangle")


def raster(image: Image.Image, file_format: str = "PNG") -> Pixels:
    options = {"lossless": True} if file_format == "WEBP" else {}
    return decode_image(encode(image, file_format, **options)).pixels_HWC


@pytest.mark.parametrize("file_format", ["PNG", "WEBP", "TIFF"])
def test_different_white_logos_on_transparency_are_not_duplicates(file_format: str) -> None:
    hashes = [hash_pixels(raster(drawing(shape, (255, 255, 255)), file_format)) for shape in SHAPES]
    assert len(set(hashes)) == len(SHAPES)
    assert (raster(drawing("circle", (255, 255, 255)), file_format)[0, 0] == 0).all()


@pytest.mark.parametrize("colour", [(0, 0, 0), (220, 30, 30), (120, 120, 120), (239, 239, 239)])
def test_what_is_visible_on_white_is_flattened_over_white(colour: tuple[int, int, int]) -> None:
    pixels = [raster(drawing(shape, colour)) for shape in SHAPES]
    assert all((found[0, 0] == 255).all() for found in pixels)
    assert all(not np.array_equal(one, other) for one, other in combinations(pixels, 2))


def test_the_colour_of_transparent_pixels_does_not_count() -> None:
    assert np.array_equal(
        raster(drawing("box", (255, 255, 255), back=0)),
        raster(drawing("box", (255, 255, 255), back=255)),
    )


def test_a_white_logo_with_a_dot_of_colour_is_flattened_over_black() -> None:
    image = drawing("triangle", (255, 255, 255))
    ImageDraw.Draw(image).ellipse((28, 36, 36, 44), fill=(200, 0, 0, 255))
    found = raster(image)
    assert found[0, 0].tolist() == [0, 0, 0]
    assert found[40, 32].tolist() == [200, 0, 0]


@pytest.mark.parametrize("outline", [(0, 0, 0), (200, 0, 0), (150, 160, 170)])
def test_a_white_drawing_with_an_outline_is_flattened_over_white(
    outline: tuple[int, int, int],
) -> None:
    image = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    ImageDraw.Draw(image).ellipse((8, 8, 56, 56), fill="white", outline=outline, width=2)
    found = raster(image)
    assert found[0, 0].tolist() == [255] * 3
    assert found[32, 8].tolist() == list(outline)


def test_a_faint_white_drawing_is_flattened_over_black() -> None:
    image = drawing("triangle", (255, 255, 255))
    image.putalpha(image.getchannel("A").point(lambda alpha: alpha // 3))
    assert raster(image)[0, 0].tolist() == [0] * 3


def test_a_transparent_drawing_in_white_is_visible() -> None:
    """White everywhere, with transparent lines."""
    image = Image.new("RGBA", (32, 32), "white")
    ImageDraw.Draw(image).line((2, 2, 30, 30), fill=(255, 255, 255, 0), width=3)
    assert raster(image).min() == 0


def test_a_fully_transparent_image_is_white() -> None:
    assert (raster(Image.new("RGBA", (4, 4), (255, 255, 255, 0))) == 255).all()


@pytest.mark.parametrize("colour", [(255, 255, 255), (0, 0, 0)])
def test_the_background_does_not_affect_opaque_images(colour: tuple[int, int, int]) -> None:
    image = Image.new("RGBA", (8, 8), (*colour, 255))
    found = decode_image(encode(image))
    assert found.has_alpha
    np.testing.assert_array_equal(found.pixels_HWC, np.full((8, 8, 3), colour[0]))


def test_a_palette_image_in_white_is_flattened_over_black() -> None:
    image = Image.new("P", (8, 8), 0)
    image.putpalette([255, 255, 255, 255, 255, 255])
    image.putpixel((3, 3), 1)
    found = decode_image(encode(image, transparency=0))
    assert (found.pixels_HWC[3, 3].tolist(), found.pixels_HWC[0, 0].tolist()) == (
        [255] * 3,
        [0] * 3,
    )


def test_pixels_of_opaque_images_are_unchanged() -> None:
    """Hashes from version 1 of the raster."""
    grey16 = Image.fromarray(np.arange(3072, dtype=np.uint16).reshape(48, 64) * 21)
    turn = chunk(b"eXIf", b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0")
    found = [
        hash_pixels(decode_image(data).pixels_HWC)[:16]
        for data in (
            encode(photo(3)),
            encode(grey16),
            insert_chunks(encode(photo(3)), turn),
            encode(Image.fromarray(photo(3)).quantize(16)),
        )
    ]
    assert found == EARLIER


EARLIER = ["961ce2b76f1d4d35", "476666ff9c89b254", "8ffd4175a6fad6a5", "fab73df8e6da383c"]

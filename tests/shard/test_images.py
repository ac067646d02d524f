"""Images in shards have the hashed and encoded pixels for every reader."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from pipeline.core.errors import DamageError
from pipeline.core.image_decode import decode_image, hash_pixels
from pipeline.core.storage import sha256_bytes
from pipeline.shard.config import ShardConfig
from pipeline.shard.run import run
from pipeline.webdata.reader import ShardReader
from tests.helpers.shards import make_row

SIDE = 16
Pixels = npt.NDArray[np.uint8]


def gradient(channels: int) -> Pixels:
    rows, columns = np.mgrid[0:SIDE, 0:SIDE]
    planes = [rows * 15, columns * 15, 255 - rows * 8 - columns * 7, (rows + columns) * 8]
    return np.stack(planes[:channels], axis=-1).astype(np.uint8)


def encode(image: Image.Image, file_format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


def see_through() -> bytes:
    return encode(Image.fromarray(gradient(4), "RGBA"), "PNG")


def see_through_palette() -> bytes:
    palette = Image.fromarray(gradient(3)).quantize(4)
    return encode(palette, "PNG", transparency=0)


def grey_and_alpha() -> bytes:
    return encode(Image.fromarray(gradient(4)[..., 2:], "LA"), "PNG")


def deep() -> bytes:
    grey = np.arange(SIDE * SIDE, dtype=np.uint16).reshape(SIDE, SIDE) * 256 + 7
    return encode(Image.fromarray(grey), "PNG")


def turned_png() -> bytes:
    return encode(Image.fromarray(gradient(3)), "PNG", exif=turned())


def turned_jpeg() -> bytes:
    return encode(Image.fromarray(gradient(3)), "JPEG", exif=turned(), quality=95)


def inks() -> bytes:
    return encode(Image.fromarray(gradient(3)).convert("CMYK"), "JPEG", quality=95)


def moving() -> bytes:
    frames = [Image.fromarray(gradient(3)), Image.new("RGB", (SIDE, SIDE), "red")]
    return encode(frames[0], "GIF", save_all=True, append_images=frames[1:])


def plain() -> bytes:
    return encode(Image.fromarray(gradient(3)), "PNG")


KINDS = (
    see_through,
    see_through_palette,
    grey_and_alpha,
    deep,
    turned_png,
    turned_jpeg,
    inks,
    moving,
    plain,
)


@pytest.fixture(params=KINDS, ids=lambda kind: str(kind.__name__))
def data(request: pytest.FixtureRequest) -> bytes:
    kind: Callable[[], bytes] = request.param
    return kind()


@pytest.fixture
def row(world: Any, data: bytes) -> dict[str, Any]:
    """The row of an additional image of the world."""
    segment = world.workspace.segments / "00000.tar"
    raster = decode_image(data)
    found = make_row(1001, segment.stat().st_size, data) | {
        "bytes_sha256": sha256_bytes(data),
        "pixel_sha256": hash_pixels(raster.pixels_HWC),
        "format": raster.format,
    }
    with segment.open("ab") as file:
        file.write(data)
    world.rows.append(found)
    world.save()
    return found


def in_shards(world: Any, row: dict[str, Any], images: str) -> bytes:
    """The bytes of the row's image in shards of that form."""
    run(ShardConfig(workspace=world.root, text_seq_len=24, images=images))
    reader = ShardReader(world.workspace.shards("default"), row["split"])
    samples = (reader.sample(number) for number in range(len(reader)))
    found = next(sample.image for sample in samples if sample.key == row["key"])
    assert found is not None
    return found


def as_trainers_read(data: bytes) -> Pixels:
    """An image file as decoded by DALLE-pytorch's loader and most others."""
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def test_every_reader_sees_the_hashed_pixels_in_a_png(world: Any, row: dict[str, Any]) -> None:
    data = in_shards(world, row, "png")
    assert hash_pixels(as_trainers_read(data)) == row["pixel_sha256"]
    assert hash_pixels(decode_image(data).pixels_HWC) == row["pixel_sha256"]


def test_a_jpeg_shows_the_same_pixels_except_for_its_loss(
    world: Any, row: dict[str, Any], data: bytes
) -> None:
    pixels = decode_image(data).pixels_HWC.astype(int)
    found = as_trainers_read(in_shards(world, row, "jpg:95")).astype(int)
    assert found.shape == pixels.shape
    # A wrong rotation, background or depth differs by at least 34.
    assert np.abs(found - pixels).mean() < 11


def test_original_images_are_the_fetched_bytes(
    world: Any, row: dict[str, Any], data: bytes
) -> None:
    assert in_shards(world, row, "original") == data


def test_a_plain_png_is_copied_as_it_is(world: Any) -> None:
    run(ShardConfig(workspace=world.root, text_seq_len=24, images="png"))
    reader = ShardReader(world.workspace.shards("default"), "train")
    sample = reader.sample(0)
    row = next(row for row in world.rows if row["key"] == sample.key)
    segment = (world.workspace.segments / "00000.tar").read_bytes()
    assert sample.image == segment[row["offset"] : row["offset"] + row["bytes"]]


@pytest.mark.parametrize("images", ["original", "png", "jpg:90"])
def test_swapped_images_are_never_written(world: Any, images: str) -> None:
    first, second = (row for row in world.rows[1:3])
    for name in ("offset", "bytes"):
        first[name], second[name] = second[name], first[name]
    world.save()
    with pytest.raises(DamageError, match="does not match the tables"):
        run(ShardConfig(workspace=world.root, text_seq_len=24, images=images))

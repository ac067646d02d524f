"""Codecs are given the pixels that `pixel_sha256` was computed from."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from pipeline.core.image_decode import hash_pixels
from pipeline.core.kept_images import read_kept
from pipeline.core.workspace import Workspace
from pipeline.encode.batches import Task, decode_batches
from pipeline.train_codec.images import choose_images, load_images
from tests.helpers.dedupe import Pixels, RawStore, dedupe, encode, kept, photo

SIDE = 64


def turned() -> bytes:
    """A PNG whose EXIF orientation is sideways."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return encode(photo(1), exif=exif)


def see_through() -> bytes:
    """A PNG whose transparent pixels have different colours."""
    alpha = photo(3)[..., :1]
    return encode(np.concatenate([photo(2), alpha], axis=2))


def deep() -> bytes:
    """A PNG with 16 bits per sample."""
    grey = np.arange(SIDE * SIDE, dtype=np.uint16).reshape(SIDE, SIDE) * 16 + 7
    return encode(Image.fromarray(grey))


def fed_to_encode(workspace: Workspace) -> Pixels:
    tasks = [Task(image=image, views=("center",)) for image in read_kept(workspace).values()]
    with ThreadPoolExecutor(1) as threads:
        (batch,) = decode_batches(
            workspace.segments, tasks, side=SIDE, batch_size=8, threads=threads
        )
    return batch.pixels_BHWC


def fed_to_train_codec(workspace: Workspace) -> Pixels:
    return load_images(
        workspace.segments, choose_images(workspace, "train", 8), side=SIDE
    ).pixels_MHWC


@pytest.mark.parametrize("fed", [fed_to_encode, fed_to_train_codec])
@pytest.mark.parametrize("image", [turned, see_through, deep])
def test_codecs_see_the_pixels_that_were_hashed(
    raw: RawStore, image: Callable[[], bytes], fed: Callable[[Workspace], Pixels]
) -> None:
    raw.add("odd", image())
    workspace = raw.write()
    dedupe(workspace, val_fraction=0.0)
    (pixels_HWC,) = fed(workspace)
    assert pixels_HWC.shape == (SIDE, SIDE, 3)
    assert hash_pixels(pixels_HWC) == kept(workspace)["odd"]["pixel_sha256"]

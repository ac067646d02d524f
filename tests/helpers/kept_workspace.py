"""Fixtures of more than one area: a small workspace as scraping and dedupe would leave it."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageDraw

from pipeline.core.contracts import KEPT
from pipeline.core.image_decode import decode_image, hash_pixels
from pipeline.core.storage import (
    arrow_schema,
    file_entry,
    make_manifest,
    sha256_bytes,
    write_manifest,
)
from pipeline.core.workspace import Workspace

COLOURS = ("red", "green", "blue", "yellow", "black", "purple", "orange")
MakeWorkspace = Callable[..., Workspace]


def make_png(number: int) -> bytes:
    """A coloured disc on a light ground, 64 × 48 pixels; each number gives another image."""
    image = Image.new("RGB", (64, 48), (240 - number % 30, 240, 235))
    x, y = 20 + number % 9, 14 + number % 5
    ImageDraw.Draw(image).ellipse((x, y, x + 24, y + 22), fill=COLOURS[number % len(COLOURS)])
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def make_workspace(tmp_path: Path) -> MakeWorkspace:
    """Make or remake a workspace with images 0..count-1, every fifth in `val`; `broken` are no images."""

    def make(count: int = 20, *, name: str = "data", broken: tuple[int, ...] = ()) -> Workspace:
        return write_workspace(tmp_path / name, count, broken=broken)

    return make


def write_workspace(root: Path, count: int = 20, *, broken: tuple[int, ...] = ()) -> Workspace:
    """What the fixture `make_workspace` makes, in the folder `root`."""
    workspace = Workspace(root).open(source="dalleblog")
    workspace.segments.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    with (workspace.segments / "00000.tar").open("wb") as segment:
        for number in range(count):
            data = b"not an image" if number in broken else make_png(number)
            rows.append(_kept_row(number, segment.tell(), data))
            segment.write(data)
    path = workspace.dedupe / "kept" / "00000.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=arrow_schema(KEPT)), path)
    manifest = make_manifest(
        "dedupe",
        config={},
        inputs={},
        counts={"rows": count, "kept": count, "rejected": 0, "failed": 0},
        files=(file_entry(path, workspace.dedupe, rows=count),),
    )
    write_manifest(workspace.dedupe, manifest)
    return workspace


def _kept_row(number: int, offset: int, data: bytes) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(column.name for column in KEPT)
    return row | {
        "key": f"key_{number:05d}",
        "segment": "00000.tar",
        "offset": offset,
        "bytes": len(data),
        "bytes_sha256": sha256_bytes(data),
        "pixel_sha256": hash_pixels(decode_image(make_png(number)).pixels_HWC),
        "split": "val" if number % 5 == 4 else "train",
    }

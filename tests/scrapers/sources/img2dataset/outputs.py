"""Folders as img2dataset 1.47 writes them: the same names, columns and types, in its three formats."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from pipeline.core.storage import sha256_bytes
from tests.helpers.kept_workspace import make_png

Format = Literal["files", "webdataset", "parquet"]


@dataclass(frozen=True)
class Tried:
    """A URL that img2dataset has tried: the number of its image, or the message with which it failed."""

    url: str
    number: int | None = None
    error: str | None = None
    caption: str | None = None


def make_jpeg(number: int) -> bytes:
    """The image as img2dataset would have stored it: encoded again."""
    data = io.BytesIO()
    Image.open(io.BytesIO(make_png(number))).resize((40, 40)).save(data, "JPEG", quality=95)
    return data.getvalue()


def write_output(
    folder: Path, tried: Sequence[Tried], form: Format, *, per_shard: int = 5, finished: bool = True
) -> Path:
    """Write an output folder; without `finished` its last shard has no `_stats.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    starts = range(0, len(tried), per_shard)
    for shard, start in enumerate(starts):
        _write_shard(folder / f"{shard:05d}", tried[start : start + per_shard], form)
        if finished or start != starts[-1]:
            stats = {"count": per_shard, "start_time": 1796009825.9}
            (folder / f"{shard:05d}_stats.json").write_text(json.dumps(stats, indent=4))
    return folder


def _write_shard(place: Path, tried: Sequence[Tried], form: Format) -> None:
    rows = [_row(f"{place.name}{n:04d}", each) for n, each in enumerate(tried)]
    images = {
        row["key"]: make_jpeg(each.number)
        for row, each in zip(rows, tried, strict=True)
        if each.number is not None
    }
    if form == "webdataset":
        _write_tar(place.with_suffix(".tar"), rows, images)
    elif form == "files":
        place.mkdir()
        for row in rows:
            if row["key"] in images:
                for name, data in _members(row, images[row["key"]]):
                    (place / name).write_bytes(data)
    fields = list(_SCHEMA)
    if form == "parquet":
        rows = [row | {"jpg": images.get(row["key"])} for row in rows]
        fields.append(pa.field("jpg", pa.binary()))
    table = pa.Table.from_pylist(rows, schema=pa.schema(fields))
    pq.write_table(table, place.with_suffix(".parquet"))


_NUMBERS = ("width", "height", "original_width", "original_height")
_SCHEMA = pa.schema(
    [
        pa.field("id", pa.int64()),
        *(pa.field(n, pa.string()) for n in ("caption", "url", "key", "status", "error_message")),
        *(pa.field(n, pa.int32()) for n in _NUMBERS),
        pa.field("exif", pa.string()),
        pa.field("sha256", pa.string()),
    ]
)


def _row(key: str, tried: Tried) -> dict[str, Any]:
    caption = f"a disc of kind {tried.number}" if tried.caption is None else tried.caption
    row: dict[str, Any] = {"id": int(key), "caption": caption, "url": tried.url, "key": key}
    if tried.number is None:
        status = (
            "failed_to_resize" if tried.error == "Image decoding error" else "failed_to_download"
        )
        return row | {"status": status, "error_message": tried.error}
    sizes = dict(zip(_NUMBERS, (40, 40, 64, 48), strict=True))
    downloaded = sha256_bytes(make_png(tried.number))
    return row | {"status": "success", **sizes, "exif": "{}", "sha256": downloaded}


def _write_tar(path: Path, rows: Sequence[dict[str, Any]], images: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as tar:
        for row in rows:
            for name, data in _members(row, images[row["key"]]) if row["key"] in images else ():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


def _members(row: dict[str, Any], image: bytes) -> list[tuple[str, bytes]]:
    key = row["key"]
    return [
        (f"{key}.jpg", image),
        (f"{key}.json", json.dumps(row, indent=4).encode()),
        (f"{key}.txt", row["caption"].encode()),
    ]

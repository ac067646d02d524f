"""A small workspace as dedupe, encode and train-tokenizer would leave it, made by the contracts."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import io
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.core.contracts import CAPTIONS, CODES, KEPT
from pipeline.core.image_decode import decode_image, hash_pixels
from pipeline.core.storage import (
    arrow_schema,
    file_entry,
    make_manifest,
    sha256_bytes,
    write_bytes,
    write_manifest,
)
from pipeline.core.workspace import Workspace
from pipeline.models.tokenizers.load import TOKENIZER_FILE, train_bpe

COLOURS = ("red", "green", "blue", "yellow", "black", "white")
THINGS = ("cube", "teapot", "armchair", "clock")
GRID = (4, 4)
NUM_TOKENS = 512


def make_png(seed: int) -> bytes:
    colour = tuple(hashlib.sha256(str(seed).encode()).digest()[:3])
    file = io.BytesIO()
    Image.new("RGB", (16, 16), colour).save(file, "PNG")
    return file.getvalue()


def make_row(number: int, offset: int, png: bytes) -> dict[str, Any]:
    caption = f"a {COLOURS[number % 6]} {THINGS[number % 4]} on a table, picture {number // 4}"
    caption_id = sha256_bytes(caption.encode())[:16]
    row: dict[str, Any] = dict.fromkeys(column.name for column in KEPT)
    return row | {
        "key": f"key_{number:05d}",
        "url": f"http://localhost/dall-e/v2/samples/solid_colors/{number}.png",
        "source": "dalleblog",
        "section": "solid_colors",
        "caption_id": caption_id,
        "caption": caption,
        "caption_normalized": caption,
        "rank": number % 4,
        "segment": "00000.tar",
        "offset": offset,
        "bytes": len(png),
        "bytes_sha256": sha256_bytes(png),
        "pixel_sha256": hash_pixels(decode_image(png).pixels_HWC),
        "format": "png",
        "width": 16,
        "height": 16,
        "masked_rows": 0,
        "split": "val" if number % 8 == 0 else "train",
    }


def codes_of(pixel_sha256: str, view: str = "center") -> list[int]:
    seed = int(pixel_sha256[:8], 16) + (0 if view == "center" else sum(view.encode()))
    rng = np.random.default_rng(seed)
    return [int(code) for code in rng.integers(0, NUM_TOKENS, GRID[0] * GRID[1])]


@dataclass
class World:
    """The inputs of `shard`, to be changed between runs; `save` writes what differs."""

    root: Path
    rows: list[dict[str, Any]] = field(default_factory=list)
    without_codes: set[str] = field(default_factory=set)
    views: tuple[str, ...] = ("center",)
    without_view: dict[str, str] = field(default_factory=dict)

    @property
    def workspace(self) -> Workspace:
        return Workspace(self.root)

    def copy(self, root: Path) -> World:
        """The same world, with all that is in its folder, at another place."""
        shutil.copytree(self.root, root)
        return dataclasses.replace(self, root=root, rows=[dict(row) for row in self.rows])

    def add(self, numbers: Sequence[int]) -> None:
        segment = self.workspace.segments / "00000.tar"
        segment.parent.mkdir(parents=True, exist_ok=True)
        with segment.open("ab") as file:
            for number in numbers:
                png = make_png(number)
                self.rows.append(make_row(number, file.tell(), png))
                file.write(png)

    def save(self) -> None:
        self.rows.sort(key=lambda row: row["key"])
        self._save_dedupe()
        self._save_codes()

    def _save_dedupe(self) -> None:
        folder = self.workspace.dedupe
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        half = len(self.rows) // 2
        for name, rows in (
            ("kept/00000.parquet", self.rows[:half]),
            ("kept/00001.parquet", self.rows[half:]),
        ):
            self._write(folder / name, rows, KEPT)
        captions = {row["caption"]: row for row in self.rows}
        self._write(
            folder / "captions.parquet",
            [{c.name: row.get(c.name) for c in CAPTIONS} for row in captions.values()],
            CAPTIONS,
        )
        files = [file_entry(p, folder) for p in sorted(folder.rglob("*.parquet"))]
        self._declare("dedupe", folder, files)

    def _save_codes(self) -> None:
        folder = self.workspace.codes("tiny", "f" * 64)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        hashes = {row["pixel_sha256"] for row in self.rows if row["key"] not in self.without_codes}
        rows = [
            {"pixel_sha256": h, "view": view, "codes": codes_of(h, view)}
            for h in sorted(hashes)
            for view in sorted(self.views)
            if self.without_view.get(h) != view
        ]
        self._write(folder / "00000.parquet", rows, CODES)
        facts = {
            "name": "tiny",
            "fingerprint": "f" * 64,
            "num_tokens": NUM_TOKENS,
            "image_size": 16,
            "grid": list(GRID),
        }
        self._declare("codes", folder, [file_entry(folder / "00000.parquet", folder)], codec=facts)

    def save_tokenizer(self) -> None:
        folder = self.workspace.tokenizer("bpe")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        tokenizer = train_bpe([row["caption"] for row in self.rows], 300)
        write_bytes(folder / TOKENIZER_FILE, tokenizer.json_bytes)
        self._declare("tokenizer", folder, [file_entry(folder / TOKENIZER_FILE, folder)])

    @staticmethod
    def _write(path: Path, rows: list[dict[str, Any]], columns: Any) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows, schema=arrow_schema(columns)), path)

    @staticmethod
    def _declare(contract: str, folder: Path, files: list[Any], **details: Any) -> None:
        manifest = make_manifest(
            contract, config={}, inputs={}, counts={}, files=tuple(files), details=details
        )
        write_manifest(folder, dataclasses.replace(manifest))

    def shard_bytes(self, name: str = "default") -> dict[str, bytes]:
        folder = self.workspace.shards(name)
        return {
            p.relative_to(folder).as_posix(): p.read_bytes()
            for p in sorted(folder.rglob("*"))
            if p.is_file()
        }


@functools.cache
def _world(root: Path, images: int) -> World:
    world = World(root / f"world-{images}")
    world.add(range(images))
    world.save()
    world.save_tokenizer()
    return world


@pytest.fixture
def make_world(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., World]:
    """Copy a world that is made once for each number of images."""

    def make(name: str = "data", images: int = 60) -> World:
        return _world(tmp_path_factory.getbasetemp(), images).copy(tmp_path / name)

    return make


@pytest.fixture
def world(make_world: Callable[..., World]) -> World:
    return make_world()

"""A raw store made by hand, by the contract: a ledger with a view `items`, and segments."""

from __future__ import annotations

import hashlib
import io
import sqlite3
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.core.contracts import LEDGER_ITEMS, StageReport
from pipeline.core.storage import make_manifest, write_manifest
from pipeline.core.workspace import Workspace
from pipeline.dedupe import inspecting
from pipeline.dedupe.config import DedupeConfig
from pipeline.dedupe.run import run
from tests.dedupe.fragile import inspect_fragile

if TYPE_CHECKING:
    from tests.dedupe.planting import Crawl

Pixels = npt.NDArray[np.uint8]


@dataclass
class RawStore:
    """Rows of a ledger and the segment that holds their bytes; `write` puts them on disk."""

    root: Path
    rows: list[dict[str, Any]] = field(default_factory=list)
    files: list[tuple[str, bytes]] = field(default_factory=list)

    def add(
        self, key: str, data: bytes | None, caption: str | None = "a cat", **columns: Any
    ) -> None:
        """Add a row: with its bytes if it is done, otherwise without."""
        row: dict[str, Any] = dict.fromkeys(column.name for column in LEDGER_ITEMS)
        row |= {"key": key, "url": f"http://blog.test/{key}", "source": "dalleblog"}
        row |= {"section": "emojis", "caption": caption, "rank": 0, "masked": 0, "attempts": 1}
        if data is None:
            row |= {"state": "missing", "status_code": 404}
        else:
            row |= {"state": "done", "status_code": 200, "bytes": len(data)}
            row |= {"sha256": hashlib.sha256(data).hexdigest(), "segment": "00000.tar"}
            self.files.append((key, data))
        self.rows.append(row | columns)

    def write(self, *, finished: bool = False) -> Workspace:
        """Write the raw store as the scraper would; `finished` also writes its manifest."""
        workspace = Workspace(self.root)
        if not workspace.marker.exists():
            workspace.open(source="dalleblog")
        workspace.segments.mkdir(parents=True, exist_ok=True)
        offsets = write_segment(workspace.segments / "00000.tar", self.files)
        rows = [
            row | ({"offset": offsets[row["key"]]} if row["key"] in offsets else {})
            for row in self.rows
        ]
        write_ledger(workspace.ledger, rows)
        if finished:
            content = hashlib.sha256(repr(sorted(r["key"] for r in self.rows)).encode()).hexdigest()
            manifest = make_manifest(
                "raw", config={}, inputs={}, counts={}, files=(), details={"content": content}
            )
            write_manifest(workspace.raw, manifest)
        return workspace


def write_segment(path: Path, files: Iterable[tuple[str, bytes]]) -> dict[str, int]:
    """Write a tar and return where the bytes of each member start."""
    with tarfile.open(path, "w") as tar:
        for key, data in files:
            info = tarfile.TarInfo(f"{key}.png")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    with tarfile.open(path) as tar:
        return {m.name.removesuffix(".png"): m.offset_data for m in tar}


def write_ledger(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write a ledger with a view `items`."""
    path.unlink(missing_ok=True)
    names = [column.name for column in LEDGER_ITEMS]
    with sqlite3.connect(path) as connection:
        connection.execute(f"CREATE TABLE urls ({', '.join(names)})")
        connection.execute("CREATE VIEW items AS SELECT * FROM urls")
        marks = ", ".join("?" * len(names))
        connection.executemany(
            f"INSERT INTO urls VALUES ({marks})", [tuple(row[n] for n in names) for row in rows]
        )
    connection.close()


def photo(seed: int, height: int = 64, width: int = 64) -> Pixels:
    """A smooth image, different for each seed, [height, width, 3]."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
    return np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))


def encode(pixels: Pixels | Image.Image, file_format: str = "PNG", **options: Any) -> bytes:
    """The bytes of an image file with these `pixels`."""
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def photo_png(seed: int) -> bytes:
    """A PNG of `photo(seed)`."""
    return encode(photo(seed))


def dedupe(workspace: Workspace, **options: Any) -> StageReport:
    """Run the stage, by default in this process."""
    return run(DedupeConfig(workspace=workspace.root, **({"workers": 0} | options)))


def read_rows(folder: Path) -> dict[str, dict[str, Any]]:
    """The rows of a table of images, by key."""
    return {row["key"]: row for row in pq.read_table(folder).to_pylist()}


def kept(workspace: Workspace) -> dict[str, dict[str, Any]]:
    """The kept rows by key."""
    return read_rows(workspace.dedupe / "kept")


def rejected(workspace: Workspace) -> dict[str, dict[str, Any]]:
    """The rejected rows by key."""
    return read_rows(workspace.dedupe / "rejected")


@pytest.fixture
def raw(tmp_path: Path) -> RawStore:
    """An empty raw store."""
    return RawStore(tmp_path / "data")


@pytest.fixture(scope="session")
def planted_crawl(tmp_path_factory: pytest.TempPathFactory) -> Crawl:
    """A crawl of the mock server with a defect of each kind."""
    from tests.dedupe.planting import crawl_planted

    return crawl_planted(tmp_path_factory.mktemp("crawl"))


@pytest.fixture
def crawl(planted_crawl: Crawl, monkeypatch: pytest.MonkeyPatch) -> Crawl:
    """Dedupe the crawl with `workers` and a decoder that one of its files kills."""
    monkeypatch.setattr(inspecting, "inspect_part", inspect_fragile)
    return planted_crawl

"""The whole stage on rows that are made up: memory must not grow with them.

    python bench/dedupe_stage.py [10000 100000 1000000]

The ledger and the inspections of an earlier run are written first, so that no image is decoded
(dedupe_images.py measures that); everything after it runs as always: the join, exact and near
duplicates, splits, all tables. Of the images 1 in 50 is a copy, 1 in 10 is near another.
"""

from __future__ import annotations

import hashlib
import sqlite3
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from meter import Meter

sys.path.insert(0, str(Path(__file__).parents[1]))

from pipeline.contracts import LEDGER_ITEMS
from pipeline.dedupe.config import DedupeConfig
from pipeline.dedupe.inspection import Inspection
from pipeline.dedupe.run import run
from pipeline.dedupe.tables import write_inspections
from pipeline.engine import map_parts
from pipeline.storage import Workspace

RANKS = 32


def make_workspace(part: tuple[Path, int]) -> None:
    """A ledger of so many rows and the inspections of its images."""
    root, count = part
    workspace = Workspace(root)
    workspace.open(source="dalleblog")
    workspace.raw.mkdir(parents=True, exist_ok=True)
    workspace.dedupe.mkdir(parents=True, exist_ok=True)
    names = [column.name for column in LEDGER_ITEMS]
    with sqlite3.connect(workspace.ledger) as ledger:
        ledger.execute(f"CREATE TABLE urls ({', '.join(names)})")
        ledger.execute("CREATE VIEW items AS SELECT * FROM urls")
        marks = ", ".join(f":{name}" for name in names)
        ledger.executemany(f"INSERT INTO urls VALUES ({marks})", _rows(names, count))
    ledger.close()
    write_inspections(workspace.dedupe / "inspections.parquet", _inspections(count))


def _digest(of: str, number: int) -> str:
    return hashlib.sha256(f"{of} {number}".encode()).hexdigest()


def _rows(names: list[str], count: int) -> Iterator[dict[str, Any]]:
    blank = dict.fromkeys(names)
    for n in range(count):
        caption = f"a picture of thing number {n // RANKS} beside thing number {n // RANKS % 977}"
        yield blank | {
            "key": _digest("key", n)[:24],
            "url": f"https://images.example.org/blog/dall-e/examples/{n // RANKS}/{n % RANKS}.png",
            "source": "dalleblog",
            "section": f"section_{n // RANKS % 60}",
            "caption": caption,
            "rank": n % RANKS,
            "masked": 0,
            "state": "done",
            "segment": f"{n // 6000:05d}.tar",
            "offset": n % 6000 * 150_000,
            "bytes": 149_000,
            "sha256": _digest("file", n),
        }


def _inspections(count: int) -> Iterator[Inspection]:
    """Sorted by hash, as the stage leaves them."""
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**64, count, dtype=np.uint64)
    near = rng.choice(count, count // 10, replace=False)
    hashes[near] = hashes[(near + 1) % count] ^ np.uint64(0b1011)
    raster = np.arange(count)
    copies = rng.choice(count, count // 50, replace=False)
    raster[copies] = (copies + 1) % count
    order = sorted(range(count), key=lambda n: _digest("file", n))
    for n in order:
        yield Inspection(
            _digest("file", n), "ok", None, "png", 256, 256, "RGB", False,
            _digest("raster", int(raster[n])), int(hashes[n]), 10.0, 20.0, 30.0, False, None,
        )  # fmt: skip


def main() -> None:
    for count in map(int, sys.argv[1:] or ("10000", "100000", "1000000")):
        with tempfile.TemporaryDirectory() as name:
            # In a process of its own, which takes its memory along.
            assert list(map_parts(make_workspace, [(Path(name), count)], workers=1))
            with Meter() as meter:
                report = run(DedupeConfig(workspace=Path(name)))
            shown = {n: report.counts[n] for n in ("rows", "kept", "rejected")}
            print(f"{count:>9,} rows  {meter.wall_s:7.1f} s  {meter.cpu_s:7.1f} cpu s  "
                  f"{meter.peak_mb:5.0f} MB  {shown}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()

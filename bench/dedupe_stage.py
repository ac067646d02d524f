"""The whole stage on rows that are made up, and on images: memory must not grow with them.

    python bench/dedupe_stage.py [rows] [images] [--rows 10000 100000 1000000] [--images 2000 20000]

**rows**: the ledger and the inspections of an earlier run are written first, so that no image is decoded
(dedupe_images.py measures that); everything after it runs as always: the join, exact and near
duplicates, splits, all tables. Of the images 1 in 50 is a copy, 1 in 10 is near another. **images**: small
PNGs in a segment, nothing at hand. Memory is the sum over all processes of what only they hold and of
their share of what several do (Pss).
"""

from __future__ import annotations

import argparse
import hashlib
import io
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from meter import Meter
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))

from pipeline.core.contracts import LEDGER_ITEMS
from pipeline.core.engine import map_parts
from pipeline.core.workspace import Workspace
from pipeline.dedupe.config import DedupeConfig
from pipeline.dedupe.inspection import Inspection
from pipeline.dedupe.run import run
from pipeline.dedupe.tables import write_inspections

RANKS = 32
SIDE = 96


def make_rows(part: tuple[Path, int]) -> None:
    """A ledger of so many rows and the inspections of its images."""
    workspace = _begin(part[0])
    _write_ledger(workspace, (_row(n, _digest("file", n)) for n in range(part[1])))
    write_inspections(workspace.dedupe / "inspections.parquet", _inspections(part[1]))


def make_images(part: tuple[Path, int]) -> None:
    """A segment of so many small PNGs, all different, and the ledger of it."""
    workspace = _begin(part[0])
    workspace.segments.mkdir()
    rng = np.random.default_rng(0)
    rows, offset = [], 0
    with (workspace.segments / "00000.tar").open("wb") as segment:
        for n in range(part[1]):
            data = _small_png(rng)
            segment.write(data)
            place = {"segment": "00000.tar", "offset": offset, "bytes": len(data)}
            rows.append(_row(n, hashlib.sha256(data).hexdigest()) | place)
            offset += len(data)
    _write_ledger(workspace, rows)


def _small_png(rng: np.random.Generator) -> bytes:
    few = Image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8))
    buffer = io.BytesIO()
    few.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _begin(root: Path) -> Workspace:
    workspace = Workspace(root).open(source="dalleblog")
    workspace.raw.mkdir()
    workspace.dedupe.mkdir()
    return workspace


def _write_ledger(workspace: Workspace, rows: Iterable[dict[str, Any]]) -> None:
    names = [column.name for column in LEDGER_ITEMS]
    with sqlite3.connect(workspace.ledger) as ledger:
        ledger.execute(f"CREATE TABLE urls ({', '.join(names)})")
        ledger.execute("CREATE VIEW items AS SELECT * FROM urls")
        marks = ", ".join(f":{name}" for name in names)
        ledger.executemany(f"INSERT INTO urls VALUES ({marks})", rows)
    ledger.close()


def _digest(of: str, number: int) -> str:
    return hashlib.sha256(f"{of} {number}".encode()).hexdigest()


def _row(n: int, sha256: str) -> dict[str, Any]:
    caption = f"a picture of thing number {n // RANKS} beside thing number {n // RANKS % 977}"
    return dict.fromkeys(column.name for column in LEDGER_ITEMS) | {
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
        "sha256": sha256,
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
            _digest("raster", int(raster[n])), int(hashes[n]), 10.0, 20.0, 30.0, False, False, None,
        )  # fmt: skip


MAKERS: dict[str, Callable[[tuple[Path, int]], None]] = {"rows": make_rows, "images": make_images}


def bench(what: str, count: int) -> None:
    """Run the stage once, in this process and those it starts."""
    with tempfile.TemporaryDirectory() as name:
        # In a process of its own, which takes its memory along.
        assert list(map_parts(MAKERS[what], [(Path(name), count)], workers=1))
        with Meter() as meter:
            report = run(DedupeConfig(workspace=Path(name)))
    shown = {n: report.counts[n] for n in ("rows", "kept", "rejected")}
    print(f"{count:>9,} {what:6}  {meter.wall_s:7.1f} s  {meter.cpu_s:7.1f} cpu s  "
          f"{meter.peak_mb:5.0f} MB  {shown}", flush=True)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the whole stage.")
    parser.add_argument("pieces", nargs="*", choices=[*MAKERS, []], help=" ".join(MAKERS))
    parser.add_argument("--rows", type=int, nargs="+", default=(10_000, 100_000, 1_000_000))
    parser.add_argument("--images", type=int, nargs="+", default=(2_000, 20_000, 80_000))
    parser.add_argument("--here", action="store_true", help="don't start a process for each run")
    arguments = parser.parse_args()
    for what in arguments.pieces or MAKERS:
        for count in getattr(arguments, what):
            if arguments.here:
                bench(what, count)
            else:  # what one run leaves in memory must not count for the next
                command = [sys.executable, __file__, what, f"--{what}", str(count), "--here"]
                subprocess.run(command, check=True)


if __name__ == "__main__":
    main()

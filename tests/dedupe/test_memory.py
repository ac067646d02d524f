"""Ten times the rows take little more memory: columns of all rows are on disk."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pipeline.core.contracts import LEDGER_ITEMS
from pipeline.core.workspace import Workspace
from pipeline.dedupe.inspection import Inspection
from pipeline.dedupe.tables import write_inspections
from tests.helpers.dedupe import write_ledger

FEW, MANY = 10_000, 100_000
MOST_BYTES_EACH = 500
PEAK = """
import sys
from pathlib import Path
from pipeline.dedupe.config import DedupeConfig
from pipeline.dedupe.run import run
report = run(DedupeConfig(workspace=Path(sys.argv[1]), workers=0))
status = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
print(report.counts["kept"], int(status["VmHWM"].split()[0]) * 1024)
"""


def digest(number: int) -> str:
    return hashlib.sha256(b"%d" % number).hexdigest()


def ledger_row(number: int) -> dict[str, object]:
    row: dict[str, object] = dict.fromkeys(column.name for column in LEDGER_ITEMS)
    return row | {
        "key": f"{digest(-number)[:20]}-{number % 32:02}",
        "url": f"http://blog.test/a/rather/long/address/of/an/image/{number}.png",
        "source": "dalleblog",
        "section": f"section {number // 32 % 9}",
        "caption": f"a picture of thing {number // 32} beside another thing",
        "rank": number % 32,
        "masked": 0,
        "state": "done",
        "segment": "00000.tar",
        "offset": number,
        "bytes": 1,
        "sha256": digest(number),
    }


def inspections(count: int) -> Iterator[Inspection]:
    hashes = np.random.default_rng(0).integers(0, 2**64, count, dtype=np.uint64).tolist()
    for sha256, phash in sorted((digest(number), hashes[number]) for number in range(count)):
        yield Inspection(
            sha256, "ok", None, "png", 64, 64, "RGB", False, sha256, phash, 1.0, 2.0, 3.0, False
        )


def peak_bytes(root: Path, count: int) -> int:
    """The peak memory of the stage for a number of rows whose images were inspected before."""
    workspace = Workspace(root).open(source="dalleblog")
    workspace.raw.mkdir()
    write_ledger(workspace.ledger, [ledger_row(number) for number in range(count)])
    write_inspections(workspace.dedupe / "inspections.parquet", inspections(count))
    command = [sys.executable, "-c", PEAK, str(root)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    kept, peak = map(int, done.stdout.split())
    assert kept == count
    return peak


@pytest.mark.slow
def test_ten_times_the_rows_take_little_more_memory(tmp_path: Path) -> None:
    few, many = (peak_bytes(tmp_path / str(count), count) for count in (FEW, MANY))
    assert many - few < MOST_BYTES_EACH * (MANY - FEW)

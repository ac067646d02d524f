"""8,000 real PNGs with dirty titles, alpha and duplicates: Debian's openclipart-png, if it is there."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.scrapers.local.folders import rows
from tests.scrapers.local.stages import Stages

FOLDER = Path(os.environ.get("OPENCLIPART_PNG", "/usr/share/openclipart/png"))


@pytest.mark.slow
@pytest.mark.timeout(1800)  # thousands of images are decoded in one process
@pytest.mark.skipif(not FOLDER.is_dir(), reason="openclipart-png is not installed")
def test_real_png_titles_go_through_all_stages(tmp_path: Path) -> None:
    stages = Stages(tmp_path / "w")
    result = stages.call("scrape", "folder", str(FOLDER), "--captions-from", "png-title")
    assert result.exit_code == 0, result.output
    found = rows(stages.root)
    assert len(found) > 6000
    assert {row.state for row in found.values()} == {"done"}
    assert all(row.caption == row.caption.strip() != "" for row in found.values())
    for stage in ("dedupe", "train-tokenizer", "train-codec", "encode", "shard", "train", "report"):
        result = stages.call(stage)
        assert result.exit_code == 0, result.output
    kept = sum(
        pq.read_metadata(path).num_rows for path in stages.root.glob("dedupe/kept/*.parquet")
    )
    rejected = sum(
        pq.read_metadata(path).num_rows for path in stages.root.glob("dedupe/rejected/*.parquet")
    )
    ledger = pq.read_table(stages.root / "dedupe" / "rejected", columns=["reason"])
    assert {"duplicate_bytes"} <= set(ledger["reason"].to_pylist())
    assert kept > 5000
    assert kept + rejected > 8000
    assert len([name for name in stages.members() if name.endswith(".png")]) == kept

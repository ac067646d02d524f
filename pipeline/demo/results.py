"""What the demos share: the captions that they generate for, and the numbers on the report's first lines."""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.core.contracts import MEASUREMENTS, Split, StageReport
from pipeline.core.kept_images import dedupe_tables, read_tables
from pipeline.core.storage import write_json
from pipeline.core.workspace import Workspace

Measured = tuple[str, str]  # a value and its label


def captions_of_split(workspace: Workspace, split: Split, section: str | None = None) -> list[str]:
    """The captions of a split (of a section) that have images, in an order determined by hash."""
    columns = ("caption_id", "caption", "split", "images", "sections")
    tables = dedupe_tables(workspace, "captions.parquet")
    used = [
        row
        for rows in read_tables(tables, columns, 4096)
        for row in rows.to_pylist()
        if row["split"] == split
        and row["images"]
        and (section is None or section in row["sections"])
    ]
    return [row["caption"] for row in sorted(used, key=lambda row: row["caption_id"])]


def save_measurements(
    workspace: Workspace,
    reports: Mapping[str, StageReport],
    numbers: Sequence[Measured],
    *,
    record_name: str,
) -> None:
    """Save this run's numbers for the report, with times and memory.

    Times of stages that did nothing are those of an earlier run, from the file `record_name`.
    """
    path = workspace.root / record_name
    record: dict[str, Any] = (
        json.loads(path.read_bytes()) if path.exists() else {"seconds": {}, "peak_bytes": 0}
    )
    times = record["seconds"]
    new = {
        name: report.seconds for name, report in reports.items() if report.outcome != "unchanged"
    }
    if new:
        times |= new
        record["peak_bytes"] = max(record["peak_bytes"], _peak_memory())
    write_json(path, record)
    tiles = [{"value": value, "label": label} for value, label in numbers]
    tiles.append({"value": f"{sum(times.values()):.0f} s", "label": "in the stages"})
    # In the order of the stages: the record's own is that of sorted JSON.
    tiles += [{"value": f"{times[name]:.0f} s", "label": name} for name in reports if name in times]
    tiles.append(
        {"value": f"{record['peak_bytes'] / 1e9:.1f} GB", "label": "peak memory of one process"}
    )
    write_json(workspace.root / MEASUREMENTS, tiles)


def _peak_memory() -> int:
    """The largest resident set of this process or any of its children, in bytes."""
    usage = (
        resource.getrusage(who).ru_maxrss
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    return max(usage) * (1024 if sys.platform == "linux" else 1)

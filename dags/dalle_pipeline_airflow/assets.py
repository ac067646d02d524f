"""The assets of the DAGs, for lineage and to trigger training: raw store, tables, codes, shards, runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow.sdk import Asset

RAW = Asset("dalleblog_raw")
TABLES = Asset("dalleblog_tables")
CODES = Asset("dalleblog_codes")
SHARDS = Asset("dalleblog_shards")
RUN = Asset("dalleblog_run")


def facts_of(report: Mapping[str, Any], workspace: str) -> dict[str, Any]:
    """The extra of an event: workspace, folders, and counts."""
    return {
        "workspace": workspace,
        "folders": list(report.get("outputs", ())),
        "outcome": report.get("outcome"),
        "counts": dict(report.get("counts", {})),
    }


def last_extra(events: Any, workspace: str) -> Mapping[str, Any]:
    """The extra of an asset's newest event for this workspace; empty without one."""
    for event in events.ascending(False):
        extra = event.extra or {}
        if extra.get("workspace") == workspace:
            return dict(extra)
    return {}

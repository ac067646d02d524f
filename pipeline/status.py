"""`pipeline status`: what stands in a workspace. Floor 5."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.config import StageConfig
from pipeline.contracts import StageReport
from pipeline.inventory import Folder, find_folders
from pipeline.road import Call
from pipeline.storage import Workspace


@dataclass(frozen=True, kw_only=True)
class StatusConfig(StageConfig):
    """Which workspace to show."""


def show_status(config: StatusConfig, call: Call) -> StageReport:
    """Print a line a folder: its state, its counts and its size."""
    folders = find_folders(Workspace(config.workspace).open().root)
    rows = [
        (folder.name, describe_state(folder), _counts(folder), _size(folder)) for folder in folders
    ]
    call.screen.table(str(config.workspace), ("folder", "state", "counts", "size"), rows)
    details = {
        folder.name: {
            "state": describe_state(folder),
            "counts": dict(folder.manifest.counts) if folder.manifest else {},
            "stale_inputs": list(folder.stale),
        }
        for folder in folders
    }
    return StageReport(
        stage="status", outcome="done", counts={"folders": len(folders)}, details=details
    )


def describe_state(folder: Folder) -> str:
    """unfinished, stale (and what changed) or fresh."""
    if folder.manifest is None:
        return "unfinished"
    if folder.stale:
        return f"stale: {', '.join(folder.stale)} changed"
    return "fresh"


def _counts(folder: Folder) -> str:
    if folder.manifest is None:
        return ""
    return ", ".join(f"{name} {number:,}" for name, number in folder.manifest.counts.items())


def _size(folder: Folder) -> str:
    if folder.manifest is None:
        return ""
    return f"{sum(entry.bytes for entry in folder.manifest.files) / 1e6:,.1f} MB"

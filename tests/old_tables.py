"""Tables of dedupe as version 1 wrote them: one caption per image and no `extra`."""

from __future__ import annotations

import dataclasses

import pyarrow.parquet as pq

from pipeline.core.contracts import FileEntry
from pipeline.core.storage import TABLE_OPTIONS, file_entry, read_manifest, write_manifest
from pipeline.core.workspace import Workspace

ADDED = ["captions", "extra"]


def make_old(workspace: Workspace) -> None:
    """Turn the finished tables of a workspace into those of version 1."""
    manifest = read_manifest(workspace.dedupe, "dedupe")
    files = tuple(_make_old(workspace, entry) for entry in manifest.files)
    write_manifest(workspace.dedupe, dataclasses.replace(manifest, version=1, files=files))


def _make_old(workspace: Workspace, entry: FileEntry) -> FileEntry:
    path = workspace.dedupe / entry.path
    if not entry.path.startswith(("kept/", "rejected/")):
        return entry
    pq.write_table(pq.read_table(path).drop_columns(ADDED), path, **TABLE_OPTIONS)
    return file_entry(path, workspace.dedupe, entry.rows)

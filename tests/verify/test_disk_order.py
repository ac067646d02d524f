"""What is set aside is there under its other name before anything is made in its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.core.inventory import find_folders
from pipeline.core.workspace import Workspace
from pipeline.verify.check import check_one
from pipeline.verify.work import FolderRepair, Repairs
from tests.helpers.disk_order import DiskOrder


def test_a_file_is_renamed_and_its_folder_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = Workspace(tmp_path / "data").open(source="dalleblog")
    path = workspace.dedupe / "captions.parquet"
    path.parent.mkdir()
    path.write_bytes(b"damaged")
    (folder,) = find_folders(workspace.root)
    checked = check_one(folder, workspace)
    work = FolderRepair(
        checked=checked, everything=[checked], root=workspace.root, repairs=Repairs(), stages={}
    )
    order = DiskOrder(monkeypatch)
    work.set_aside("captions.parquet", "its bytes changed")
    assert order.events == ["rename captions.parquet.damaged", "sync dedupe"]

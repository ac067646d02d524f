"""Workspaces whose images are in the user's files, merged into one."""

from __future__ import annotations

from pathlib import Path

from pipeline.core.workspace import Workspace
from pipeline.verify.check import check_workspace
from scrapers.merging.config import MergeConfig
from scrapers.merging.run import merge
from tests.scrapers.local.folders import rows, scrape_source, write_files


def test_merged_rows_point_to_the_same_files(tmp_path: Path) -> None:
    for name, numbers in (("a", (1, 2)), ("b", (3, 4)), ("c", (5,))):
        files: dict[str, bytes | str | int] = {f"{name}{n}.png": n for n in numbers}
        write_files(tmp_path / name, files | {f"{name}{n}.txt": f"caption {n}" for n in numbers})
    roots = [tmp_path / "w1", tmp_path / "w2"]
    for root, folders in zip(roots, (("a", "b"), ("b", "c")), strict=True):
        Workspace(root).open(source="folder")
        for folder in folders:
            scrape_source("folder", tmp_path / folder, workspace=root)
    merge(MergeConfig(workspace=tmp_path / "all", inputs=tuple(map(str, roots))))
    found = rows(tmp_path / "all")
    assert {name: row.segment for name, row in found.items()} == {
        f"{name}{n}.png": str(tmp_path / name / f"{name}{n}.png")
        for name, n in (("a", 1), ("a", 2), ("b", 3), ("b", 4), ("c", 5))
    }
    assert [checked.state for checked in check_workspace(tmp_path / "all")] == ["ok"]

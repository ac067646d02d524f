"""The folder of one dataset."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipeline.core.errors import WorkspaceError
from pipeline.core.workspace import Workspace


@pytest.mark.parametrize("source", [None, "dalleblog"])
def test_a_path_that_parquet_files_cannot_have_is_refused(
    tmp_path: Path, source: str | None
) -> None:
    root = tmp_path / os.fsdecode(b"\xff\xfe")
    with pytest.raises(WorkspaceError, match="not valid UTF-8"):
        Workspace(root).open(source)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "url", ["s3://bucket/x", "gs://bucket", "file:///tmp/x", "hf://datasets/a/b"]
)
def test_a_url_is_no_folder(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WorkspaceError, match=f"not a {url.partition(':')[0]} URL"):
        Workspace(Path(url)).open(source="folder")
    assert not list(tmp_path.iterdir())
    Workspace(Path("a:b/x")).open(source="folder")  # a folder like any other

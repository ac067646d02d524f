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

"""Training on shards in an object store: downloaded once, and recorded in the run."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.core.storage import (
    MANIFEST_NAME,
    file_entry,
    make_manifest,
    read_manifest,
    write_manifest,
)
from pipeline.core.workspace import Workspace
from pipeline.train.config import TrainConfig
from pipeline.train.run import run
from pipeline.webdata.remote import publish
from tests.helpers.object_store import bucket, s3_server  # noqa: F401

MakeConfig = Callable[..., TrainConfig]


def test_a_run_trains_on_an_address_as_on_a_folder(
    workspace: Workspace,
    make_config: MakeConfig,
    bucket: str,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    near = run(make_config(name="near", steps=2))
    folder = workspace.shards("default")
    files = [file_entry(p, folder) for p in folder.rglob("*") if p.is_file()]
    listed = tuple(entry for entry in files if entry.path != MANIFEST_NAME)
    write_manifest(folder, make_manifest("shards", config={}, inputs={}, counts={}, files=listed))
    publish(folder, bucket)
    shutil.rmtree(folder)
    far = run(make_config(name="far", steps=2, shards=bucket))
    assert far.details["loss"] == near.details["loss"]
    assert bucket in read_manifest(workspace.run("far"), "run").inputs
    assert run(make_config(name="far", steps=2, shards=bucket)).outcome == "unchanged"

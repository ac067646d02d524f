"""The states that the report shows: stale, fresh, unfinished, grown out of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.core.contracts import FileEntry
from pipeline.core.inventory import Folder, find_folders
from pipeline.core.storage import input_digest, make_manifest, write_manifest
from pipeline.core.workspace import Workspace
from pipeline.report.config import ReportConfig
from pipeline.report.numbers import state_rows
from pipeline.report.run import run, why_run


def folder(**changes: Any) -> Folder:
    entry = FileEntry(path="a", bytes=changes.pop("size", 0), sha256="0" * 64)
    manifest = make_manifest(
        "dedupe", config={}, inputs={}, counts={"rows": 1200, "failed": 0}, files=(entry,)
    )
    values = {"contract": "dedupe", "name": "dedupe", "path": Path("x"), "manifest": manifest}
    return Folder(**{**values, "problem": None, **changes})


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({}, "fresh"),
        ({"stale": ("raw",)}, "stale: raw changed"),
        ({"stale": ("raw", "codes/x")}, "stale: raw, codes/x changed"),
        ({"outgrown": ("dedupe",)}, "fresh; dedupe has grown since"),
    ],
)
def test_a_folder_is_shown_in_its_state(changes: dict[str, Any], state: str) -> None:
    assert list(state_rows([folder(**changes)])) == [("dedupe", state, "rows 1,200", "0.0 kB")]


def test_a_folder_without_a_manifest_is_unfinished() -> None:
    assert list(state_rows([folder(manifest=None)])) == [("dedupe", "unfinished", "", "")]


@pytest.mark.parametrize(
    ("size", "shown"), [(99_949, "99.9 kB"), (100_000, "0.1 MB"), (1_250_000, "1.2 MB")]
)
def test_sizes_have_the_unit_that_fits(size: int, shown: str) -> None:
    assert next(iter(state_rows([folder(size=size)])))[3] == shown


def declare(path: Path, contract: str, *, content: str, **inputs: str) -> None:
    path.mkdir(parents=True, exist_ok=True)
    details = {"content": content * 64}
    manifest = make_manifest(
        contract, config={}, inputs=inputs, counts={}, files=(), details=details
    )
    write_manifest(path, manifest)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """A raw store, dedupe made from it, and a tokenizer trained on that."""
    workspace = Workspace(tmp_path / "data").open(source="dalleblog")
    declare(workspace.raw, "raw", content="a")
    declare(workspace.dedupe, "dedupe", content="b", raw=input_digest(workspace.raw))
    trained_on = {"dedupe": input_digest(workspace.dedupe)}
    declare(workspace.tokenizer("bpe"), "tokenizer", content="c", **trained_on)
    return workspace


def states(workspace: Workspace) -> dict[str, str]:
    return {row[0]: row[1] for row in state_rows(find_folders(workspace.root))}


def test_data_that_changed_makes_tables_stale_and_only_outgrows_what_is_trained_once(
    workspace: Workspace,
) -> None:
    assert set(states(workspace).values()) == {"fresh"}
    declare(workspace.raw, "raw", content="d")
    assert states(workspace) == {
        "raw": "fresh",
        "dedupe": "stale: raw changed",
        "tokenizers/bpe": "fresh",
    }
    declare(workspace.dedupe, "dedupe", content="e", raw=input_digest(workspace.raw))
    assert states(workspace)["tokenizers/bpe"] == "fresh; dedupe has grown since"


def test_the_page_of_a_workspace_that_changed_is_made_again_and_says_what_is_stale(
    workspace: Workspace,
) -> None:
    config = ReportConfig(workspace=workspace.root)
    page = workspace.root / "report.html"
    run(config)
    assert (why_run(config, None), "stale" in page.read_text()) == (None, False)
    declare(workspace.raw, "raw", content="d")
    assert why_run(config, None) == "report.html is outdated"
    run(config)
    assert "stale: raw changed" in page.read_text()
    assert run(config).outcome == "unchanged"

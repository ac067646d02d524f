"""`pipeline verify` and `status`: what is as promised passes, every broken promise is named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.inventory import find_folders
from pipeline.storage import file_entry, input_digest, make_manifest, write_manifest
from pipeline.verify.folders import check_folder
from pipeline.workspace import Workspace
from scrapers.ledger import FormRow, Ledger, UrlRow
from scrapers.ledger_schema import STATE_NUMBER
from scrapers.summary import content_digest, counts_of

COUNTS = {"rows": 3, "kept": 2, "rejected": 1, "failed": 0}


def write_raw(workspace: Workspace, content: str) -> None:
    """A ledger of three URLs, whose caption is `content`, and the manifest of its crawl."""
    workspace.ledger.unlink(missing_ok=True)
    ledger = Ledger(workspace.ledger, "dalleblog")
    form = FormRow(1, "things-0", 1, "things", content, False, 3, "http://blog.test/", ".png")
    ledger.commit(
        forms=[form], rows=[url_row(0, "done"), url_row(1, "done"), url_row(2, "missing")]
    )
    counts = counts_of(ledger, 0)
    details = {"content": content_digest(ledger)}
    ledger.close()
    write_manifest(
        workspace.raw,
        make_manifest("raw", config={}, inputs={}, counts=counts, files=(), details=details),
    )


def url_row(rank: int, state: str) -> UrlRow:
    row: dict[str, Any] = dict.fromkeys(UrlRow._fields)
    row |= {"form": 1, "rank": rank, "state": STATE_NUMBER[state], "attempts": 1}
    return UrlRow(**(row | {"sha256": bytes(32), "version": 1, "time": 0}))


def write_dedupe(workspace: Workspace, counts: dict[str, int] | None = None) -> Path:
    folder = workspace.dedupe / "kept"
    folder.mkdir(parents=True, exist_ok=True)
    table = folder / "00000.parquet"
    pq.write_table(pa.table({"key": ["a", "b"]}), table)
    manifest = make_manifest(
        "dedupe",
        config={},
        inputs={"raw": input_digest(workspace.raw)},
        counts=counts or COUNTS,
        files=(file_entry(table, workspace.dedupe, rows=2),),
    )
    write_manifest(workspace.dedupe, manifest)
    return table


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    workspace = Workspace(tmp_path / "data").open(source="dalleblog")
    write_raw(workspace, "abc")
    write_dedupe(workspace)
    return workspace


def problems(workspace: Workspace) -> list[str]:
    return [text for folder in find_folders(workspace.root) for text in check_folder(folder)]


def test_a_whole_workspace_passes(workspace: Workspace) -> None:
    assert problems(workspace) == []
    result = CliRunner().invoke(app, ["verify", "--workspace", str(workspace.root), "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["counts"] == {"folders": 2, "files": 1}


def test_a_changed_byte_is_found(workspace: Workspace) -> None:
    table = workspace.dedupe / "kept" / "00000.parquet"
    data = bytearray(table.read_bytes())
    data[10] ^= 1
    table.write_bytes(data)
    assert ["its bytes changed" in text for text in problems(workspace)] == [True]


def test_a_missing_and_a_shortened_file_are_told_apart(workspace: Workspace) -> None:
    table = workspace.dedupe / "kept" / "00000.parquet"
    table.write_bytes(table.read_bytes()[:-1])
    assert "expected" in problems(workspace)[0]
    table.unlink()
    assert "is missing" in problems(workspace)[0]


def test_counts_that_do_not_add_up_are_found(workspace: Workspace) -> None:
    write_dedupe(workspace, counts={**COUNTS, "kept": 1})
    assert problems(workspace) == ["dedupe: rows 3 is not kept 1 + rejected 1 + failed 0"]


def test_an_older_input_makes_a_folder_stale(workspace: Workspace) -> None:
    write_raw(workspace, "other")
    assert "older raw" in problems(workspace)[0]
    result = CliRunner().invoke(app, ["status", "--workspace", str(workspace.root), "--json"])
    details = json.loads(result.stdout)["details"]
    assert (details["dedupe"]["state"], details["dedupe"]["why"]) == ("stale", "raw changed")
    assert details["raw"]["state"] == "fresh"


def test_a_folder_without_its_manifest_is_unfinished(workspace: Workspace) -> None:
    (workspace.dedupe / "manifest.json").unlink()
    assert "has not finished" in problems(workspace)[0]
    result = CliRunner().invoke(app, ["verify", "--workspace", str(workspace.root)])
    assert result.exit_code == 1


def test_rows_are_counted_against_the_manifest(workspace: Workspace) -> None:
    path = workspace.dedupe / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["files"][0]["rows"] = 5
    path.write_text(json.dumps(manifest))
    assert problems(workspace) == ["dedupe/kept/00000.parquet has 2 rows, expected 5"]


def test_an_input_that_was_deleted_is_a_problem(workspace: Workspace) -> None:
    shutil.rmtree(workspace.raw)
    assert "older raw" in problems(workspace)[0]


def test_a_missing_and_an_unreadable_ledger_are_found(workspace: Workspace) -> None:
    workspace.ledger.unlink()
    assert ["There is no ledger" in text for text in problems(workspace)] == [True]
    assert not workspace.ledger.exists()
    for garbage in (b"garbage" * 1000, b""):
        workspace.ledger.write_bytes(garbage)
        assert ["raw/ledger.sqlite can't be proved" in text for text in problems(workspace)] == [
            True
        ]


def test_a_ledger_of_another_crawl_is_found(workspace: Workspace, tmp_path: Path) -> None:
    other = Workspace(tmp_path / "other").open(source="dalleblog")
    write_raw(other, "another caption")
    shutil.copy(other.ledger, workspace.ledger)
    assert ["another content" in text for text in problems(workspace)] == [True]
    ledger = Ledger(workspace.ledger)
    ledger.commit(rows=[url_row(1, "failed")])
    ledger.close()
    assert problems(workspace)[1:] == [
        "raw/ledger.sqlite has 1 URLs that are done, expected 2",
        "raw/ledger.sqlite has 1 URLs that are failed, expected 0",
    ]

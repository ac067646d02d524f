"""`pipeline verify` and `status`: intact folders pass, every violation is named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.core.ownership import reopen
from pipeline.core.storage import (
    file_entry,
    input_digest,
    make_manifest,
    manifest_seal,
    write_manifest,
)
from pipeline.core.workspace import Workspace
from pipeline.verify.check import check_workspace
from scrapers.rawstore.ledger import Ledger
from scrapers.rawstore.ledger_rows import FormRow, UrlRow
from scrapers.rawstore.ledger_schema import STATE_NUMBER
from scrapers.rawstore.summary import content_digest, counts_of
from tests.helpers.cli import run_command

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
    checked = check_workspace(workspace.root)
    return [str(fault) for each in checked for fault in each.faults]


def states(workspace: Workspace) -> dict[str, tuple[str, str]]:
    return {each.folder.name: (each.state, each.why) for each in check_workspace(workspace.root)}


def verify(workspace: Workspace, *options: str) -> tuple[int, dict[str, Any]]:
    """The exit code and the JSON report of the command."""
    command = ["verify", "--workspace", str(workspace.root), "--json", *options]
    result = run_command(command)
    return result.exit_code, json.loads(result.stdout)


def test_an_intact_workspace_passes(workspace: Workspace) -> None:
    assert problems(workspace) == []
    code, report = verify(workspace)
    assert (code, report["outcome"]) == (0, "done")
    states = {"damaged": 0, "unfinished": 0, "outdated": 0}
    assert report["counts"] == {"folders": 2, "files": 1, **states}


def flip_a_byte(path: Path, at: int = 10) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def test_a_changed_byte_is_found(workspace: Workspace) -> None:
    flip_a_byte(workspace.dedupe / "kept" / "00000.parquet")
    assert ["its bytes have changed" in text for text in problems(workspace)] == [True]


def test_the_first_fault_is_an_error_and_the_way_out_is_named(workspace: Workspace) -> None:
    flip_a_byte(workspace.dedupe / "kept" / "00000.parquet")
    command = ["verify", "--workspace", str(workspace.root), "--quiet"]
    result = run_command(command)
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: dedupe/kept/00000.parquet does not match the sha256")
    assert "pipeline verify --repair" in result.stderr


def test_a_missing_and_a_truncated_file_are_distinguished(workspace: Workspace) -> None:
    table = workspace.dedupe / "kept" / "00000.parquet"
    table.write_bytes(table.read_bytes()[:-1])
    assert "expected" in problems(workspace)[0]
    table.unlink()
    assert "is missing" in problems(workspace)[0]


def test_counts_that_do_not_add_up_are_found(workspace: Workspace) -> None:
    write_dedupe(workspace, counts={**COUNTS, "kept": 1})
    assert problems(workspace) == [
        "dedupe/manifest.json counts rows 3, which is not kept 1 + rejected 1 + failed 0"
    ]


def test_an_older_input_makes_a_folder_outdated_and_is_no_damage(workspace: Workspace) -> None:
    write_raw(workspace, "other")
    assert states(workspace) == {
        "raw": ("ok", ""),
        "dedupe": ("outdated", "made from an older raw"),
    }
    code, report = verify(workspace)
    assert (code, report["counts"]["outdated"], report["counts"]["damaged"]) == (0, 1, 0)
    assert report["details"]["folders"]["dedupe"]["state"] == "outdated"
    result = run_command(["status", "--workspace", str(workspace.root), "--json"])
    details = json.loads(result.stdout)["details"]
    assert (details["dedupe"]["state"], details["dedupe"]["why"]) == ("stale", "raw changed")
    assert details["raw"]["state"] == "fresh"


def test_a_damaged_folder_is_damaged_though_it_is_outdated_too(workspace: Workspace) -> None:
    write_raw(workspace, "other")
    flip_a_byte(workspace.dedupe / "kept" / "00000.parquet")
    state, why = states(workspace)["dedupe"]
    assert (state, why.endswith("its bytes have changed; made from an older raw")) == (
        "damaged",
        True,
    )


def test_a_folder_without_its_manifest_is_unfinished_and_no_damage(workspace: Workspace) -> None:
    reopen(workspace.dedupe, "dedupe")
    assert states(workspace)["dedupe"] == (
        "unfinished",
        "not finished: the same command resumes it",
    )
    code, report = verify(workspace)
    assert (code, report["counts"]["unfinished"]) == (0, 1)


def test_what_a_mark_describes_is_still_checked(workspace: Workspace) -> None:
    reopen(workspace.dedupe, "dedupe")
    flip_a_byte(workspace.dedupe / "kept" / "00000.parquet")
    assert states(workspace)["dedupe"][0] == "damaged"
    (workspace.dedupe / "kept" / "00000.parquet").unlink()
    assert states(workspace)["dedupe"][0] == "unfinished"


def test_a_damaged_manifest_and_a_damaged_mark_are_damage(workspace: Workspace) -> None:
    manifest = workspace.dedupe / "manifest.json"
    whole = manifest.read_bytes()
    for damaged in (whole[:-20], b"", b"\0" * 100, b"[]", b'{"contract": "dedupe"}'):
        manifest.write_bytes(damaged)
        assert states(workspace)["dedupe"][0] == "damaged", damaged
        assert "dedupe/manifest.json is damaged" in problems(workspace)[0]
        assert "--repair" not in problems(workspace)[0]  # the command adds this advice, once
    manifest.write_bytes(whole)
    reopen(workspace.dedupe, "dedupe")
    (workspace.dedupe / "unfinished.json").write_bytes(b"{")
    assert problems(workspace) == ["dedupe/unfinished.json is damaged: it can't be read"]


def test_a_manifest_that_was_changed_is_damage_though_it_can_be_read(workspace: Workspace) -> None:
    path = workspace.dedupe / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["inputs"]["raw"] = "0" * 64
    path.write_text(json.dumps(manifest))
    assert problems(workspace) == ["dedupe/manifest.json has been changed since it was written"]


def test_a_manifest_without_a_seal_is_of_an_earlier_version(workspace: Workspace) -> None:
    path = workspace.dedupe / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["sha256"]
    path.write_text(json.dumps(manifest))
    assert problems(workspace) == []


def test_another_version_of_a_contract_is_no_damage(workspace: Workspace) -> None:
    path = workspace.dedupe / "manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps({**manifest, "version": 99}))
    state, why = states(workspace)["dedupe"]
    assert (state, "version 99" in why) == ("unfinished", True)


def test_leftovers_and_other_files_are_no_damage(workspace: Workspace) -> None:
    for name in ("dedupe/kept/00001.parquet.partial", "dedupe/note.txt", "raw/segments/x.partial"):
        path = workspace.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"garbage")
    assert problems(workspace) == []
    assert verify(workspace)[0] == 0


def test_a_path_that_leads_out_of_the_folder_is_damage_and_is_not_followed(
    workspace: Workspace,
) -> None:
    path = workspace.dedupe / "manifest.json"
    for name in ("/dev/zero", "../raw/ledger.sqlite", "kept"):
        manifest = json.loads(path.read_text())
        manifest["files"][0]["path"] = name
        del manifest["sha256"]
        path.write_text(json.dumps({**manifest, "sha256": manifest_seal(manifest)}))
        assert ["names the path" in text for text in problems(workspace)] == [True]


def test_rows_are_counted_against_the_manifest(workspace: Workspace) -> None:
    path = workspace.dedupe / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["files"][0]["rows"] = 5
    path.write_text(json.dumps(manifest))
    assert problems(workspace) == [
        "dedupe/manifest.json has been changed since it was written",
        "dedupe/kept/00000.parquet has 2 rows, expected 5",
    ]


def test_an_input_that_was_deleted_makes_a_folder_outdated(workspace: Workspace) -> None:
    shutil.rmtree(workspace.raw)
    assert states(workspace) == {"dedupe": ("outdated", "made from an older raw")}


def test_a_missing_and_an_unreadable_ledger_are_found(workspace: Workspace) -> None:
    workspace.ledger.unlink()
    assert problems(workspace) == ["raw/ledger.sqlite is missing"]
    assert not workspace.ledger.exists()
    for garbage in (b"garbage" * 1000, b""):
        workspace.ledger.write_bytes(garbage)
        assert ["raw/ledger.sqlite is damaged" in text for text in problems(workspace)] == [True]


def test_a_ledger_of_another_crawl_is_found(workspace: Workspace, tmp_path: Path) -> None:
    other = Workspace(tmp_path / "other").open(source="dalleblog")
    write_raw(other, "another caption")
    shutil.copy(other.ledger, workspace.ledger)
    assert ["does not match its manifest" in text for text in problems(workspace)] == [True]
    ledger = Ledger(workspace.ledger)
    ledger.commit(rows=[url_row(1, "failed")])
    ledger.close()
    assert problems(workspace)[1:] == [
        "raw/ledger.sqlite has 1 URLs that are done, expected 2",
        "raw/ledger.sqlite has 1 URLs that are failed, expected 0",
    ]


def test_a_ledger_that_is_being_written_is_read_as_it_was_committed(workspace: Workspace) -> None:
    ledger = Ledger(workspace.ledger)
    ledger.set_meta("note", "in the write-ahead log")
    assert workspace.ledger.with_name("ledger.sqlite-wal").stat().st_size > 0
    assert problems(workspace) == []
    ledger.close()

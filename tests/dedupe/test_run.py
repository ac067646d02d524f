"""The stage as a whole: its law, its tables, run again, run in any order."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipeline.errors import ContractError
from pipeline.storage import Workspace, read_manifest
from tests.dedupe.conftest import RawStore, dedupe, encode, kept, photo, photo_png, rejected


def fill(raw: RawStore, count: int = 24) -> None:
    for number in range(count):
        raw.add(f"k{number:03}", photo_png(number), f"a cat in {number // 4} hats", rank=number % 4)


def folder_bytes(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_every_row_of_the_ledger_is_kept_or_rejected(raw: RawStore) -> None:
    fill(raw)
    raw.add("missing", None)
    raw.add("copy", photo_png(3), "another", rank=9)
    workspace = raw.write()
    report = dedupe(workspace)
    assert report.outcome == "done"
    assert report.counts == {
        "rows": 26,
        "kept": 24,
        "rejected": 2,
        "failed": 0,
        "not_fetched": 1,
        "duplicate_bytes": 1,
    }
    assert len(kept(workspace)) == 24
    assert set(rejected(workspace)) == {"missing", "copy"}


def test_the_second_run_finds_nothing_to_do(raw: RawStore) -> None:
    fill(raw)
    workspace = raw.write(finished=True)
    first = dedupe(workspace)
    before = folder_bytes(workspace.dedupe)
    second = dedupe(workspace)
    assert (second.outcome, second.counts) == ("unchanged", first.counts)
    assert folder_bytes(workspace.dedupe) == before


def test_the_content_of_the_raw_store_is_the_input(raw: RawStore) -> None:
    fill(raw, 4)
    workspace = raw.write(finished=True)
    content = read_manifest(workspace.raw, "raw").details["content"]
    dedupe(workspace)
    assert read_manifest(workspace.dedupe, "dedupe").inputs["raw"] == content


def test_workers_change_nothing(raw: RawStore) -> None:
    fill(raw, 80)
    workspace = raw.write()
    dedupe(workspace, workers=0)
    alone = folder_bytes(workspace.dedupe)
    (workspace.dedupe / "manifest.json").unlink()
    (workspace.dedupe / "inspections.parquet").unlink()
    dedupe(workspace, workers=2)
    assert folder_bytes(workspace.dedupe) == alone


def test_new_rows_give_the_tables_of_a_run_from_scratch(raw: RawStore, tmp_path: Path) -> None:
    fill(raw, 12)
    dedupe(raw.write())
    for number in range(12, 24):
        raw.add(f"a{number:03}", photo_png(number % 20), "a dog", rank=number - 12)
    workspace = raw.write()
    dedupe(workspace)
    scratch = Workspace(tmp_path / "scratch")
    scratch.raw.parent.mkdir()
    workspace.raw.rename(scratch.raw)
    dedupe(scratch)
    assert folder_bytes(workspace.dedupe) == folder_bytes(scratch.dedupe)


def test_lost_bytes_are_an_error_that_names_the_segment(raw: RawStore) -> None:
    fill(raw)
    workspace = raw.write()
    (workspace.segments / "00000.tar").unlink()
    with pytest.raises(ContractError, match=r"00000\.tar"):
        dedupe(workspace)


def test_changed_bytes_are_an_error_that_names_the_segment(raw: RawStore) -> None:
    fill(raw)
    workspace = raw.write()
    segment = workspace.segments / "00000.tar"
    data = bytearray(segment.read_bytes())
    data[1000] ^= 1
    segment.write_bytes(data)
    with pytest.raises(ContractError, match=r"00000\.tar"):
        dedupe(workspace, workers=2)


def test_an_empty_ledger_gives_empty_tables(raw: RawStore) -> None:
    workspace = raw.write()
    assert dedupe(workspace).counts["rows"] == 0
    assert pq.read_table(workspace.dedupe / "kept").num_rows == 0


def test_the_same_pixels_in_another_file_are_found(raw: RawStore) -> None:
    raw.add("best", encode(photo(1)), rank=1)
    raw.add("again", encode(photo(1), compress_level=1), rank=5)
    workspace = raw.write()
    dedupe(workspace)
    assert rejected(workspace)["again"]["reason"] == "duplicate_pixels"
    assert rejected(workspace)["again"]["stands_for"] == "best"

"""The stage as a whole: its law, its tables, run again, run in any order."""

from __future__ import annotations

import errno
import hashlib
import logging
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipeline.core.contracts import CAPTIONS, INSPECTIONS, KEPT, REJECTED
from pipeline.core.errors import ContractError, StorageError, WorkspaceError
from pipeline.core.storage import arrow_schema, read_manifest
from pipeline.core.workspace import Workspace
from pipeline.dedupe import inspecting, rows, tables
from pipeline.dedupe.config import DedupeConfig
from pipeline.dedupe.run import check_law, run
from tests.helpers.dedupe import RawStore, dedupe, encode, kept, photo, photo_png, rejected
from tests.helpers.progress import items_only


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


def test_a_first_run_does_not_warn_of_missing_inspections(
    raw: RawStore, caplog: pytest.LogCaptureFixture
) -> None:
    fill(raw)
    dedupe(raw.write())
    assert "inspections" not in caplog.text


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


def test_new_rows_yield_the_tables_of_a_run_from_scratch(raw: RawStore, tmp_path: Path) -> None:
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


def test_a_full_disk_is_explained_and_partial_files_are_removed(
    raw: RawStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill_up(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    fill(raw, 4)
    workspace = raw.write()
    monkeypatch.setattr(rows._RowWriter, "add", fill_up)
    with pytest.raises(StorageError, match="The disk is full"):
        dedupe(workspace)
    assert sorted(path.name for path in workspace.dedupe.iterdir()) == [
        "unfinished.json",
        "work.sqlite",
    ]


def test_an_empty_ledger_yields_empty_tables(raw: RawStore) -> None:
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


def test_a_caption_of_several_sections_is_one_row(raw: RawStore) -> None:
    raw.add("a", photo_png(1), "a ‘cat’", rank=0, section="b-section")
    raw.add("b", photo_png(2), "A  'cat'", rank=5, section="a-section")
    raw.add("c", None, "a dog", section="a-section")
    raw.add("d", photo_png(3), "a {}")
    workspace = raw.write()
    dedupe(workspace)
    rows = {r["caption_normalized"]: r for r in read_captions(workspace)}
    assert set(rows) == {"a 'cat'", "a dog"}
    cat = rows["a 'cat'"]
    assert (cat["sections"], cat["images"], cat["ranks"]) == (
        ["a-section", "b-section"],
        2,
        0b100001,
    )
    assert cat["caption"] == "A 'cat'"
    assert (rows["a dog"]["images"], rows["a dog"]["ranks"]) == (0, 0)
    assert kept(workspace)["a"]["caption"] == "a ‘cat’"


def test_a_killed_run_keeps_its_inspections_and_ends_in_the_same_bytes(
    raw: RawStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(raw, 40)
    workspace = raw.write()
    dedupe(workspace)
    expected = folder_bytes(workspace.dedupe)
    for path in ("manifest.json", "inspections.parquet"):
        (workspace.dedupe / path).unlink()
    monkeypatch.setattr(inspecting, "PART_IMAGES", 8)
    seen: list[int] = []

    def stop_after_three(done: int, total: int | None, notes: object = None) -> None:
        seen.append(done)
        if len(seen) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(DedupeConfig(workspace=workspace.root, workers=0), items_only(stop_after_three))
    totals: list[int | None] = []
    run(
        DedupeConfig(workspace=workspace.root, workers=0),
        items_only(lambda done, total, notes=None: totals.append(total)),
    )
    assert totals[0] == 40 - 24
    assert folder_bytes(workspace.dedupe) == expected


def test_old_inspections_are_not_made_again(raw: RawStore, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(raw, 12)
    dedupe(raw.write())
    raw.add("new", photo_png(50), "a dog")
    inspected: list[int] = []
    run(
        DedupeConfig(workspace=raw.write().root, workers=0),
        items_only(lambda done, total, notes=None: inspected.append(done)),
    )
    assert inspected == [1]


def test_a_first_run_warns_of_nothing(raw: RawStore, caplog: pytest.LogCaptureFixture) -> None:
    fill(raw, 40)
    dedupe(raw.write(finished=True), val_fraction=0.5)
    assert [one.getMessage() for one in caplog.records if one.levelno >= logging.WARNING] == []


def test_rows_that_went_leave_no_trace(raw: RawStore, tmp_path: Path) -> None:
    fill(raw, 12)
    raw.add("masked", photo_png(60), masked=1)
    dedupe(raw.write())
    raw.rows = [row | {"masked": 0} for row in raw.rows[4:]]
    workspace = raw.write()
    dedupe(workspace)
    scratch = Workspace(tmp_path / "scratch")
    scratch.root.mkdir()
    workspace.raw.rename(scratch.raw)
    dedupe(scratch)
    assert folder_bytes(workspace.dedupe) == folder_bytes(scratch.dedupe)


@pytest.mark.parametrize("limits", [(100, 40_000_000), (40_000_000, 100)])
def test_another_limit_of_pixels_is_a_run_from_scratch(
    raw: RawStore, tmp_path: Path, limits: tuple[int, int]
) -> None:
    fill(raw, 8)
    workspace = raw.write()
    for limit in limits:
        dedupe(workspace, max_pixels=limit)
    scratch = Workspace(tmp_path / "scratch")
    scratch.root.mkdir()
    workspace.raw.rename(scratch.raw)
    dedupe(scratch, max_pixels=limits[1])
    assert folder_bytes(workspace.dedupe) == folder_bytes(scratch.dedupe)


def test_the_order_of_the_ledger_changes_nothing(raw: RawStore, tmp_path: Path) -> None:
    fill(raw, 30)
    other = RawStore(tmp_path / "other", list(reversed(raw.rows)), raw.files)
    first, second = raw.write(), other.write()
    dedupe(first)
    dedupe(second)
    assert folder_bytes(first.dedupe) == folder_bytes(second.dedupe)


def test_splits_stay_when_data_is_added(raw: RawStore) -> None:
    fill(raw, 60)
    workspace = raw.write()
    dedupe(workspace, val_fraction=0.4)
    before = {key: row["split"] for key, row in kept(workspace).items()}
    for number in range(60, 160):
        raw.add(f"n{number}", photo_png(number), f"a dog in {number // 4} coats")
    dedupe(raw.write(), val_fraction=0.4)
    after = {key: row["split"] for key, row in kept(workspace).items()}
    assert {"train", "val"} == set(before.values())
    assert {key: after[key] for key in before} == before


def test_no_caption_is_in_both_splits(raw: RawStore) -> None:
    fill(raw, 80)
    workspace = raw.write()
    dedupe(workspace, val_fraction=0.5)
    sides: dict[str, set[str]] = {}
    for row in kept(workspace).values():
        sides.setdefault(row["caption_id"], set()).add(row["split"])
    assert {len(side) for side in sides.values()} == {1}
    assert {r["caption_id"]: {r["split"]} for r in read_captions(workspace)} == sides


def test_a_ledger_that_changes_underneath_breaks_the_law() -> None:
    with pytest.raises(ContractError, match="it changed"):
        check_law(3, {"rows": 2, "kept": 1, "rejected": 1, "failed": 0})


def test_no_ledger_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ContractError, match="Run `pipeline scrape` first"):
        dedupe(Workspace(tmp_path))


def test_tables_follow_their_contract_and_name_their_files(raw: RawStore) -> None:
    fill(raw, 8)
    workspace = raw.write()
    dedupe(workspace)
    manifest = read_manifest(workspace.dedupe, "dedupe")
    card, *entries = manifest.files
    assert card.path == "README.md"
    assert [entry.path for entry in entries] == [
        "captions.parquet",
        "inspections.parquet",
        "kept/00000.parquet",
        "rejected/00000.parquet",
    ]
    for entry, columns in zip(entries, (CAPTIONS, INSPECTIONS, KEPT, REJECTED), strict=True):
        schema = pq.read_schema(workspace.dedupe / entry.path)
        assert schema.equals(arrow_schema(columns))
        assert entry.rows == pq.read_metadata(workspace.dedupe / entry.path).num_rows


def test_many_rows_go_to_several_files(raw: RawStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "ROWS_PER_FILE", 8)
    monkeypatch.setattr(tables, "ROWS_PER_GROUP", 4)
    fill(raw, 18)
    workspace = raw.write()
    dedupe(workspace)
    files = sorted(path.name for path in (workspace.dedupe / "kept").iterdir())
    assert files == ["00000.parquet", "00001.parquet", "00002.parquet"]
    assert list(kept(workspace)) == [f"k{number:03}" for number in range(18)]


def read_captions(workspace: Workspace) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(workspace.dedupe / "captions.parquet").to_pylist()
    return rows


def test_an_empty_split_causes_a_warning(raw: RawStore, caplog: pytest.LogCaptureFixture) -> None:
    fill(raw, 4)
    workspace = raw.write()
    dedupe(workspace, val_fraction=0.0)
    assert "--val-fraction" not in caplog.text
    dedupe(workspace, val_fraction=1e-9)
    assert "--val-fraction 1e-09 leaves no image in the split val: all 4 kept" in caplog.text
    dedupe(workspace, val_fraction=1 - 1e-9)
    assert "leaves no image in the split train" in caplog.text


def test_inspections_that_changed_are_made_again(raw: RawStore) -> None:
    fill(raw, 12)
    workspace = raw.write()
    dedupe(workspace)
    path = workspace.dedupe / "inspections.parquet"
    whole, inspections = folder_bytes(workspace.dedupe), path.read_bytes()
    for at in (0.2, 0.4, 0.6, 0.8):
        data = bytearray(inspections)
        data[int(at * len(data))] ^= 1
        path.write_bytes(data)
        dedupe(workspace, val_fraction=0.5)  # with other options: the tables are made again
        path.write_bytes(data)
        dedupe(workspace)
        assert folder_bytes(workspace.dedupe) == whole


def test_other_files_in_the_folder_stay(raw: RawStore) -> None:
    fill(raw, 4)
    workspace = raw.write()
    dedupe(workspace)
    notes = [workspace.dedupe / name for name in ("note.txt", "kept/note.txt")]
    for note in notes:
        note.write_text("mine")
    dedupe(workspace, val_fraction=0.5)
    assert [note.read_text() for note in notes] == ["mine", "mine"]


def test_a_folder_that_is_not_ours_is_refused_and_left_alone(raw: RawStore) -> None:
    fill(raw, 4)
    workspace = raw.write()
    workspace.dedupe.mkdir()
    (workspace.dedupe / "note.txt").write_text("mine")
    with pytest.raises(WorkspaceError, match=r"holds note\.txt"):
        dedupe(workspace)
    assert [path.name for path in workspace.dedupe.iterdir()] == ["note.txt"]

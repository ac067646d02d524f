"""`pipeline verify --repair`: just what is damaged is dropped, and the printed commands make just that anew."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipeline.storage import MANIFEST_NAME, UNFINISHED_NAME
from tests.verify.small_pipeline import Small, flip

CODES = "codes/small-*"


def find(small: Small, pattern: str) -> Path:
    (path,) = small.root.glob(pattern)
    return path


def repair_and_make_anew(small: Small, named: str) -> list[dict[str, Any]]:
    """Verify, repair, type what was printed, verify; the reports of what was typed."""
    code_before = small.call("verify", "--pictures", "0", code=1)
    assert named in json.dumps(code_before["details"]["folders"])
    details = small.repair()
    assert details["not_repaired"] == []
    reports = [small.type(command) for command in details["next"]]
    small.call("verify", "--pictures", "0")
    return reports


def damage_in_the_middle(path: Path) -> None:
    flip(path)


def damage_the_end(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def delete(path: Path) -> None:
    path.unlink()


DAMAGES = [damage_in_the_middle, damage_the_end, delete]


@pytest.fixture(params=DAMAGES, ids=lambda kind: str(kind.__name__))
def damage(request: pytest.FixtureRequest) -> Callable[[Path], None]:
    kind: Callable[[Path], None] = request.param
    return kind


def test_nothing_damaged_nothing_is_touched(small: Small) -> None:
    before = small.files()
    details = small.repair()
    assert (details["repaired"], details["next"], details["not_repaired"]) == ([], [], [])
    assert small.files() == before


# --- What is computed ----------------------------------------------------------------------------


def test_a_damaged_part_of_the_codes_is_encoded_again(
    small: Small, damage: Callable[[Path], None]
) -> None:
    before = small.files()
    part = find(small, f"{CODES}/00002.parquet")
    rows = pq.read_metadata(part).num_rows
    damage(part)
    (report,) = repair_and_make_anew(small, "00002.parquet")
    assert (report["stage"], report["counts"]["new"]) == ("encode", rows)
    assert small.files() == before


def test_codes_whose_manifest_is_damaged_are_not_encoded_again(
    small: Small,
) -> None:
    before = small.files()
    flip(find(small, f"{CODES}/{MANIFEST_NAME}"))
    (report,) = repair_and_make_anew(small, MANIFEST_NAME)
    assert (report["stage"], report["counts"]["new"]) == ("encode", 0)
    assert small.files() == before


def test_of_codes_with_a_damaged_manifest_damaged_parts_are_found_by_their_own_checksums(
    small: Small,
) -> None:
    before = small.files()
    part = find(small, f"{CODES}/00001.parquet")
    rows = pq.read_metadata(part).num_rows
    flip(part, at=0.3, count=1)
    find(small, f"{CODES}/{MANIFEST_NAME}").write_bytes(b"")
    (report,) = repair_and_make_anew(small, MANIFEST_NAME)
    assert report["counts"]["new"] == rows
    assert small.files() == before


@pytest.mark.parametrize(
    "file", ["train/000003.tar", "train/000003.idx.npy", "index.json", "left_out.parquet"]
)
def test_a_damaged_shard_is_written_again_and_no_other(
    small: Small, damage: Callable[[Path], None], file: str
) -> None:
    before = small.files()
    damage(small.root / "shards/default" / file)
    (report,) = repair_and_make_anew(small, file)
    redone = {"train": 1, "index.json": 7, "left_out.parquet": 0}[file.split("/")[0]]
    assert report["counts"]["shards"] - report["details"]["shards_reused"] == redone
    assert small.files() == before


@pytest.mark.parametrize("at", [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9])
def test_wherever_a_shard_is_hit_its_samples_stay_in_it(small: Small, at: float) -> None:
    """Also where the header of a sample is hit: its other members name it, too."""
    # A set of shards that has grown: laid out at once, it would be another one.
    small.call("shard", "--name", "grown", "--max-samples", "10", "--text-seq-len", "16")
    before = small.files("shards")
    flip(small.root / "shards/grown/train/000002.tar", at=at, count=600)
    (report,) = repair_and_make_anew(small, "000002.tar")
    assert report["details"]["shards_reused"] == 6
    assert small.files("shards") == before


def test_shards_whose_manifest_is_damaged_stay(small: Small) -> None:
    before = small.files()
    flip(small.root / "shards/default" / MANIFEST_NAME)
    (report,) = repair_and_make_anew(small, MANIFEST_NAME)
    assert report["details"]["shards_reused"] == 7
    assert small.files() == before


@pytest.mark.parametrize(
    "file",
    ["kept/00000.parquet", "rejected/00000.parquet", "captions.parquet", "README.md"],
)
def test_damaged_tables_are_written_again_and_nothing_is_inspected(
    small: Small, damage: Callable[[Path], None], file: str
) -> None:
    before = small.files()
    damage(small.root / "dedupe" / file)
    (report,) = repair_and_make_anew(small, file)
    assert (report["stage"], report["details"]["inspected"]) == ("dedupe", 0)
    assert small.files() == before


def test_damaged_inspections_are_made_again(small: Small, damage: Callable[[Path], None]) -> None:
    before = small.files()
    damage(small.root / "dedupe/inspections.parquet")
    (report,) = repair_and_make_anew(small, "inspections.parquet")
    assert report["details"]["inspected"] == 64
    assert small.files() == before


def test_tables_whose_manifest_is_damaged_are_written_again_and_nothing_is_inspected(
    small: Small,
) -> None:
    before = small.files()
    flip(small.root / "dedupe" / MANIFEST_NAME)
    (report,) = repair_and_make_anew(small, MANIFEST_NAME)
    assert report["details"]["inspected"] == 0
    assert small.files() == before


def test_a_damaged_mark_is_written_again(small: Small) -> None:
    before = small.files()
    flip(find(small, f"{CODES}/00001.parquet"))
    small.repair()
    mark = find(small, f"{CODES}/{UNFINISHED_NAME}")
    mark.write_bytes(mark.read_bytes()[:-20])
    (report,) = repair_and_make_anew(small, UNFINISHED_NAME)
    assert report["stage"] == "encode"
    assert small.files() == before

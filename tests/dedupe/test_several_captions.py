"""Images with several captions, and what else the source says of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipeline.core.contracts import KEPT, REJECTED
from pipeline.core.kept_images import read_image_tables
from pipeline.core.storage import read_manifest
from pipeline.core.workspace import Workspace
from pipeline.dedupe.row_captions import read_row_captions
from tests.dedupe.test_links import TRAIN, VAL
from tests.helpers.dedupe import RawStore, dedupe, encode, kept, photo, photo_png, rejected
from tests.old_tables import make_old


def add(raw: RawStore, key: str, data: bytes | None, captions: list[str], **columns: Any) -> None:
    raw.add(key, data, captions[0], captions=json.dumps(captions), **columns)


def captions_table(workspace: Workspace) -> dict[str, dict[str, Any]]:
    rows = pq.read_table(workspace.dedupe / "captions.parquet").to_pylist()
    return {row["caption"]: row for row in rows}


def details(workspace: Workspace) -> dict[str, Any]:
    return dict(read_manifest(workspace.dedupe, "dedupe").details)


@pytest.mark.parametrize(
    ("listed", "usable"),
    [
        (["a cat", "a dog"], ["a cat", "a dog"]),
        (["a  cat\n", "a dog"], ["a cat", "a dog"]),  # cleaned
        (["a cat", "A Cat", "a dog", "a\u200b dog"], ["a cat", "a dog"]),  # one id, once
        (["A Cat", "a cat"], ["A Cat"]),
        (["", "a {}", "a dog", "a cat"], ["a dog", "a cat"]),  # bad ones singly
        (["a dog", " "], ["a dog"]),
        (["a cafe\u0301", "a caf\u00e9"], ["a caf\u00e9"]),
    ],
)
def test_every_usable_caption_is_kept_once(
    listed: list[str], usable: list[str], raw: RawStore
) -> None:
    add(raw, "a", photo_png(1), listed)
    add(raw, "b", None, listed)
    workspace = raw.write()
    dedupe(workspace)
    for row in (kept(workspace)["a"], rejected(workspace)["b"]):
        assert row["captions"] == usable
        assert row["caption"] == usable[0]
        assert row["caption_id"] == read_row_captions(usable[0], None).first.caption_id
    found = {row["caption_normalized"] for row in captions_table(workspace).values()}
    assert found == {text.lower() for text in usable}


def test_one_caption_is_a_list_of_one_and_none_an_empty_list(raw: RawStore) -> None:
    raw.add("a", photo_png(1), " a  cat")
    raw.add("b", photo_png(2), "")
    raw.add("c", photo_png(3), None)
    raw.add("d", photo_png(4), "a {}")
    workspace = raw.write()
    dedupe(workspace)
    assert kept(workspace)["a"]["captions"] == ["a cat"]
    lost = rejected(workspace)
    assert {key: (row["reason"], row["captions"]) for key, row in lost.items()} == {
        key: ("bad_caption", []) for key in "bcd"
    }
    assert lost["d"]["caption"] == "a {}"


def test_an_image_is_rejected_only_if_no_caption_is_left(raw: RawStore) -> None:
    add(raw, "a", photo_png(1), ["{}", "", "  "])
    add(raw, "b", photo_png(2), ["{}", "", "a cat"])
    workspace = raw.write()
    dedupe(workspace)
    row = rejected(workspace)["a"]
    assert (row["reason"], row["captions"]) == ("bad_caption", [])
    assert row["detail"] == (
        "none of its 3 captions can be used; of the first, a slot was never filled in: {}"
    )
    assert kept(workspace)["b"]["captions"] == ["a cat"]
    assert details(workspace)["captions"]["left_out_as_bad"] == 2
    assert set(captions_table(workspace)) == {"a cat"}


def test_ten_thousand_captions_of_one_image_all_arrive(raw: RawStore) -> None:
    many = [f"caption number {number}" for number in range(10_000)]
    add(raw, "a", photo_png(1), many)
    workspace = raw.write()
    dedupe(workspace)
    row = kept(workspace)["a"]
    assert row["captions"] == many
    found = captions_table(workspace)
    assert set(found) == set(many)
    assert {each["split"] for each in found.values()} == {row["split"]}
    assert {each["images"] for each in found.values()} == {1}
    assert details(workspace)["traits"]["several_captions"] == 1


def test_captions_of_one_image_share_its_split_if_the_first_is_bad(raw: RawStore) -> None:
    add(raw, "a", photo_png(1), ["{}", VAL[0], TRAIN[0]])
    add(raw, "b", photo_png(2), [VAL[1], "", VAL[2]])
    workspace = raw.write()
    dedupe(workspace, val_fraction=0.5)
    found = {caption: row["split"] for caption, row in captions_table(workspace).items()}
    assert found == {VAL[0]: "train", TRAIN[0]: "train", VAL[1]: "val", VAL[2]: "val"}
    assert [row["split"] for row in kept(workspace).values()] == ["train", "val"]


@pytest.mark.parametrize("extra", [None, '{"license": "CC0", "width": 3}', '{"é": "“x”"}'])
def test_extra_goes_along_to_kept_and_rejected_rows(extra: str | None, raw: RawStore) -> None:
    raw.add("a", photo_png(1), "a cat", extra=extra, section="birds.csv", rank=None)
    raw.add("b", None, "a cat", extra=extra)
    workspace = raw.write()
    dedupe(workspace)
    row = kept(workspace)["a"]
    assert (row["extra"], row["section"], row["rank"]) == (extra, "birds.csv", None)
    assert rejected(workspace)["b"]["extra"] == extra


# --- Exact duplicates ------------------------------------------------------------------------------


def duplicates(raw: RawStore) -> Workspace:
    add(raw, "a", photo_png(1), ["a cat", "a pet"], rank=0)
    add(raw, "b", photo_png(1), ["A cat", "an animal"], rank=1)  # the same bytes
    raw.add("c", encode(photo(1), compress_level=1), "a tom", rank=2)  # the same pixels
    raw.add("d", encode(photo(1), "JPEG", quality=90), "a mouse", rank=3)  # only similar
    raw.add("e", photo_png(2), "a dog", rank=0)
    raw.add("f", photo_png(1)[:-30], "a fragment", rank=5)
    return raw.write()


def test_exact_duplicates_keep_their_captions_to_themselves(raw: RawStore) -> None:
    workspace = duplicates(raw)
    dedupe(workspace)
    assert kept(workspace)["a"]["captions"] == ["a cat", "a pet"]
    assert rejected(workspace)["b"]["captions"] == ["A cat", "an animal"]
    assert captions_table(workspace)["an animal"]["images"] == 0
    assert "merge_captions" not in read_manifest(workspace.dedupe, "dedupe").config


@pytest.mark.parametrize("near_duplicates", ["flag", "drop", "off"])
def test_merged_captions_go_to_the_row_that_stands_for_them(
    near_duplicates: str, raw: RawStore
) -> None:
    workspace = duplicates(raw)
    dedupe(workspace, merge_captions=True, near_duplicates=near_duplicates)
    rows = kept(workspace)
    assert rows["a"]["captions"] == ["a cat", "a pet", "an animal", "a tom"]
    assert rows["e"]["captions"] == ["a dog"]
    lost = rejected(workspace)
    assert (lost["b"]["stands_for"], lost["c"]["stands_for"]) == ("a", "a")
    assert lost["b"]["captions"] == ["A cat", "an animal"]
    table = captions_table(workspace).values()
    found = {row["caption_normalized"]: (row["images"], row["ranks"]) for row in table}
    assert [found[name] for name in rows["a"]["captions"]] == [(1, 1)] * 4
    assert found["a fragment"] == (0, 0)
    assert found["a mouse"] == ((0, 0) if near_duplicates == "drop" else (1, 8))


def test_merged_captions_are_in_the_split_of_their_image(raw: RawStore) -> None:
    raw.add("a", photo_png(1), VAL[0], rank=0)
    add(raw, "b", photo_png(1), [VAL[1], TRAIN[0]], rank=1)
    add(raw, "c", photo_png(1), [VAL[2]], rank=2)
    workspace = raw.write()
    dedupe(workspace, val_fraction=0.5, merge_captions=True, near_duplicates="off")
    row = kept(workspace)["a"]
    assert row["captions"] == [VAL[0], VAL[1], TRAIN[0], VAL[2]]
    assert {captions_table(workspace)[name]["split"] for name in row["captions"]} == {"train"}


def test_tables_depend_neither_on_the_order_of_the_ledger_nor_on_workers(tmp_path: Path) -> None:
    found = []
    for name, reverse, workers in (("one", False, 0), ("other", True, 2)):
        raw = RawStore(tmp_path / name)
        for number in range(40):
            captions = [f"caption {number % 7}", f"Caption  {number % 7}", "", f"other {number}"]
            add(raw, f"k{number:02}", photo_png(number % 9), captions, extra=f'{{"n": {number}}}')
        workspace = raw.write()
        if reverse:
            raw.rows.reverse()
            raw.files.reverse()
            raw.write()
        dedupe(workspace, workers=workers, merge_captions=True)
        columns = ["key", "captions", "extra", "split"]
        tables = (
            pq.read_table(workspace.dedupe / n, columns=columns[:3]) for n in ("kept", "rejected")
        )
        found.append([table.to_pylist() for table in tables])
    assert found[0] == found[1]
    assert len(found[0][0]) == 9
    assert all(len(row["captions"]) > 2 for row in found[0][0])


# --- Tables of version 1 ---------------------------------------------------------------------------


def test_old_tables_stay_current_while_their_ledger_says_nothing_new(raw: RawStore) -> None:
    raw.add("a", photo_png(1), "a cat")
    raw.add("b", photo_png(2), "")
    workspace = raw.write()
    dedupe(workspace)
    make_old(workspace)
    before = {path: path.read_bytes() for path in workspace.dedupe.rglob("*") if path.is_file()}
    assert dedupe(workspace).outcome == "unchanged"
    assert before == {
        path: path.read_bytes() for path in workspace.dedupe.rglob("*") if path.is_file()
    }


@pytest.mark.parametrize("columns", [{"captions": '["a cat", "a pet"]'}, {"extra": '{"a": 1}'}])
def test_old_tables_are_written_again_if_the_ledger_has_more(
    columns: dict[str, str], raw: RawStore
) -> None:
    raw.add("a", photo_png(1), "a cat", **columns)
    workspace = raw.write()
    inputs_of_old = _old_digest(raw)
    dedupe(workspace)
    assert read_manifest(workspace.dedupe, "dedupe").inputs["ledger"] != inputs_of_old
    assert kept(workspace)["a"]["captions"] == json.loads(columns.get("captions", '["a cat"]'))


def _old_digest(raw: RawStore) -> str:
    """The digest of a ledger of one row as version 1 of the tables had it."""
    import hashlib
    import sqlite3

    names = "key, url, source, section, caption, rank, masked, state, reason, segment, offset, bytes, sha256"
    with sqlite3.connect(Workspace(raw.root).ledger) as ledger:
        row, captions = (
            ledger.execute(f"SELECT {n} FROM items").fetchone() for n in (names, "captions")
        )
    ledger.close()
    shown = (*row, *captions) if captions[0] else row
    return hashlib.sha256(repr(shown).encode()).hexdigest()


def test_one_plain_caption_has_the_digest_that_version_1_gave_it(raw: RawStore) -> None:
    raw.add("a", photo_png(1), "a cat")
    workspace = raw.write()
    dedupe(workspace)
    assert read_manifest(workspace.dedupe, "dedupe").inputs["ledger"] == _old_digest(raw)


def test_old_tables_are_read_as_having_one_caption_each(raw: RawStore) -> None:
    raw.add("a", photo_png(1), "a cat", rank=None)
    raw.add("b", photo_png(2), "{}")
    raw.add("c", None, "a dog")
    workspace = raw.write()
    dedupe(workspace)
    tables = {
        name: (workspace.dedupe / name / "00000.parquet", [column.name for column in columns])
        for name, columns in (("kept", KEPT), ("rejected", REJECTED))
    }
    new = {name: _rows(path, names) for name, (path, names) in tables.items()}
    make_old(workspace)
    assert {name: _rows(path, names) for name, (path, names) in tables.items()} == new
    path, _ = tables["rejected"]
    assert _rows(path, ["captions", "key"]) == [
        {"captions": [], "key": "b"},
        {"captions": ["a dog"], "key": "c"},
    ]
    assert _rows(path, ["key"]) == [{"key": "b"}, {"key": "c"}]


def _rows(path: Path, columns: list[str]) -> list[dict[str, Any]]:
    return [row for rows in read_image_tables([path], columns, 1) for row in rows.to_pylist()]

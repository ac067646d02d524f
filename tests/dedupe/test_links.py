"""What links captions, and what the options for near duplicates do, on rows made by hand."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline.core.captions import read_caption
from pipeline.core.workspace import Workspace
from tests.helpers.dedupe import RawStore, dedupe, encode, kept, photo, photo_png, rejected

HALF = 1 << 63


def captions_that_draw(val: bool, count: int) -> list[str]:
    """Captions that draw val, or train, where half of all do."""
    names = (f"a thing number {number}" for number in range(1000))
    found = [name for name in names if (read_caption(name).number < HALF) == val]
    return found[:count]


VAL, TRAIN = captions_that_draw(True, 4), captions_that_draw(False, 2)


def splits(workspace: Workspace) -> dict[str, str]:
    rows = pq.read_table(workspace.dedupe / "captions.parquet").to_pylist()
    return {row["caption"]: row["split"] for row in rows}


def near(seed: int) -> bytes:
    """A JPEG of `photo(seed)`: other pixels, much the same picture."""
    return encode(photo(seed), "JPEG", quality=90)


def changed(seed: int, brighter: int) -> bytes:
    """A PNG of `photo(seed)` with a corner that is brighter."""
    pixels = photo(seed).astype(np.int16)
    pixels[:12, :12] += brighter
    return encode(pixels.clip(0, 255).astype(np.uint8))


@pytest.mark.parametrize("near_duplicates", ["flag", "drop", "off"])
def test_captions_that_share_an_exact_copy_are_in_one_split(
    near_duplicates: str, raw: RawStore
) -> None:
    raw.add("a", photo_png(1), TRAIN[0])
    raw.add("b", photo_png(1), VAL[0], rank=1)
    raw.add("c", photo_png(2), VAL[1])
    workspace = raw.write()
    dedupe(workspace, val_fraction=0.5, near_duplicates=near_duplicates)
    assert rejected(workspace)["b"]["reason"] == "duplicate_bytes"
    assert splits(workspace) == {TRAIN[0]: "train", VAL[0]: "train", VAL[1]: "val"}


def test_links_lead_on_through_copies_and_near_copies(raw: RawStore) -> None:
    raw.add("a", photo_png(1), TRAIN[0])
    raw.add("b", near(1), VAL[0])
    raw.add("c", near(1), VAL[1], rank=1)
    raw.add("d", photo_png(3), VAL[1])
    raw.add("e", encode(photo(3), compress_level=1), VAL[2], rank=2)
    raw.add("f", photo_png(4), VAL[3])
    workspace = raw.write()
    dedupe(workspace, val_fraction=0.5)
    assert splits(workspace) == {TRAIN[0]: "train"} | dict.fromkeys(VAL[:3], "train") | {
        VAL[3]: "val"
    }


def test_captions_of_one_image_are_in_one_split(raw: RawStore) -> None:
    raw.add("a", photo_png(1), TRAIN[0], captions=json.dumps([TRAIN[0], VAL[0]]))
    raw.add("b", photo_png(2), VAL[1], captions=json.dumps([VAL[1], VAL[2]]))
    raw.add("c", None, TRAIN[1], captions=json.dumps([TRAIN[1], VAL[3]]))
    workspace = raw.write()
    dedupe(workspace, val_fraction=0.5)
    found = splits(workspace)
    assert (found[TRAIN[0]], found[VAL[0]]) == ("train", "train")
    assert (found[VAL[1]], found[VAL[2]]) == ("val", "val")
    assert found[VAL[3]] == "val"  # its image did not come: nothing links it


def test_near_copies_link_only_where_they_are_looked_for(raw: RawStore) -> None:
    raw.add("a", photo_png(1), TRAIN[0])
    raw.add("b", near(1), VAL[0])
    workspace = raw.write()
    dedupe(workspace, val_fraction=0.5, near_duplicates="off")
    assert splits(workspace) == {TRAIN[0]: "train", VAL[0]: "val"}
    dedupe(workspace, val_fraction=0.5, near_duplicates="flag")
    assert splits(workspace) == {TRAIN[0]: "train", VAL[0]: "train"}


def test_images_that_can_not_be_used_link_nothing(raw: RawStore) -> None:
    raw.add("a", photo_png(1), TRAIN[0])
    raw.add("b", photo_png(1)[:-30], VAL[0])
    raw.add("c", photo_png(5), VAL[0])
    raw.add("d", None, VAL[1])
    workspace = raw.write()
    dedupe(workspace, val_fraction=0.5)
    found = splits(workspace)
    assert (found[TRAIN[0]], found[VAL[0]], found[VAL[1]]) == ("train", "val", "val")


@pytest.mark.parametrize(
    ("near_duplicates", "kept_keys", "clusters"),
    [
        ("flag", {"a", "b", "c"}, "aac"),
        ("drop", {"a", "c"}, "aac"),
        ("off", {"a", "b", "c"}, "abc"),
    ],
)
def test_near_copies_are_flagged_dropped_or_not_looked_for(
    near_duplicates: str, kept_keys: set[str], clusters: str, raw: RawStore
) -> None:
    raw.add("a", photo_png(1), "x", rank=0)
    raw.add("b", near(1), "x", rank=1)
    raw.add("c", photo_png(2), "x", rank=2)
    workspace = raw.write()
    report = dedupe(workspace, near_duplicates=near_duplicates)
    rows = kept(workspace)
    assert set(rows) == kept_keys
    assert {key: row["cluster"] for key, row in rows.items()} == {
        key: cluster for key, cluster in zip("abc", clusters, strict=True) if key in kept_keys
    }
    assert report.counts["kept"] == len(kept_keys)
    if near_duplicates == "drop":
        assert (rejected(workspace)["b"]["reason"], rejected(workspace)["b"]["stands_for"]) == (
            "near_duplicate",
            "a",
        )


@pytest.mark.parametrize("distance", [2, 4, 6])
def test_near_is_up_to_the_radius_and_no_further(distance: int, raw: RawStore) -> None:
    raw.add("a", photo_png(1), "x", rank=0)
    for brighter in range(10, 120, 5):
        raw.add(f"c{brighter:03}", changed(1, brighter), "x", rank=1)
    dedupe(raw.write(), near_duplicates="off")
    hashes = {key: row["phash"] for key, row in kept(Workspace(raw.root)).items()}
    fitting = [key for key, h in hashes.items() if (h ^ hashes["a"]).bit_count() == distance]
    raw.rows = [row for row in raw.rows if row["key"] in ("a", fitting[0])]
    workspace = raw.write()
    for radius in (distance - 1, distance, distance + 1):
        dedupe(workspace, radius=radius)
        cluster = kept(workspace)[fitting[0]]["cluster"]
        assert cluster == ("a" if radius >= distance else fitting[0]), radius


@pytest.mark.parametrize("rank", [0, 1, 62, 63])
def test_a_caption_knows_the_ranks_that_are_kept(rank: int, raw: RawStore) -> None:
    raw.add("a", photo_png(1), "x", rank=rank)
    raw.add("b", photo_png(1), "x", rank=rank + 1)
    raw.add("c", None, "x", rank=5)
    workspace = raw.write()
    dedupe(workspace)
    (row,) = pq.read_table(workspace.dedupe / "captions.parquet").to_pylist()
    assert (row["images"], row["ranks"]) == (1, 1 << rank)


@pytest.mark.parametrize("rank", [-1, 64, 65, None])
def test_a_rank_that_has_no_bit_is_left_out(rank: Any, raw: RawStore) -> None:
    raw.add("a", photo_png(1), "x", rank=rank)
    workspace = raw.write()
    dedupe(workspace)
    (row,) = pq.read_table(workspace.dedupe / "captions.parquet").to_pylist()
    assert (row["images"], row["ranks"]) == (1, 0)

"""The counts of a run, by values: rows, reasons, captions, clusters within and across captions."""

from __future__ import annotations

from typing import Any

from pipeline.core.storage import read_manifest
from pipeline.core.workspace import Workspace
from tests.dedupe.test_links import TRAIN, VAL
from tests.helpers.dedupe import RawStore, dedupe, encode, photo, photo_png


def fill(raw: RawStore) -> Workspace:
    """Three clusters: of two images of a caption, of two of two captions, of three of one."""

    def twin(seed: int, quality: int) -> bytes:
        return encode(photo(seed), "JPEG", quality=quality)

    raw.add("a1", photo_png(1), TRAIN[0], rank=0)
    raw.add("a2", twin(1, 90), TRAIN[0], rank=1)
    raw.add("b1", photo_png(2), TRAIN[0], rank=2)
    raw.add("b2", twin(2, 90), TRAIN[1], rank=0)
    raw.add("c1", photo_png(3), TRAIN[1], rank=1)
    raw.add("c2", twin(3, 90), TRAIN[1], rank=2)
    raw.add("c3", twin(3, 80), TRAIN[1], rank=3)
    raw.add("d", photo_png(4), VAL[0])
    raw.add("e", None, VAL[1])
    raw.add("f", photo_png(4), VAL[0], rank=1)
    return raw.write()


def details(workspace: Workspace) -> dict[str, Any]:
    return dict(read_manifest(workspace.dedupe, "dedupe").details)


def test_rows_are_kept_or_rejected_for_a_reason_and_none_has_failed(raw: RawStore) -> None:
    report = dedupe(fill(raw), val_fraction=0.5)
    assert report.counts == {
        "rows": 10,
        "kept": 8,
        "rejected": 2,
        "failed": 0,
        "not_fetched": 1,
        "duplicate_bytes": 1,
    }


def test_clusters_are_counted_within_and_across_captions(raw: RawStore) -> None:
    workspace = fill(raw)
    dedupe(workspace, val_fraction=0.5)
    found = details(workspace)["near_duplicates"]
    assert found["clusters_within_captions"] == 2
    assert found["images_within_captions"] == 5
    assert found["clusters_across_captions"] == 1
    assert found["images_across_captions"] == 2
    largest = [(row["cluster"], row["images"], row["captions"]) for row in found["largest"]]
    assert largest == [("c1", 3, 1), ("a1", 2, 1), ("b2", 2, 2)]


def test_captions_count_where_they_have_an_image(raw: RawStore) -> None:
    workspace = fill(raw)
    dedupe(workspace, val_fraction=0.5)
    found = details(workspace)
    assert found["captions"] == {"with_images": 3, "val_with_images": 1}
    assert found["splits"] == {"train": 7, "val": 1}


def test_sizes_are_counted_and_all_but_the_fifty_most_common_are_one_number(raw: RawStore) -> None:
    for number in range(52):
        for rank in range(2 if number < 50 else 1):
            image = encode(photo(100 * rank + number, 40, 60 + number), "PNG")
            raw.add(f"s{number}-{rank}", image, TRAIN[0], rank=rank)
    workspace = raw.write()
    dedupe(workspace)
    sizes = details(workspace)["sizes"]
    assert sizes == {f"{60 + number}x40": 2 for number in range(50)} | {"other": 2}

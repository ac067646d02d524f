"""Several views of an image: each is a row of codes of the same sample."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow.parquet as pq
import webdataset

from pipeline.core.ownership import reopen
from pipeline.shard.code_tables import find_views
from pipeline.shard.config import ShardConfig
from pipeline.shard.run import run
from pipeline.webdata.reader import ShardReader

VIEWS = ("center", "flip", "top_left")


def configure(world: Any) -> ShardConfig:
    return ShardConfig(workspace=world.root, text_seq_len=24, max_samples=10)


def save_views(world: Any) -> dict[str, list[list[int]]]:
    """Give every image three views; returns their codes by pixel hash."""
    world.views = VIEWS
    world.save()
    table = world.workspace.codes("tiny", "f" * 64) / "00000.parquet"
    codes: dict[str, dict[str, list[int]]] = {}
    for row in pq.read_table(table).to_pylist():
        codes.setdefault(row["pixel_sha256"], {})[row["view"]] = row["codes"]
    return {pixels: [found[view] for view in VIEWS] for pixels, found in codes.items()}


def test_codes_npy_holds_a_row_for_each_view(world: Any) -> None:
    expected = save_views(world)
    run(configure(world))
    folder = world.workspace.shards("default")
    url = str(folder / "val/000000.tar")
    for sample in webdataset.WebDataset(url, shardshuffle=False).decode():
        assert sample["codes.npy"].tolist() == expected[sample["json"]["pixel_sha256"]]
    assert ShardReader(folder, "train").index.views == VIEWS
    assert "3 views (center, flip, top_left) of 16 codes" in (folder / "README.md").read_text()


def test_the_reader_gathers_the_requested_view(world: Any) -> None:
    expected = save_views(world)
    run(configure(world))
    reader = ShardReader(world.workspace.shards("default"), "train")
    for row in (0, 17, len(reader) - 1):
        codes = expected[reader.sample(row).record["pixel_sha256"]]
        assert reader.sample(row).codes.tolist() == codes[0]
        assert [reader.gather([row], view).codes_BN[0].tolist() for view in range(3)] == codes
    rows, views = np.array([3, 3, 4]), np.array([2, 0, 1])
    hashes = [reader.sample(int(row)).record["pixel_sha256"] for row in rows]
    assert reader.gather(rows, views).codes_BN.tolist() == [
        expected[pixels][view] for pixels, view in zip(hashes, views.tolist(), strict=True)
    ]


def test_training_sees_every_view_over_the_epochs_and_validation_the_first(world: Any) -> None:
    expected = save_views(world)
    run(configure(world))
    folder = world.workspace.shards("default")
    for split, count in (("train", 3), ("val", 1)):
        reader = ShardReader(folder, split)  # type: ignore[arg-type]
        shown: dict[int, set[int]] = {row: set() for row in range(len(reader))}
        for epoch in range(40):
            for batch in reader.batches(batch_size=4, seed=0, epoch=epoch, drop_last=False):
                for row, codes in zip(batch.rows.tolist(), batch.codes_BN.tolist(), strict=True):
                    pixels = reader.sample(row).record["pixel_sha256"]
                    shown[row].add(expected[pixels].index(codes))
        assert {len(views) for views in shown.values()} == {count}


def test_an_image_without_one_of_the_views_is_left_out(world: Any) -> None:
    row = next(r for r in world.rows if r["key"] == "key_00009")
    world.without_view = {row["pixel_sha256"]: "flip"}
    world.views = VIEWS
    world.save()
    report = run(configure(world))
    assert report.counts["failed"] == 1
    left_out = pq.read_table(world.workspace.shards("default") / "left_out.parquet").to_pylist()
    assert [(r["key"], r["reason"]) for r in left_out] == [("key_00009", "no_codes")]
    assert "views center, flip, top_left" in left_out[0]["detail"]


def test_a_view_added_later_assigns_everything_again(world: Any) -> None:
    run(configure(world))
    save_views(world)
    run(configure(world))
    again = world.shard_bytes()
    assert ShardReader(world.workspace.shards("default"), "train").index.views == VIEWS
    reopen(world.workspace.shards("default"), "shards")
    (world.workspace.shards("default") / "index.json").unlink()
    run(configure(world))
    assert world.shard_bytes() == again


def test_center_comes_first_and_the_others_by_name(world: Any) -> None:
    world.views = ("top_left", "flip", "bottom_left", "center")
    world.save()
    table = world.workspace.codes("tiny", "f" * 64) / "00000.parquet"
    assert find_views((table,)) == ("center", "bottom_left", "flip", "top_left")
    assert find_views(()) == ("center",)

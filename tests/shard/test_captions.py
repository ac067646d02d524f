"""Captions with more ids than a shard holds, at the very limit, and images without codes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipeline.core.errors import ConfigError
from pipeline.models.tokenizers.load import load_tokenizer
from pipeline.shard.config import ShardConfig
from pipeline.shard.run import run

MakeWorld = Callable[..., Any]


@pytest.fixture
def world(make_world: MakeWorld) -> Any:
    return make_world(images=16)


def longest(world: Any) -> tuple[int, int]:
    """The ids of the longest captions, and how many images have as many."""
    tokenizer = load_tokenizer(world.workspace.tokenizer("bpe"))
    lengths = [len(ids) for ids in tokenizer.ids([row["caption"] for row in world.rows])]
    return max(lengths), lengths.count(max(lengths))


def left_out(world: Any) -> list[tuple[str, str]]:
    table = pq.read_table(world.workspace.shards("default") / "left_out.parquet")
    return [(row["status"], row["reason"]) for row in table.to_pylist()]


@pytest.mark.parametrize("long_captions", ["truncate", "reject", "fail"])
def test_a_caption_with_as_many_ids_as_there_is_room_for_is_not_long(
    long_captions: Any, world: Any
) -> None:
    length, _ = longest(world)
    options = {"text_seq_len": length, "long_captions": long_captions}
    counts = run(ShardConfig(workspace=world.root, **options)).counts
    assert (counts["written"], counts.get("long_captions", 0)) == (16, 0)


def test_with_one_id_more_it_is_cut_left_out_or_ends_the_stage(world: Any) -> None:
    length, images = longest(world)
    counts = run(ShardConfig(workspace=world.root, text_seq_len=length - 1)).counts
    assert (counts["written"], counts["rejected"], counts["long_captions"]) == (16, 0, images)
    rejecting = ShardConfig(workspace=world.root, text_seq_len=length - 1, long_captions="reject")
    counts = run(rejecting).counts
    assert (counts["written"], counts["rejected"], counts["failed"]) == (16 - images, images, 0)
    assert left_out(world) == [("rejected", "long_caption")] * images
    failing = ShardConfig(workspace=world.root, text_seq_len=length - 1, long_captions="fail")
    with pytest.raises(ConfigError):
        run(failing)


def test_an_image_without_codes_has_failed(world: Any) -> None:
    world.without_codes = {"key_00003"}
    world.save()
    counts = run(ShardConfig(workspace=world.root, text_seq_len=24)).counts
    assert (counts["images"], counts["written"]) == (16, 15)
    assert (counts["rejected"], counts["failed"]) == (0, 1)
    assert left_out(world) == [("failed", "no_codes")]

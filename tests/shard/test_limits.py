"""A shard is full at its very limit: of samples, of bytes."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest

from pipeline.shard.config import ShardConfig
from pipeline.shard.run import run
from pipeline.webdata.index import read_index

MakeWorld = Callable[..., Any]


def shards(world: Any, **options: Any) -> list[tuple[int, int]]:
    """Samples and bytes of each training shard; an earlier layout is left behind."""
    name = "-".join(f"{key[:7]}{value}" for key, value in options.items()).replace("_", "")
    run(ShardConfig(workspace=world.root, name=name, text_seq_len=24, **options))
    entries = read_index(world.workspace.shards(name)).shards["train"]
    return [(entry.nsamples, entry.filesize) for entry in entries]


@pytest.fixture
def world(make_world: MakeWorld) -> Any:
    """16 images: 14 to train on."""
    return make_world(images=16)


@pytest.mark.parametrize(
    ("max_samples", "sizes"), [(6, [6, 6, 2]), (7, [7, 7]), (13, [13, 1]), (14, [14]), (15, [14])]
)
def test_a_shard_takes_exactly_the_samples_that_it_may(
    max_samples: int, sizes: list[int], world: Any
) -> None:
    assert [number for number, _ in shards(world, max_samples=max_samples)] == sizes


def test_a_shard_takes_samples_up_to_the_very_byte(
    world: Any, caplog: pytest.LogCaptureFixture
) -> None:
    ((_, whole),) = shards(world, max_samples=100)
    assert len(shards(world, max_bytes=whole)) == 1
    assert len(shards(world, max_bytes=whole - 1)) == 2
    assert all(size <= whole - 1 for _, size in shards(world, max_bytes=whole - 1))
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING and "more than" in r.msg]


def test_one_sample_at_the_limit_is_no_warning_and_one_byte_less_is(
    world: Any, caplog: pytest.LogCaptureFixture
) -> None:
    sizes = [size for _, size in shards(world, max_samples=1)]
    caplog.clear()
    shards(world, max_bytes=max(sizes))
    assert "its only sample is larger" not in caplog.text
    shards(world, max_bytes=max(sizes) - 1)
    assert "its only sample is larger" in caplog.text

"""A damaged shard stops training with its name; with --skip-corrupt it is skipped and counted."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pipeline.core.errors import ContractError
from pipeline.core.workspace import Workspace
from pipeline.train.config import TrainConfig
from pipeline.train.run import run
from pipeline.webdata.index import read_index

MakeConfig = Callable[..., TrainConfig]


def test_a_damaged_shard_is_named_and_skipped_only_if_asked(
    workspace: Workspace, make_config: MakeConfig
) -> None:
    index = read_index(workspace.shards("default"))
    entry = index.shards["val"][0]
    tar = workspace.shards("default") / entry.url
    data = bytearray(tar.read_bytes())
    data[600] ^= 1
    tar.write_bytes(data)
    with pytest.raises(ContractError, match=entry.url):
        run(make_config(steps=2))
    report = run(make_config(steps=2, skip_corrupt=True))
    assert report.outcome == "done"
    assert report.counts["samples_skipped"] == entry.nsamples

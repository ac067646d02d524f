"""Shards whose images are converted on Ray have the bytes of those made here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pipeline.core.contracts import StageReport
from pipeline.core.errors import ContractError
from pipeline.shard.config import ShardConfig
from pipeline.shard.run import run
from tests.helpers.shards import World


def shard(world: World, **options: Any) -> StageReport:
    return run(ShardConfig(workspace=world.workspace.root, text_seq_len=16, **options))


def test_without_images_no_cluster_is_asked_for(world: World) -> None:
    assert shard(world, engine="ray", ray_address="127.0.0.1:1").outcome == "done"


@pytest.mark.slow
def test_the_same_bytes_on_ray(
    make_world: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    here, there = make_world("here"), make_world("there")
    shard(here, images="jpg:90")
    shard(there, images="jpg:90", engine="ray", workers=2)
    assert there.shard_bytes() == here.shard_bytes()


@pytest.mark.slow
def test_an_error_on_ray_is_the_error_of_the_stage(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    (world.workspace.segments / "00000.tar").write_bytes(b"")
    with pytest.raises(ContractError, match="does not match the tables"):
        shard(world, images="png", engine="ray", workers=1)

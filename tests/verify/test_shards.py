"""Shards are read completely: ids and codes in range, number of samples correct, lengths measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.core.inventory import Folder, find_folders
from pipeline.core.workspace import Workspace
from pipeline.shard.config import ShardConfig
from pipeline.shard.run import run
from pipeline.verify.check import check_contents
from pipeline.verify.shards import _lengths


@pytest.fixture
def workspace(world: Any) -> Workspace:
    run(ShardConfig(workspace=world.root, text_seq_len=24, max_samples=20))
    found: Workspace = world.workspace
    return found


def shards_folder(workspace: Workspace) -> Folder:
    (folder,) = (f for f in find_folders(workspace.root) if f.contract == "shards")
    return folder


def look(workspace: Workspace) -> tuple[list[str], list[Any]]:
    faults, facts = check_contents(shards_folder(workspace), workspace, 0)
    return list(map(str, faults)), list(facts)


def test_intact_shards_are_measured(workspace: Workspace) -> None:
    problems, (train, val) = look(workspace)
    assert problems == []
    assert (train["samples"], val["samples"]) == (52, 8)
    assert 0 < train["token ids, median"] <= train["most"] <= 24
    assert train["codebook used"].endswith("of 512")
    assert 1 < train["perplexity"] <= 512


def patch(path: Path, what: bytes, beyond: int) -> None:
    """Set the first number after the npy header that follows `what` to `beyond`."""
    data = bytearray(path.read_bytes())
    start = data.index(b"\x93NUMPY", data.index(what))
    place = start + 10 + int.from_bytes(data[start + 8 : start + 10], "little")
    data[place : place + 2] = beyond.to_bytes(2, "little")
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("member", "what", "last"), [(b".codes.npy", "code", 511), (b".tokens.npy", "token id", 299)]
)
def test_values_out_of_range_are_named_with_their_shard(
    workspace: Workspace, member: bytes, what: str, last: int
) -> None:
    folder = shards_folder(workspace)
    patch(folder.path / "val/000000.tar", member, 600)
    problems, _ = look(workspace)
    assert problems == [f"shards/default/val/000000.tar has the {what} 600; the last one is {last}"]


def test_a_wrong_number_of_samples_is_found(workspace: Workspace) -> None:
    path = shards_folder(workspace).path / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["counts"]["train"] = 51
    path.write_text(json.dumps(manifest))
    expected = ["shards/default/index.json lists 52 samples of train, expected 51"]
    assert look(workspace)[0] == expected


def test_a_damaged_index_is_a_fault_and_no_crash(workspace: Workspace) -> None:
    (shards_folder(workspace).path / "index.json").write_text("{}")
    assert ["doesn't match the files" in problem for problem in look(workspace)[0]] == [True]


def test_lengths_end_at_the_last_id_that_is_not_padding() -> None:
    tokens = np.array([[5, 0, 7, 0], [0, 0, 0, 0], [1, 2, 3, 4]], dtype=np.int32)
    assert _lengths(tokens).tolist() == [3, 0, 4]

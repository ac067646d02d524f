"""An index that names files outside its folder: none of them is opened."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from pipeline.core.errors import ContractError
from pipeline.webdata.index import INDEX_NAME, read_index
from pipeline.webdata.reader import ShardReader


def change(folder: Path, field: str, value: object) -> None:
    """Change a field of the first training shard, or of the tokenizer."""
    index: dict[str, Any] = json.loads((folder / INDEX_NAME).read_bytes())
    place = index["tokenizer"] if field == "file" else index["shardlist"][0]
    place[field] = value
    (folder / INDEX_NAME).write_text(json.dumps(index))


OUTSIDE = ["/dev/zero", "/etc/passwd", "../secret", "train/../../secret", "", ".", "train", "a//b"]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("path", OUTSIDE)
@pytest.mark.parametrize("field", ["url", "table", "file"])
@pytest.mark.parametrize("skip_corrupt", [True, False])
def test_a_path_that_leads_elsewhere_is_refused(
    shards: Path, field: str, path: str, skip_corrupt: bool
) -> None:
    (shards.parent / "secret").write_text("mine")
    change(shards, field, path)
    with pytest.raises(ContractError, match=r"index\.json names the path"):
        ShardReader(shards, "train", skip_corrupt=skip_corrupt)


@pytest.mark.timeout(60)
def test_a_pipe_or_a_link_to_elsewhere_in_the_place_of_a_shard_is_refused(shards: Path) -> None:
    tar = shards / "train/000001.tar"
    (shards.parent / "secret").write_bytes(tar.read_bytes())
    tar.unlink()
    tar.symlink_to(shards.parent / "secret")
    with pytest.raises(ContractError, match="outside"):
        read_index(shards)
    tar.unlink()
    os.mkfifo(tar)
    with pytest.raises(ContractError, match="a folder or a device"):
        read_index(shards)
    tar.unlink()
    tar.symlink_to("/dev/zero")
    change(shards, "filesize", 0)
    with pytest.raises(ContractError, match="outside"):
        read_index(shards)


def test_links_within_the_folder_and_to_it_are_followed(shards: Path) -> None:
    tar = shards / "train/000001.tar"
    tar.rename(shards / "train/other.tar")
    tar.symlink_to("other.tar")
    (shards.parent / "linked").symlink_to(shards)
    assert len(ShardReader(shards.parent / "linked", "train")) == 27


@pytest.mark.parametrize("field", ["url", "table", "file"])
def test_a_file_that_is_named_twice_is_refused(shards: Path, field: str) -> None:
    change(shards, field, "train/000001.tar")
    with pytest.raises(ContractError, match=r"names the file 'train/000001\.tar' twice"):
        read_index(shards)

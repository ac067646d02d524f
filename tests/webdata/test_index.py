"""An index that names files outside its folder: none of them is opened."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.core.errors import ContractError
from pipeline.webdata.index import INDEX_NAME, read_index
from pipeline.webdata.keys import read_table
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


@pytest.mark.parametrize(
    ("num_codes", "grid"), [(15, [4, 4]), (17, [4, 4]), (16, [4, 3]), (16, [5, 4])]
)
def test_codes_are_as_many_as_the_grid_has(num_codes: int, grid: list[int], shards: Path) -> None:
    index: dict[str, Any] = json.loads((shards / INDEX_NAME).read_bytes())
    (shards / INDEX_NAME).write_text(json.dumps(index | {"num_codes": num_codes, "grid": grid}))
    with pytest.raises(ContractError, match=f"num_codes is {num_codes}, expected the grid's"):
        read_index(shards)


@pytest.mark.parametrize(("more", "refused"), [(0, False), (1, True), (-(10**9), True)])
def test_a_table_points_into_its_tar_to_the_last_byte(
    more: int, refused: bool, shards: Path
) -> None:
    (entry, *_) = read_index(shards).shards["train"]
    table = np.load(shards / entry.table)
    table[-1, -1, 1] = 100
    table[-1, -1, 0] = entry.filesize - 100 + more
    np.save(shards / entry.table, table)
    if not refused:
        assert read_table(shards, entry)[-1, -1].tolist() == [entry.filesize - 100, 100]
        return
    with pytest.raises(ContractError, match="points outside"):
        read_table(shards, entry)


def test_a_table_begins_after_the_first_header(shards: Path) -> None:
    (entry, *_) = read_index(shards).shards["train"]
    table = np.load(shards / entry.table)
    assert table[0, 0, 0] == 512
    table[0, 0, 0] = 511
    np.save(shards / entry.table, table)
    with pytest.raises(ContractError, match="points outside"):
        read_table(shards, entry)

"""Codes are found by the hash of their pixels, and every code is checked against its codebook."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.core.errors import ConfigError, ContractError
from pipeline.core.storage import file_entry, read_manifest
from pipeline.shard.codes import CodesFile
from pipeline.shard.config import ShardConfig
from pipeline.shard.run import run

VIEWS = ("center", "left")
HASHES = [f"{number:064x}" for number in (3, 5, 9)]
NUM_CODES = 4


@pytest.fixture
def codes(tmp_path: Path) -> Iterator[CodesFile]:
    hashes = np.array(HASHES, dtype="S64")
    made = CodesFile(tmp_path / "codes", hashes, VIEWS, NUM_CODES)
    yield made
    made.close()


def some(number: int) -> bytes:
    return np.full(NUM_CODES, number, dtype="<u2").tobytes()


def write(codes: CodesFile, *places: tuple[int, int]) -> str | None:
    """Write codes of (image, view), each of the value 10 · image + view."""
    hashes = np.array([HASHES[image] for image, _ in places], dtype="S64")
    views = np.array([view for _, view in places])
    return codes.write(hashes, views, b"".join(some(10 * i + v) for i, v in places))


def test_codes_come_back_by_image_with_the_views_in_their_order(codes: CodesFile) -> None:
    places = [(image, view) for view in (1, 0) for image in (2, 0, 1)]
    assert write(codes, *places) is None
    assert codes.find(HASHES).tolist() == [0, 1, 2]
    for image in range(3):
        assert codes.read(image) == some(10 * image) + some(10 * image + 1)


def test_an_image_without_one_of_its_views_is_not_found(codes: CodesFile) -> None:
    write(codes, (0, 0), (0, 1), (1, 0), (2, 1))
    assert codes.find(HASHES).tolist() == [0, -1, -1]


def test_hashes_that_are_not_there_are_not_found_wherever_they_would_be(codes: CodesFile) -> None:
    write(codes, *((image, view) for image in range(3) for view in range(2)))
    others = [f"{number:064x}" for number in (0, 4, 7, 10)]
    assert codes.find([*others, HASHES[2]]).tolist() == [-1, -1, -1, -1, 2]


def test_without_codes_nothing_is_found(tmp_path: Path) -> None:
    codes = CodesFile(tmp_path / "codes", np.zeros(0, "S64"), VIEWS, NUM_CODES)
    assert codes.find(HASHES).tolist() == [-1, -1, -1]
    codes.close()


@pytest.mark.parametrize("view", [0, 1])
def test_a_view_that_comes_twice_is_named(view: int, codes: CodesFile) -> None:
    assert write(codes, (0, 0), (1, view)) is None
    assert write(codes, (2, 0), (1, view)) == HASHES[1]


def test_a_view_that_comes_twice_at_once_is_named(codes: CodesFile) -> None:
    assert write(codes, (0, 0), (2, 1), (1, 1), (2, 1)) == HASHES[2]
    assert codes.find(HASHES).tolist() == [-1, -1, -1]


# --- The stage -----------------------------------------------------------------------------------


def rewrite_codes(world: Any, change: Callable[[list[dict[str, Any]]], object]) -> None:
    """Change the rows of the table of codes, with its hash."""
    folder = world.workspace.codes("tiny", "f" * 64)
    path = folder / "00000.parquet"
    table = pq.read_table(path)
    rows = table.to_pylist()
    change(rows)
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), path)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"] = [vars(file_entry(path, folder))]
    (folder / "manifest.json").write_text(json.dumps(manifest))


def set_codec(world: Any, **facts: Any) -> None:
    path = world.workspace.codes("tiny", "f" * 64) / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["details"]["codec"] |= facts
    path.write_text(json.dumps(manifest))


def configure(world: Any) -> ShardConfig:
    return ShardConfig(workspace=world.root, text_seq_len=24)


@pytest.mark.parametrize(
    ("code", "tokens", "refused"),
    [(511, 512, False), (512, 512, True), (512, 513, False), (65_535, 65_536, False)],
)
def test_the_codes_of_a_codebook_are_those_below_its_size(
    code: int, tokens: int, refused: bool, make_world: Callable[..., Any]
) -> None:
    world = make_world(images=12)
    rewrite_codes(world, lambda rows: rows[3]["codes"].__setitem__(-1, code))
    set_codec(world, num_tokens=tokens)
    if not refused:
        assert run(configure(world)).counts["written"] == 12
        return
    with pytest.raises(ContractError, match=f"the code {code}; its codebook ends at {code - 1}"):
        run(configure(world))


@pytest.mark.parametrize(("tokens", "refused"), [(0, True), (65_536, False), (65_537, True)])
def test_a_codebook_has_1_to_65_536_codes(
    tokens: int, refused: bool, make_world: Callable[..., Any]
) -> None:
    world = make_world(images=12)
    set_codec(world, num_tokens=tokens)
    if not refused:
        assert run(configure(world)).outcome == "done"
        return
    with pytest.raises((ConfigError, ContractError), match="num_tokens"):
        run(configure(world))


@pytest.mark.parametrize("codes", [15, 17])
def test_a_row_with_one_code_more_or_fewer_than_the_grid_is_refused(
    codes: int, make_world: Callable[..., Any]
) -> None:
    world = make_world(images=12)
    rewrite_codes(world, lambda rows: rows[3].__setitem__("codes", [1] * codes))
    with pytest.raises(ContractError, match=f"a row of {codes} codes; its codec yields 4 × 4"):
        run(configure(world))


def test_a_view_of_the_same_pixels_twice_is_refused(make_world: Callable[..., Any]) -> None:
    world = make_world(images=12)
    rewrite_codes(world, lambda rows: rows.append(dict(rows[3])))
    with pytest.raises(ContractError, match="twice"):
        run(configure(world))


def test_the_counts_of_the_manifest_follow_the_law(make_world: Callable[..., Any]) -> None:
    world = make_world(images=12)
    world.without_codes = {"key_00003", "key_00004"}
    world.save()
    run(configure(world))
    counts = read_manifest(world.workspace.shards("default"), "shards").counts
    assert counts["images"] == 12
    assert counts["written"] == 10
    assert counts["rejected"] + counts["failed"] == 2

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.core.errors import ContractError
from pipeline.webdata.index import read_index
from pipeline.webdata.reader import ShardReader

Expected = Callable[[int], tuple[Any, Any]]


def test_rows_come_in_any_order(shards: Path, expected: Expected) -> None:
    reader = ShardReader(shards, "train")
    assert len(reader) == 27
    rows = [26, 0, 13, 13, 9, 10]
    batch = reader.gather(rows)
    assert batch.tokens_BT.dtype == batch.codes_BN.dtype == np.int32
    assert (batch.tokens_BT.shape, batch.codes_BN.shape) == ((6, 12), (6, 16))
    assert batch.rows.tolist() == rows
    for i, row in enumerate(rows):
        tokens, codes = expected(row)
        assert batch.tokens_BT[i].tolist() == tokens.tolist()
        assert batch.codes_BN[i].tolist() == codes.tolist()


def test_no_rows_yield_an_empty_batch(shards: Path) -> None:
    batch = ShardReader(shards, "train").gather([])
    assert (batch.tokens_BT.shape, batch.codes_BN.shape) == ((0, 12), (0, 16))


def test_batches_belong_to_the_caller(shards: Path) -> None:
    reader = ShardReader(shards, "train")
    reader.gather([1]).tokens_BT[:] = 7
    assert not (reader.gather([1]).tokens_BT == 7).all()


def test_a_sample_is_complete(shards: Path, expected: Expected) -> None:
    sample = ShardReader(shards, "train").sample(21)
    assert (sample.key, sample.caption, sample.record) == (
        "key_0021",
        "caption é 21",
        {"number": 21},
    )
    assert sample.tokens.tolist() == expected(21)[0].tolist()
    assert sample.codes.tolist() == expected(21)[1].tolist()
    assert sample.image is None


def test_a_row_out_of_range_is_an_index_error(shards: Path) -> None:
    reader = ShardReader(shards, "val")
    for row in (-1, 3):
        with pytest.raises(IndexError):
            reader.sample(row)


def test_splits_are_separate(shards: Path) -> None:
    reader = ShardReader(shards, "val")
    assert [reader.sample(row).key for row in range(len(reader))] == [
        "key_1000",
        "key_1001",
        "key_1002",
    ]


def test_an_epoch_shows_every_sample_once(shards: Path) -> None:
    reader = ShardReader(shards, "train")
    rows = [
        row
        for batch in reader.batches(batch_size=4, seed=1, epoch=0, drop_last=False)
        for row in batch.rows.tolist()
    ]
    assert sorted(rows) == list(range(27))
    assert rows == reader.order(seed=1, epoch=0).tolist()


def test_an_epoch_resumes_at_any_sample(shards: Path) -> None:
    reader = ShardReader(shards, "train")
    order = reader.order(seed=1, epoch=3).tolist()
    batches = list(reader.batches(batch_size=3, seed=1, epoch=3, start=5, rank=1, world_size=2))
    assert [b.rows.tolist() for b in batches] == [order[8:11], order[14:17], order[20:23]]


def test_the_index_is_read_as_written(shards: Path) -> None:
    index = read_index(shards)
    assert index.samples == {"train": 27, "val": 3}
    assert (index.grid, index.codec.name, index.tokenizer.file) == (
        (4, 4),
        "tiny",
        "tokenizer.json",
    )


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5000])


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGES: dict[str, Callable[[Path], None]] = {
    "cut short": cut_short,
    "a flipped bit": flip_a_bit,
    "missing": Path.unlink,
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["train/000001.tar", "train/000001.idx.npy"])
def test_a_damaged_file_is_named(shards: Path, name: str, damage: str) -> None:
    DAMAGES[damage](shards / name)
    with pytest.raises(ContractError, match=name):
        ShardReader(shards, "train")
    assert len(ShardReader(shards, "val")) == 3


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_shards_are_left_out_and_counted_on_request(
    shards: Path, damage: str, caplog: pytest.LogCaptureFixture, expected: Expected
) -> None:
    DAMAGES[damage](shards / "train/000001.tar")
    with caplog.at_level(logging.WARNING):
        reader = ShardReader(shards, "train", skip_corrupt=True)
    assert reader.skipped == {"train/000001.tar": 10}
    assert "train/000001.tar" in caplog.text
    assert len(reader) == 17
    assert reader.sample(10).key == "key_0020"
    assert reader.gather([16]).codes_BN[0].tolist() == expected(26)[1].tolist()


def test_sizes_are_checked_even_without_hashes(shards: Path) -> None:
    cut_short(shards / "train/000001.tar")
    with pytest.raises(ContractError, match="bytes, its index expects"):
        ShardReader(shards, "train", check_hashes=False)


def test_shards_without_an_index_are_unfinished(shards: Path) -> None:
    (shards / "index.json").unlink()
    with pytest.raises(ContractError, match=r"has no index\.json"):
        ShardReader(shards, "train")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": "other", "version": 1}', "null"])
def test_a_foreign_index_is_refused(shards: Path, text: str) -> None:
    (shards / "index.json").write_text(text)
    with pytest.raises(ContractError, match=r"index\.json.* expected|index\.json is not JSON"):
        ShardReader(shards, "train")


def test_rows_are_those_from_0_to_the_last(shards: Path, expected: Expected) -> None:
    reader = ShardReader(shards, "train")
    for row in (0, len(reader) - 1):
        assert reader.sample(row).codes.tolist() == list(expected(row)[1])
    for row in (-1, len(reader), len(reader) + 1):
        with pytest.raises(IndexError, match=f"row {row} of 27"):
            reader.sample(row)

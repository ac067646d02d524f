"""`pipeline.data`: shards in a training loop of one's own."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from pipeline.core.errors import ConfigError, ContractError
from pipeline.data import ShardDataset, ShardRows
from tests.helpers.webdata import codes_of, tokens_of, write_shards

SAMPLES = 27


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    return write_shards(tmp_path / "shards")


def numbers(batches: object) -> list[int]:
    """Which samples came, by their codes."""
    known = {tuple(codes_of(n)): n for n in range(60)}
    return [
        known[tuple(row.tolist())]
        for _, codes_BN in batches  # type: ignore[attr-defined]
        for row in codes_BN
    ]


def test_rows_are_int64_tensors(shards: Path) -> None:
    rows = ShardRows(shards)
    tokens_T, codes_N = rows[4]
    assert tokens_T.dtype == codes_N.dtype == torch.int64
    assert tokens_T.tolist() == list(tokens_of(4))
    assert codes_N.tolist() == list(codes_of(4))
    assert rows[-1][1].tolist() == list(codes_of(SAMPLES - 1))
    with pytest.raises(IndexError):
        rows[SAMPLES]
    loader = DataLoader(rows, batch_size=5, shuffle=True)
    assert sorted(numbers(loader)) == list(range(SAMPLES))


@pytest.mark.parametrize("workers", [0, 1, 2, 3])
def test_an_epoch_is_the_same_for_any_number_of_workers(shards: Path, workers: int) -> None:
    dataset = ShardDataset(shards, batch_size=4, seed=5, drop_last=False)
    alone = numbers(dataset)
    loader = DataLoader(dataset, batch_size=None, num_workers=workers)
    assert numbers(loader) == alone
    assert sorted(alone) == list(range(SAMPLES))
    assert alone != sorted(alone)


def test_epochs_and_seeds_have_orders_of_their_own(shards: Path) -> None:
    dataset = ShardDataset(shards, batch_size=4, seed=5)
    first = numbers(dataset)
    assert numbers(dataset) == first
    dataset.set_epoch(1)
    assert numbers(dataset) != first
    assert numbers(ShardDataset(shards, batch_size=4, seed=6)) != first
    in_order = ShardDataset(shards, batch_size=4, shuffle=False)
    assert numbers(in_order) == list(range(24))


@pytest.mark.parametrize(("drop_last", "batches"), [(True, [3, 3]), (False, [4, 4])])
def test_ranks_share_out_each_batch(shards: Path, drop_last: bool, batches: list[int]) -> None:
    ranks = [
        ShardDataset(shards, batch_size=4, rank=rank, world_size=2, drop_last=drop_last)
        for rank in (0, 1)
    ]
    whole = ShardDataset(shards, batch_size=8, drop_last=drop_last)
    taken = [list(rank) for rank in ranks]
    assert [len(each) for each in taken] == batches == [len(each) for each in ranks]
    together = [numbers(pair) for pair in zip(*taken, strict=True)]
    assert together == [numbers([batch]) for batch in whole]


def test_a_run_resumes_under_another_batch_size(shards: Path) -> None:
    dataset = ShardDataset(shards, batch_size=4, seed=5, drop_last=False)
    dataset.set_epoch(2)
    whole = numbers(dataset)
    used = list(itertools.islice(dataset, 3))
    other = ShardDataset(shards, batch_size=3, seed=5, drop_last=False)
    other.load_state_dict(dataset.state_dict(batches=len(used)))
    assert numbers(used) + numbers(other) == whole
    assert len(other) == 5
    with pytest.raises(ConfigError, match="seed 5"):
        ShardDataset(shards, batch_size=3, seed=6).load_state_dict(dataset.state_dict())


def test_several_sets_are_weighted(shards: Path, tmp_path: Path) -> None:
    more = write_shards(tmp_path / "more", sizes=(4,))
    assert sorted(numbers(ShardDataset([shards, more], batch_size=1))) == sorted(
        [*range(SAMPLES), *range(4)]
    )
    weighted = numbers(ShardDataset({shards: 1.0, more: 2.5}, batch_size=1))
    counts = np.bincount(weighted, minlength=SAMPLES)
    assert counts[:4].sum() - 4 == 10
    assert sorted(counts[:4] - 1) == [2, 2, 3, 3]
    assert (counts[4:] == 1).all()


@pytest.mark.parametrize("weight", [0, -1, float("nan"), float("inf")])
def test_a_weight_that_is_none_is_refused(shards: Path, weight: float) -> None:
    with pytest.raises(ConfigError, match="weight above 0"):
        ShardRows({shards: weight})


def test_what_is_wrong_is_said(shards: Path, tmp_path: Path) -> None:
    with pytest.raises(ContractError, match=r"has no index\.json"):
        ShardRows(tmp_path)
    with pytest.raises(ConfigError, match="split is 'test'"):
        ShardRows(shards, "test")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="batch_size is 0"):
        ShardDataset(shards, batch_size=0)
    with pytest.raises(ConfigError, match="rank is 2"):
        ShardDataset(shards, batch_size=1, rank=2, world_size=2)


def test_workers_that_are_spawned_map_the_files_themselves(shards: Path) -> None:
    dataset = ShardDataset(shards, batch_size=4)
    alone = numbers(dataset)
    loader = DataLoader(dataset, batch_size=None, num_workers=1, multiprocessing_context="spawn")
    assert numbers(loader) == alone


def test_the_state_counts_samples_of_all_ranks(shards: Path) -> None:
    for rank in (0, 1):
        dataset = ShardDataset(shards, batch_size=4, seed=5, rank=rank, world_size=2)
        dataset.set_epoch(3)
        assert dataset.state_dict(batches=2) == {"seed": 5, "epoch": 3, "consumed": 16}
        assert dataset.state_dict(batches=100)["consumed"] == SAMPLES


@pytest.mark.parametrize(("weight", "rows"), [(0.1, 3), (0.5, 14), (1.0, 27), (1.1, 30), (2.5, 68)])
def test_a_weight_is_rounded_to_whole_rows(weight: float, rows: int, shards: Path) -> None:
    assert len(ShardRows({shards: weight})) == rows  # of 27


@pytest.mark.parametrize(
    ("field", "said"),
    [("codec", "codebook is 0000"), ("tokenizer", "tokenizer is 0000")],
)
def test_sets_of_another_codec_or_tokenizer_do_not_fit(
    field: str, said: str, shards: Path, tmp_path: Path
) -> None:
    other = write_shards(tmp_path / "other")
    index = json.loads((other / "index.json").read_bytes())
    index[field]["fingerprint"] = "0" * 64
    (other / "index.json").write_text(json.dumps(index))
    with pytest.raises(ConfigError, match=said):
        ShardRows([shards, other])

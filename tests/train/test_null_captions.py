"""`--null-cond-prob`: captions replaced by padding, as in DALLE-pytorch's forward pass."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from itertools import islice

import numpy as np
import pytest
import torch

from pipeline.core.workspace import Workspace
from pipeline.models.checkpoints.native import list_checkpoints, read_info
from pipeline.models.dalle.model import Dalle
from pipeline.train.config import TrainConfig
from pipeline.train.data import Position, stream_steps
from pipeline.train.feeding import Uploader
from pipeline.train.model import DallePytorchModel, new_model
from pipeline.train.run import run
from pipeline.webdata.index import read_index
from pipeline.webdata.order import draw_numbers
from pipeline.webdata.reader import ShardReader, TokenBatch
from tests.helpers.training import StoppedError, changed, log_of, stop_at, tree, write_shards
from tests.oracles.codecs import dalle_pytorch
from tests.oracles.dalle import randomise, stock_twin

MakeConfig = Callable[..., TrainConfig]
CPU = torch.device("cpu")
START = Position(epoch=0, consumed=0)
PLAIN = {"ff_dropout": 0.0, "attn_dropout": 0.0}


@pytest.fixture
def reader(workspace: Workspace) -> ShardReader:
    return ShardReader(workspace.shards("default"), "train")


def batches_of(reader: ShardReader, config: TrainConfig, steps: int = 5) -> list[TokenBatch]:
    stream = stream_steps(reader, config, START)
    return [batch for batches, _ in islice(stream, steps) for batch in batches]


def to_tensors(batch: TokenBatch) -> tuple[torch.Tensor, torch.Tensor]:
    uploaded = Uploader(device=CPU, vocabulary=100).upload(batch)
    return uploaded.tokens_BT, uploaded.codes_BN


def null_rows(batches: list[TokenBatch]) -> list[int]:
    """The rows whose caption is all padding, which none in the shards is."""
    return [row for b in batches for row in b.rows[(b.tokens_BT == 0).all(axis=1)].tolist()]


def test_the_loss_is_that_of_the_classs_own_null_cond_prob(
    workspace: Workspace, make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The class draws a new mask in each pass; here it is made to mask the same samples as ours."""
    write_shards(workspace, grid=(4, 4))  # the class's own codec makes powers of two
    reader = ShardReader(workspace.shards("default"), "train")
    module = importlib.import_module(f"{dalle_pytorch().__name__}.dalle_pytorch")
    config = make_config(null_cond_prob=0.5, **PLAIN)
    torch.manual_seed(0)
    model = Dalle(new_model(read_index(workspace.shards("default")), config.model))
    randomise(model)
    twin = stock_twin(model)
    masked = batches_of(reader, config)
    whole = batches_of(reader, changed(config, null_cond_prob=0.0))
    differing = 0
    for ours, theirs in zip(masked, whole, strict=True):
        assert ours.rows.tolist() == theirs.rows.tolist()
        mask_B = torch.from_numpy((ours.tokens_BT == 0).all(axis=1))
        asked: list[float] = []

        def mask(
            shape: tuple[int, ...],
            prob: float,
            device: object,
            mask_B: torch.Tensor = mask_B,
            asked: list[float] = asked,
        ) -> torch.Tensor:
            asked.append(prob)
            return mask_B

        monkeypatch.setattr(module, "prob_mask_like", mask)
        tokens_BT, codes_BN = to_tensors(theirs)
        expected = twin(tokens_BT.clone(), codes_BN, return_loss=True, null_cond_prob=0.5)
        assert asked == [0.5]
        found = model(*to_tensors(ours)).total
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
        differing += int(abs(model(tokens_BT, codes_BN).total - expected) > 1e-3)
    assert differing >= 4


def test_all_captions_go_with_the_classs_real_mask_of_1(
    workspace: Workspace, reader: ShardReader, make_config: MakeConfig
) -> None:
    config = make_config(null_cond_prob=1.0, **PLAIN)
    model = DallePytorchModel(new_model(read_index(workspace.shards("default")), config.model))
    (ours, *_), (theirs, *_) = (
        batches_of(reader, changed(config, null_cond_prob=share)) for share in (1.0, 0.0)
    )
    assert len(null_rows([ours])) == 8
    tokens_BT, codes_BN = to_tensors(theirs)
    expected = model.dalle(tokens_BT.clone(), codes_BN, return_loss=True, null_cond_prob=1.0)
    assert torch.equal(model(*to_tensors(ours)).total, expected)


def test_another_share_goes_in_every_pass_whatever_the_ranks_and_batches(
    reader: ShardReader, make_config: MakeConfig
) -> None:
    config = make_config(null_cond_prob=0.3)
    first, second = (
        null_rows(batches_of(reader, config)[:5]),
        null_rows(batches_of(reader, config, 10)[5:]),
    )
    assert first
    assert second
    assert set(first) != set(second)
    parts = [
        stream_steps(reader, changed(config, batch_size=4), START, rank=rank, world_size=2)
        for rank in range(2)
    ]
    ranks = [batch for part in parts for batches, _ in islice(part, 5) for batch in batches]
    assert sorted(null_rows(ranks)) == sorted(first)
    resumed, _ = next(stream_steps(reader, config, Position(epoch=0, consumed=24)))
    assert set(null_rows(resumed)) == set(first) & set(resumed[0].rows.tolist())


def test_the_numbers_are_even_and_do_not_go_with_the_order(reader: ShardReader) -> None:
    rows = np.arange(20_000)
    numbers = draw_numbers(rows, seed=3, epoch=1)
    assert np.histogram(numbers, bins=10, range=(0, 1))[0] == pytest.approx(2000, abs=200)
    assert (numbers < 0.1).mean() == pytest.approx(0.1, abs=0.01)
    again = draw_numbers(rows[::-1], seed=3, epoch=1)[::-1]
    assert np.array_equal(numbers, again)
    for other in (draw_numbers(rows, seed=4, epoch=1), draw_numbers(rows, seed=3, epoch=2)):
        assert abs(np.corrcoef(numbers, other)[0, 1]) < 0.03
    order = np.argsort(draw_numbers(rows[:40], seed=0, epoch=0))
    assert not np.array_equal(order, reader.order(seed=0, epoch=0))


def test_a_stopped_run_ends_in_the_same_bytes_and_says_how_it_was_trained(
    workspace: Workspace, make_config: MakeConfig
) -> None:
    config = make_config(null_cond_prob=0.25)
    run(config)
    whole = tree(workspace.run("tiny"))
    workspace.run("tiny").rename(workspace.root / "elsewhere")
    with pytest.raises(StoppedError):
        run(config, stop_at(8))
    run(config)
    assert tree(workspace.run("tiny")) == whole
    (*_, last) = list_checkpoints(workspace.run("tiny") / "checkpoints")
    assert read_info(last).training["null_cond_prob"] == 0.25
    assert "NULL_COND_PROB = 0.25" in (workspace.run("tiny") / "README.md").read_text()


def test_validation_keeps_its_captions(workspace: Workspace, make_config: MakeConfig) -> None:
    options = {"learning_rate": 0.0, "steps": 1, "val_every": 1, **PLAIN}
    for name, share in (("none", 0.0), ("all", 1.0)):
        run(make_config(name=name, null_cond_prob=share, **options))
    logs = [log_of(workspace.run(name)) for name in ("none", "all")]
    assert logs[0][0]["loss_text"] != logs[1][0]["loss_text"]
    assert logs[0][1] == logs[1][1]
    assert "val_loss" in logs[0][1]

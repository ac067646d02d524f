"""The validation loss is the mean over exactly the samples asked for, each of the same weight."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from pipeline.core.stop_signals import StopRequest
from pipeline.core.workspace import Workspace
from pipeline.models.dalle.model import DalleLoss
from pipeline.train.config import TrainConfig
from pipeline.train.distributed import Ranks, Stop
from pipeline.train.evaluation import validate
from pipeline.webdata.reader import ShardReader, TokenBatch

MakeConfig = Callable[..., TrainConfig]
ALONE = Ranks(kind="none", rank=0, size=1, device=torch.device("cpu"))


class Counted:
    """A loss that is the mean of the rows' numbers in their split, and what it was asked."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.rows: list[int] = []
        self.training: list[bool] = []

    def __call__(self, batch: TokenBatch) -> DalleLoss:
        self.rows += batch.rows.tolist()
        self.training.append(self.module.training)
        mean = torch.tensor(float(batch.rows.mean()))
        return DalleLoss(total=mean, text=2 * mean, image=3 * mean)


def look(
    workspace: Workspace, config: TrainConfig, ranks: Ranks = ALONE
) -> tuple[dict[str, float], Counted, ShardReader]:
    reader = ShardReader(workspace.shards("default"), "val")
    module = nn.Linear(1, 1)
    counted = Counted(module)
    stop = Stop(ranks, StopRequest())
    losses = validate(reader, ranks, counted, module, config=config, stop=stop)
    assert losses is not None
    assert module.training
    return losses, counted, reader


@pytest.mark.parametrize("samples", [1, 7, 8, 9, 1000])
@pytest.mark.parametrize("batch_size", [1, 3, 8, 20])
def test_the_first_samples_of_the_seeded_order_count_once_each(
    samples: int, batch_size: int, workspace: Workspace, make_config: MakeConfig
) -> None:
    config = make_config(val_samples=samples, batch_size=batch_size, seed=5)
    losses, counted, reader = look(workspace, config)
    expected = reader.order(seed=5, epoch=0)[:samples].tolist()
    assert len(expected) == min(samples, 8)
    assert counted.rows == expected
    mean = sum(expected) / len(expected)
    assert losses == pytest.approx(
        {"val_loss": mean, "val_loss_text": 2 * mean, "val_loss_image": 3 * mean}
    )


def test_nothing_is_dropped_while_validating(workspace: Workspace, make_config: MakeConfig) -> None:
    _, counted, _ = look(workspace, make_config(batch_size=4))
    assert counted.training == [False, False]


def test_a_request_to_stop_ends_it_without_a_loss(
    workspace: Workspace, make_config: MakeConfig
) -> None:
    reader, module = ShardReader(workspace.shards("default"), "val"), nn.Linear(1, 1)
    request = StopRequest()
    request.asked = True
    counted = Counted(module)
    found = validate(
        reader, ALONE, counted, module, config=make_config(), stop=Stop(ALONE, request)
    )
    assert (found, counted.rows, module.training) == (None, [], True)

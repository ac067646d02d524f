"""Out of memory: the error names a batch size that fits."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pipeline.core.errors import ModelError
from pipeline.core.workspace import Workspace
from pipeline.models.checkpoints.native import list_checkpoints
from pipeline.models.dalle.model import Dalle, DalleLoss
from pipeline.models.devices import is_out_of_memory, largest_that_fits
from pipeline.train.config import TrainConfig
from pipeline.train.run import run

MakeConfig = Callable[..., TrainConfig]


def room_for(samples: int, monkeypatch: pytest.MonkeyPatch, from_call: int = 1) -> None:
    """Let every forward pass with more samples fail as a full device does, from one call on."""
    healthy = Dalle.forward
    calls = iter(range(1, 10_000))

    def forward(self: Dalle, tokens_BT: Tensor, codes_BN: Tensor) -> DalleLoss:
        if next(calls) >= from_call and len(tokens_BT) > samples:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return healthy(self, tokens_BT, codes_BN)

    monkeypatch.setattr(Dalle, "forward", forward)


@pytest.mark.parametrize("room", [1, 3, 7])
def test_the_batch_size_that_would_fit_is_named(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    room_for(room, monkeypatch)
    steps = {1: 8, 3: 3, 7: 2}[room]
    with pytest.raises(
        ModelError, match=rf"{room} would fit.*--batch-size {room}.*--ga-steps {steps} "
    ):
        run(make_config())


def test_a_single_sample_that_does_not_fit_is_reported(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    room_for(0, monkeypatch)
    with pytest.raises(ModelError, match="a single sample does not fit either"):
        run(make_config())


def test_what_was_saved_before_stays(
    workspace: Workspace, make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    room_for(4, monkeypatch, from_call=8)
    with pytest.raises(ModelError, match="4 would fit"):
        run(make_config(val_every=0))
    assert [p.name for p in list_checkpoints(workspace.run("tiny") / "checkpoints")] == [
        "step-000005"
    ]


def test_the_allocator_of_the_cpu_is_understood() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


def test_other_errors_of_smaller_batches_are_not_hidden() -> None:
    def broken(samples: int) -> None:
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        largest_that_fits(broken, 8)

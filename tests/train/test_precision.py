"""What `--precision auto` is, and that a run keeps it."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from pipeline.core.errors import ModelError
from pipeline.core.storage import read_manifest
from pipeline.core.workspace import Workspace
from pipeline.models.checkpoints.native import list_checkpoints, read_info
from pipeline.models.dalle.model import DalleLoss
from pipeline.train.config import TrainConfig
from pipeline.train.distributed import Ranks
from pipeline.train.feeding import DeviceBatch
from pipeline.train.precision import allow_tf32, pick_precision
from pipeline.train.resume import keep_settled
from pipeline.train.run import run
from pipeline.train.state import _random_states, _restore_random
from pipeline.train.trainer import Trainer
from tests.helpers.training import log_of

MakeConfig = Callable[..., TrainConfig]
CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("name", "device", "has_bf16", "picked"),
    [
        ("auto", CPU, True, "fp32"),
        ("auto", CUDA, True, "bf16"),
        ("auto", CUDA, False, "fp32"),
        ("fp16", CUDA, True, "fp16"),
        ("bf16", CPU, False, "bf16"),
    ],
)
def test_auto_is_bf16_on_a_gpu_that_has_it(
    name: str, device: torch.device, has_bf16: bool, picked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def supported(including_emulation: bool = True) -> bool:
        return has_bf16 or including_emulation

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    assert pick_precision(name, device) == picked


@pytest.mark.parametrize(("device", "allowed"), [(CPU, False), (CUDA, True)])
def test_float32_on_cuda_uses_tf32(device: torch.device, allowed: bool) -> None:
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        allow_tf32(device)
        assert torch.backends.cuda.matmul.allow_tf32 == allowed
        assert torch.backends.cudnn.allow_tf32 == allowed
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def test_a_run_records_what_auto_was_and_keeps_it_elsewhere(
    workspace: Workspace, make_config: MakeConfig
) -> None:
    """A run that began in bf16 on a GPU goes on in bf16 on a CPU."""
    run(make_config(steps=2, val_every=0))
    assert read_manifest(workspace.run("tiny"), "run").config["precision"] == "fp32"
    bf16 = {"name": "gpu", "lr_decay": "constant", "val_every": 0, "precision": "bf16"}
    run(make_config(steps=2, **bf16))
    run(make_config(steps=3, **{**bf16, "precision": "auto"}))
    assert read_manifest(workspace.run("gpu"), "run").config["precision"] == "bf16"
    restarted = make_config(**{**bf16, "precision": "auto", "on_change": "restart"})
    kept = keep_settled(restarted, workspace.run("gpu"))
    assert kept.parallel.precision == "auto"


def test_options_that_are_given_are_not_those_of_an_earlier_run(
    workspace: Workspace, make_config: MakeConfig
) -> None:
    run(make_config(steps=2, val_every=0))
    given = make_config(precision="bf16", batch_size=3)
    assert keep_settled(given, workspace.run("tiny")) == given
    auto = keep_settled(make_config(batch_size="auto"), workspace.run("tiny"))
    assert (auto.parallel.precision, auto.schedule.batch_size) == ("fp32", 8)


# --- What goes wrong -----------------------------------------------------------------------------


def fail_at(step: int, error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    healthy, calls = Trainer.loss, itertools.count(1)

    def loss_of(trainer: Trainer, module: nn.Module, batch: DeviceBatch) -> DalleLoss:
        if next(calls) == step:
            raise error
        return healthy(trainer, module, batch)

    monkeypatch.setattr(Trainer, "loss", loss_of)


def test_a_gpu_that_fails_costs_the_steps_since_the_last_checkpoint(
    workspace: Workspace, make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(make_config(name="whole", val_every=0))
    with monkeypatch.context() as patch:
        fail_at(8, RuntimeError("CUDA error: unspecified launch failure\nmore"), patch)
        with pytest.raises(
            ModelError, match=r"failed after step 7 \(CUDA error: unspecified launch"
        ) as e:
            run(make_config(val_every=0))
    assert "The last checkpoint is safe: the same command resumes" in str(e.value)
    assert "more" not in str(e.value)
    assert read_info(list_checkpoints(workspace.run("tiny") / "checkpoints")[-1]).step == 5
    run(make_config(val_every=0))
    assert log_of(workspace.run("tiny")) == log_of(workspace.run("whole"))


def test_other_errors_are_not_blamed_on_the_gpu(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_at(3, RuntimeError("mat1 and mat2 shapes cannot be multiplied"), monkeypatch)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        run(make_config())


@pytest.mark.parametrize(("precision", "hint"), [("fp16", True), ("fp32", False)])
def test_a_model_that_overflows_in_fp16_is_told_of_bf16(
    precision: str, hint: bool, make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    healthy = Trainer.loss

    def overflow(trainer: Trainer, module: nn.Module, batch: DeviceBatch) -> DalleLoss:
        loss = healthy(trainer, module, batch)
        return loss._replace(total=loss.total * torch.inf)

    monkeypatch.setattr(Trainer, "loss", overflow)
    with pytest.raises(ModelError, match="loss inf") as error:
        run(make_config(precision=precision))
    assert ("--precision bf16, which does not overflow" in str(error.value)) == hint


def test_the_random_numbers_of_a_gpu_are_saved_and_restored(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A made-up GPU; `test_cuda` resumes on a real one."""
    states: dict[str, Any] = {"now": torch.tensor([3, 1, 4], dtype=torch.uint8)}
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: states["now"])
    monkeypatch.setattr(
        torch.cuda, "set_rng_state", lambda state, device: states.update(restored=state)
    )
    on_gpu = Ranks(kind="none", rank=0, size=1, device=CUDA)
    saved = _random_states(on_gpu)
    assert set(saved) == {"cpu", "cuda"}
    _restore_random(saved, on_gpu)
    assert states["restored"].tolist() == [3, 1, 4]
    states.pop("restored")
    _restore_random(saved, dataclasses.replace(on_gpu, device=CPU))
    assert "restored" not in states
    other = {"cuda.1": torch.tensor([9], dtype=torch.uint8)}
    _restore_random(saved | other, dataclasses.replace(on_gpu, rank=1))
    assert states["restored"].tolist() == [9]

"""A stopped run resumes as if it had not been interrupted, whatever its options."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.core.workspace import Workspace
from pipeline.models.checkpoints.native import (
    AVERAGE_FILE,
    MODEL_FILE,
    list_checkpoints,
    load_dalle,
    read_info,
    read_tensors,
)
from pipeline.train.config import TrainConfig
from pipeline.train.optimizer import LossScale
from pipeline.train.run import run
from tests.helpers.training import TrainedRuns, log_of, tree

MakeConfig = Callable[..., TrainConfig]

KINDS: dict[str, dict[str, Any]] = {
    "fp16": {"precision": "fp16"},
    "bf16": {"precision": "bf16"},
    "mean": {"ema_decay": 0.9},
    "plateau": {"lr_decay": "plateau", "learning_rate": 1.0, "steps": 70, "save_every": 30},
    "adam": {"optimizer": "adam", "weight_decay": 0.1, "lr_decay": "linear", "warmup_type": "log"},
    "accumulated": {"ga_steps": 3, "batch_size": 7},
    "shared": {
        "shared_attn_ids": "0,0",
        "shared_ff_ids": "0",
        "share_input_output_emb": True,
        "ema_decay": 0.5,
    },
    "reversible": {"reversible": True, "sandwich_norm": True, "stable": True},
    "deep": {
        "attn_types": ("full,axial_row",),
        "rotary_emb": True,
        "shift_tokens": True,
        "dim_head": 24,
    },
}


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_stopped_run_ends_in_the_same_bytes(
    make_config: MakeConfig, trained: TrainedRuns, kind: str
) -> None:
    config = make_config(**{"steps": 9, "save_every": 4, "keep_n_checkpoints": 9} | KINDS[kind])
    folder = trained.put(config, killed_after=(config.schedule.steps or 0) - 3)
    run(config)
    assert tree(folder) == trained.whole(config)


def test_the_plateau_lowers_the_rate_of_a_run_that_gains_nothing(
    workspace: Workspace, make_config: MakeConfig
) -> None:
    # 2 steps an epoch; with so small a rate the losses of the epochs differ by their batches alone.
    slow = {"learning_rate": 2e-6, "steps": 120, "batch_size": 20, "ff_dropout": 0.0}
    run(make_config(lr_decay="plateau", save_every=0, log_every=5, val_every=0, **slow))
    rates = [record["lr"] for record in log_of(workspace.run("tiny")) if "lr" in record]
    assert rates[1] == 2e-6
    assert rates[-1] == 1e-6


def test_a_mean_of_weights_is_kept_validated_and_drawn_with(
    workspace: Workspace, make_config: MakeConfig
) -> None:
    run(make_config(ema_decay=0.5, steps=2, save_every=1, keep_n_checkpoints=2))
    first, second = list_checkpoints(workspace.run("tiny") / "checkpoints")
    before, after = read_tensors(first, AVERAGE_FILE), read_tensors(second, AVERAGE_FILE)
    weights = read_tensors(second, MODEL_FILE)
    name = "to_logits.weight"
    torch.testing.assert_close(after[name], (before[name] + weights[name]) / 2)
    model = load_dalle(second, device=torch.device("cpu"))
    assert torch.equal(model.state_dict()[name], after[name])
    val = [record for record in log_of(workspace.run("tiny")) if "val_loss" in record]
    run(make_config(ema_decay=0.0, steps=2, name="plain"))
    plain = [record for record in log_of(workspace.run("plain")) if "val_loss" in record]
    assert val[-1]["val_loss"] != plain[-1]["val_loss"]


def test_a_checkpoint_records_the_position_of_the_run(
    workspace: Workspace, make_config: MakeConfig
) -> None:
    run(make_config(precision="fp16", steps=7, dataset="colours"))
    info = read_info(list_checkpoints(workspace.run("tiny") / "checkpoints")[-1])
    assert (info.step, info.epoch, info.consumed) == (7, 1, 16)  # 40 samples, batches of 8
    assert info.training["scaler"]["scale"] > 0
    assert (info.training["dataset"], info.training["ranks"]) == ("colours", 1)
    assert info.codec == "c" * 64


def test_an_epochs_end_is_the_next_ones_beginning(
    workspace: Workspace, make_config: MakeConfig
) -> None:
    run(make_config(steps=5))
    path = list_checkpoints(workspace.run("tiny") / "checkpoints")[-1] / "checkpoint.json"
    stored = json.loads(path.read_bytes())
    assert (stored["epoch"], stored["consumed"]) == (1, 0)


def test_fp16_leaves_out_steps_whose_gradients_overflow(
    workspace: Workspace, make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LossScale, "START", 2.0**60)
    report = run(make_config(precision="fp16", steps=3, save_every=1, keep_n_checkpoints=3))
    assert report.counts["steps"] == 3
    folders = list_checkpoints(workspace.run("tiny") / "checkpoints")
    scales = [read_info(folder).training["scaler"]["scale"] for folder in folders]
    assert scales == [2.0**59, 2.0**58, 2.0**57]
    first, last = (read_tensors(folder, MODEL_FILE) for folder in (folders[0], folders[-1]))
    assert all(torch.equal(first[name], last[name]) for name in first)


def checkpoint_of(workspace: Workspace, name: str = "tiny") -> Path:
    return list_checkpoints(workspace.run(name) / "checkpoints")[-1]

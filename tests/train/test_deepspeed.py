"""DeepSpeed's engine trains as torch does, in two real processes; its checkpoints are ours."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.errors import ConfigError, DependencyError
from pipeline.models.checkpoints.ours import (
    AVERAGE_FILE,
    MODEL_FILE,
    OPTIMIZER_FILE,
    RNG_FILE,
    list_checkpoints,
    load_dalle,
    read_tensors,
)
from pipeline.storage import Workspace, read_manifest
from pipeline.train.config import TrainConfig
from pipeline.train.run import run
from tests.train.test_ranks import losses_of, torchrun
from tests.train.test_train import tree

MakeConfig = Callable[..., TrainConfig]

pytest.importorskip("deepspeed")

SWITCHES: dict[str, dict[str, Any]] = {
    "shared": {
        "shared_attn_ids": "0,0",
        "shared_ff_ids": "0,0",
        "share_input_output_emb": True,
        "weight_decay": 0.1,
    },
    "reversible": {"reversible": True, "rotary_emb": True, "shift_tokens": True},
    "bf16": {"precision": "bf16"},
}
# Small parameters would else stay whole.
PARTED = {"zero_optimization": {"stage3_param_persistence_threshold": 0}}


def write_json(workspace: Workspace, options: dict[str, Any]) -> Path:
    path = workspace.root / "deepspeed.json"
    path.write_text(json.dumps(options))
    return path


def assert_trained_alike(workspace: Workspace, *, half: bool = False) -> None:
    """That the runs `one` and `two` have the same losses, weights, means and moments."""
    torch.testing.assert_close(
        torch.tensor(losses_of(workspace.run("two"))),
        torch.tensor(losses_of(workspace.run("one"))),
        rtol=5e-3 if half else 2e-4,
        atol=1e-5,
    )
    counts = [read_manifest(workspace.run(name), "run").counts for name in ("one", "two")]
    assert counts[0] == counts[1]
    if half:  # Adam makes whole steps of gradients that are rounded otherwise
        return
    one, two = (list_checkpoints(workspace.run(n) / "checkpoints")[-1] for n in ("one", "two"))
    for file in (MODEL_FILE, OPTIMIZER_FILE, AVERAGE_FILE):
        expected, found = read_tensors(one, file), read_tensors(two, file)
        assert expected.keys() == found.keys()
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=1e-2, atol=2e-4, msg=name)
    assert set(read_tensors(two, RNG_FILE)) == {"cpu", "cpu.1"}
    load_dalle(two, device=torch.device("cpu"))


def train_both(workspace: Workspace, make_config: MakeConfig, **options: Any) -> None:
    """Train `two`, by DeepSpeed in two processes, and `one`, by torch in one."""
    engine = {n: options.pop(n) for n in ("zero_stage", "deepspeed_config") if n in options}
    plain = {"ff_dropout": 0.0, "attn_dropout": 0.0, "ga_steps": 2, "ema_decay": 0.9, "steps": 6}
    plain |= options
    done = torchrun(make_config(name="two", batch_size=4, parallel="deepspeed", **engine, **plain))
    assert done.returncode == 0, done.stderr
    assert done.stdout == "" # what DeepSpeed says is not the command's output
    run(make_config(name="one", batch_size=8, **plain))


def test_zero_trains_as_one_process_with_the_double_batch(
    workspace: Workspace, make_config: MakeConfig
) -> None:
    train_both(workspace, make_config, zero_stage=2)
    assert_trained_alike(workspace)


@pytest.mark.slow
@pytest.mark.parametrize("stage", [0, 1, 3])
def test_every_stage_trains_as_one_process(
    workspace: Workspace, make_config: MakeConfig, stage: int
) -> None:
    train_both(
        workspace, make_config, zero_stage=stage, deepspeed_config=write_json(workspace, PARTED)
    )
    assert_trained_alike(workspace)


@pytest.mark.slow
@pytest.mark.parametrize("stage", [1, 3])
@pytest.mark.parametrize("switch", list(SWITCHES))
def test_every_model_trains_as_in_one_process(
    workspace: Workspace, make_config: MakeConfig, stage: int, switch: str
) -> None:
    train_both(workspace, make_config, zero_stage=stage, **SWITCHES[switch])
    assert_trained_alike(workspace, half=switch == "bf16")

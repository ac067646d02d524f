"""Several processes train as one does with the batch of all of them."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pipeline.errors import ConfigError
from pipeline.models.checkpoints.ours import (
    AVERAGE_FILE,
    MODEL_FILE,
    OPTIMIZER_FILE,
    RNG_FILE,
    list_checkpoints,
    read_tensors,
)
from pipeline.storage import Workspace
from pipeline.train.config import TrainConfig
from pipeline.train.ranks import join_ranks
from pipeline.train.run import run
from tests.train.test_train import log_of, tree

MakeConfig = Callable[..., TrainConfig]

CHILD = """
import json, sys
from pathlib import Path
from pipeline.train.config import TrainConfig
from pipeline.train.run import run
options = json.loads(sys.argv[1])
options["workspace"] = Path(options["workspace"])
run(TrainConfig(**options))
"""


def torchrun(config: TrainConfig, *, ranks: int = 2) -> subprocess.CompletedProcess[str]:
    """Run `config` in processes that the real torchrun starts."""
    options = {**dataclasses.asdict(config), "workspace": str(config.workspace)}
    script = config.workspace / "train_child.py"
    script.write_text(CHILD)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", str(ranks), str(script), json.dumps(options)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280)


def losses_of(folder: Path) -> list[list[float]]:
    names = ("loss", "loss_text", "loss_image", "val_loss", "val_loss_image")
    return [[record.get(name, 0.0) for name in names] for record in log_of(folder)]


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_processes_train_as_one_with_the_double_batch(
    workspace: Workspace, make_config: MakeConfig, parallel: str
) -> None:
    plain = {"ff_dropout": 0.0, "attn_dropout": 0.0, "ga_steps": 2, "ema_decay": 0.9, "steps": 6}
    done = torchrun(make_config(name="two", batch_size=4, parallel=parallel, **plain))
    assert done.returncode == 0, done.stderr
    run(make_config(name="one", batch_size=8, **plain))
    torch.testing.assert_close(
        torch.tensor(losses_of(workspace.run("two"))),
        torch.tensor(losses_of(workspace.run("one"))),
        rtol=2e-4,
        atol=1e-5,
    )
    one, two = (list_checkpoints(workspace.run(n) / "checkpoints")[-1] for n in ("one", "two"))
    for file in (MODEL_FILE, OPTIMIZER_FILE, AVERAGE_FILE):
        expected, found = read_tensors(one, file), read_tensors(two, file)
        assert expected.keys() == found.keys()
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=1e-2, atol=2e-4, msg=name)
    assert set(read_tensors(two, RNG_FILE)) == {"cpu", "cpu.1"}


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_processes_go_on_where_they_stopped(
    workspace: Workspace, make_config: MakeConfig, parallel: str
) -> None:
    """With dropout: each process has its own random numbers, and gets them back."""
    options = {"batch_size": 4, "parallel": parallel, "lr_decay": "constant", "save_every": 3}
    assert torchrun(make_config(steps=9, **options)).returncode == 0
    whole = tree(workspace.run("tiny"))
    workspace.run("tiny").rename(workspace.root / "elsewhere")
    assert torchrun(make_config(steps=6, **options)).returncode == 0
    assert torchrun(make_config(steps=9, **options)).returncode == 0
    assert tree(workspace.run("tiny")) == whole


@pytest.mark.slow
def test_a_broken_loss_of_one_process_stops_all_and_names_its_samples(
    workspace: Workspace, make_config: MakeConfig
) -> None:
    """More ranks than shards: one shard, three processes."""
    done = torchrun(make_config(batch_size=4, learning_rate=1e30, clip_grad_norm=0.0), ranks=3)
    assert done.returncode != 0
    assert "is not finite" in done.stderr or "the gradient's norm is" in done.stderr
    assert "on the samples train_00" in done.stderr


def test_processes_that_work_alone_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with (
        pytest.raises(ConfigError, match="torchrun started 2 processes"),
        join_ranks("none", torch.device("cpu")),
    ):
        pass


def test_ranks_without_torchrun_are_told_how_to_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with (
        pytest.raises(ConfigError, match="torchrun --nproc-per-node"),
        join_ranks("ddp", torch.device("cpu")),
    ):
        pass

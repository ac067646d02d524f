"""Several processes train like one with their combined batch."""

from __future__ import annotations

import functools
import gc
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor

from pipeline.core.errors import ConfigError
from pipeline.core.storage import read_manifest
from pipeline.core.workspace import Workspace
from pipeline.models.checkpoints.native import (
    AVERAGE_FILE,
    MODEL_FILE,
    OPTIMIZER_FILE,
    RNG_FILE,
    list_checkpoints,
    read_info,
    read_tensors,
)
from pipeline.train.config import TrainConfig
from pipeline.train.distributed import Ranks, join_ranks
from pipeline.train.run import choose_name, run
from pipeline.webdata.index import read_index
from tests.helpers.ranks import start_ranks, torchrun
from tests.helpers.training import log_of, open_workspace, tree

MakeConfig = Callable[..., TrainConfig]


def test_fsdp_shards_every_weight_also_those_outside_of_layers(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Embedding(8, 4), nn.ModuleList([nn.Linear(4, 4)]), nn.Linear(4, 8))
    ranks = Ranks(kind="fsdp", rank=0, size=1, device=torch.device("cpu"))
    place = f"file://{tmp_path}/store"
    dist.init_process_group("gloo", init_method=place, rank=0, world_size=1)
    try:
        assert ranks.wrap(model) is model
        sharded = [n for n, weight in model.named_parameters() if isinstance(weight, DTensor)]
    finally:
        dist.destroy_process_group()
    assert sharded == ["0.weight", "1.0.weight", "1.0.bias", "2.weight", "2.bias"]


def test_a_group_is_kept_until_the_process_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Freeing it can hang, also in the reducer of a DDP module that is freed later."""
    monkeypatch.setenv("WORLD_SIZE", "1")
    start = functools.partial(
        dist.init_process_group, init_method=f"file://{tmp_path}/store", rank=0, world_size=1
    )
    monkeypatch.setattr(dist, "init_process_group", start)
    with join_ranks("ddp", torch.device("cpu")):
        groups = [dist.group.WORLD, dist.new_group()]
        counts = [sys.getrefcount(group) for group in groups]
    assert not dist.is_initialized()
    gc.collect()
    # torch itself keeps none of them.
    assert [sys.getrefcount(group) > 3 for group in groups] == [True, True], counts


# Rank 1 alone runs out of memory, in the second step.
NO_ROOM = """
import os, torch
from pipeline.train.trainer import Trainer
healthy, calls = Trainer._backward, iter(range(100))
def backward(self, module, batch, share):
    if os.environ["RANK"] == "1" and next(calls) == 1:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
    return healthy(self, module, batch, share)
Trainer._backward = backward
"""


def losses_of(folder: Path) -> list[list[float]]:
    names = ("loss", "loss_text", "loss_image", "val_loss", "val_loss_image")
    return [[record.get(name, 0.0) for name in names] for record in log_of(folder)]


KINDS: dict[str, dict[str, Any]] = {
    "ddp": {"parallel": "ddp"},
    "fsdp": {"parallel": "fsdp"},
    "fsdp-fp16": {"parallel": "fsdp", "precision": "fp16"},
    "fsdp-reversible": {"parallel": "fsdp", "reversible": True},
    "fsdp-shared": {
        "parallel": "fsdp",
        "shared_attn_ids": "0,0",
        "shared_ff_ids": "0,0",
        "share_input_output_emb": True,
    },
}


@pytest.mark.slow
def test_two_processes_train_as_one_with_the_double_batch(
    workspace: Workspace, make_config: MakeConfig
) -> None:
    plain = {"ff_dropout": 0.0, "attn_dropout": 0.0, "ga_steps": 2, "ema_decay": 0.9, "steps": 6}
    two = {
        kind: make_config(name=f"two-{kind}", batch_size=4, **plain | options)
        for kind, options in KINDS.items()
    }
    for kind, config in two.items():
        done = torchrun(config)
        assert done.returncode == 0, done.stderr
        options = plain | KINDS[kind] | {"parallel": "auto"}
        run(make_config(name=f"one-{kind}", batch_size=8, **options))
        assert_trained_alike(workspace, kind, half=options.get("precision") == "fp16")


def assert_trained_alike(workspace: Workspace, kind: str, *, half: bool) -> None:
    folders = [workspace.run(f"{name}-{kind}") for name in ("one", "two")]
    expected, found = (torch.tensor(losses_of(folder)) for folder in folders)
    torch.testing.assert_close(
        found, expected, rtol=5e-3 if half else 2e-4, atol=1e-5, msg=lambda m: f"{kind}: {m}"
    )
    if half:  # Adam makes whole steps of gradients that are rounded otherwise
        return
    one, two = (list_checkpoints(folder / "checkpoints")[-1] for folder in folders)
    for file in (MODEL_FILE, OPTIMIZER_FILE, AVERAGE_FILE):
        wanted, tensors = read_tensors(one, file), read_tensors(two, file)
        assert wanted.keys() == tensors.keys(), kind
        for name, value in wanted.items():
            msg = f"{kind}: {name}"
            torch.testing.assert_close(tensors[name], value, rtol=1e-2, atol=2e-4, msg=msg)
    assert set(read_tensors(two, RNG_FILE)) == {"cpu", "cpu.1"}, kind


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_processes_resume_where_they_stopped(
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


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_memory_that_runs_out_in_one_process_stops_all(
    make_config: MakeConfig, parallel: str
) -> None:
    done = torchrun(make_config(batch_size=5, parallel=parallel), before=NO_ROOM)
    assert done.returncode != 0
    assert "Out of memory in one of 2 processes with --batch-size 5" in done.stderr
    assert "Use --batch-size 2, with --ga-steps 3" in done.stderr


@pytest.mark.slow
def test_the_command_trains_under_torchrun(workspace: Workspace) -> None:
    open_workspace(workspace)
    small = "--dim 16 --depth 1 --heads 2 --dim-head 8 --steps 4 --batch-size 4 --val-every 0"
    options = [*small.split(), "--workspace", str(workspace.root), "--device", "cpu"]
    done = start_ranks(["-m", "pipeline", "train", *options, "--name", "auto"])
    assert done.returncode == 0, done.stderr
    folder = workspace.run("custom_transformer/1L_8HD_2H_16I_6T_colours_1E")
    info = read_info(list_checkpoints(folder / "checkpoints")[-1])
    assert (info.step, info.training["ranks"]) == (4, 2)
    assert read_manifest(folder, "run").counts["samples"] == 32


def test_the_name_counts_the_samples_of_all_processes(
    workspace: Workspace, make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(name="auto", steps=20, batch_size=8)
    index = read_index(workspace.shards("default"))
    assert choose_name(config, workspace, index) == "custom_transformer/2L_8HD_2H_16I_6T_default_4E"
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert (
        choose_name(config, workspace, index) == "custom_transformer/2L_8HD_2H_16I_6T_default_12E"
    )


def test_processes_that_work_alone_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with (
        pytest.raises(ConfigError, match="torchrun started 2 processes"),
        join_ranks("none", torch.device("cpu")),
    ):
        pass


def test_ranks_without_torchrun_get_advice_on_how_to_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with (
        pytest.raises(ConfigError, match="torchrun --nproc-per-node"),
        join_ranks("ddp", torch.device("cpu")),
    ):
        pass

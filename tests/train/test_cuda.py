"""Training on a CUDA device (`make test-gpu`)."""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn

from pipeline.core.errors import ModelError
from pipeline.core.workspace import Workspace
from pipeline.models.checkpoints.native import list_checkpoints, read_info
from pipeline.models.dalle.attention import Pattern
from pipeline.models.dalle.attention_types import ATTENTION_TYPES
from pipeline.models.dalle.model import DalleLoss
from pipeline.train.compiling import count_graphs
from pipeline.train.config import TrainConfig
from pipeline.train.feeding import DeviceBatch
from pipeline.train.run import run
from pipeline.train.trainer import Trainer
from tests.helpers.training import StoppedError, log_of, stop_at, tree
from tests.models.dalle.test_attention_kernels import config as attention_config
from tests.train.test_evaluation_samples import codec

__all__ = ["codec"]

MakeConfig = Callable[..., TrainConfig]
pytestmark = pytest.mark.cuda


def losses(workspace: Workspace, config: TrainConfig) -> list[float]:
    run(config)
    return [record["loss"] for record in log_of(workspace.run(config.name)) if "loss" in record]


@pytest.mark.parametrize("compiler", ["off", "on", "graphs"])
@pytest.mark.parametrize("precision", ["auto", "fp32", "fp16"])
def test_losses_of_20_steps_are_those_of_a_cpu(
    workspace: Workspace,
    make_config: MakeConfig,
    caplog: pytest.LogCaptureFixture,
    precision: str,
    compiler: str,
) -> None:
    plain = {"steps": 20, "ff_dropout": 0.0, "attn_dropout": 0.0, "val_every": 10}
    expected = losses(workspace, make_config(name="cpu", precision="fp32", **plain))
    on_gpu = {"device": "cuda", "precision": precision, "compile": compiler}
    found = losses(workspace, make_config(name="gpu", **on_gpu, **plain))
    assert found == pytest.approx(expected, rel=0.05)
    assert found[0] == pytest.approx(expected[0], rel=0.01)
    assert "Training without" not in caplog.text


@pytest.mark.parametrize(
    "options",
    [{}, {"compile": "off"}, {"compile": "graphs"}, {"precision": "fp16"}],
    ids=str,
)
def test_a_stopped_run_resumes_in_the_same_bytes(
    workspace: Workspace, make_config: MakeConfig, options: dict[str, Any]
) -> None:
    """With dropout: the device's random numbers go on where they were."""
    config = make_config(device="cuda", log_every=3, **options)
    run(config)
    whole = tree(workspace.run("tiny"))
    workspace.run("tiny").rename(workspace.root / "elsewhere")
    with pytest.raises(StoppedError):
        run(config, stop_at(9))
    run(config)
    assert tree(workspace.run("tiny")) == whole


def test_a_step_does_not_wait_for_the_device(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch raises an error for every operation that would wait, within a step."""

    @contextlib.contextmanager
    def no_waiting() -> Iterator[None]:
        torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode("default")

    def watched(method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def call(*arguments: Any) -> Any:
            with no_waiting():
                return method(*arguments)

        return call

    monkeypatch.setattr(Trainer, "accumulate", watched(Trainer.accumulate))
    monkeypatch.setattr(Trainer, "update", watched(Trainer.update))
    run(make_config(device="cuda", ga_steps=2, ema_decay=0.9, log_every=4))


def test_a_broken_loss_is_noticed_later_and_changes_nothing(
    workspace: Workspace, make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    healthy, calls = Trainer.loss, itertools.count(1)

    def loss_of(trainer: Trainer, module: nn.Module, batch: DeviceBatch) -> DalleLoss:
        loss = healthy(trainer, module, batch)
        return loss._replace(total=loss.total * math.nan) if next(calls) == 7 else loss

    monkeypatch.setattr(Trainer, "loss", loss_of)
    options = {"device": "cuda", "compile": "off", "val_every": 0, "log_every": 100}
    with pytest.raises(ModelError, match=r"before step 7: .*on the samples train_00"):
        run(make_config(steps=30, save_every=4, **options))
    (last,) = list_checkpoints(workspace.run("tiny") / "checkpoints")
    assert read_info(last).step == 4


def test_memory_that_ends_is_reported_with_a_batch_size_that_fits(make_config: MakeConfig) -> None:
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(600e6 / total)
    big = {"dim": 1024, "depth": 4, "heads": 16, "dim_head": 64, "batch_size": 40}
    try:
        with pytest.raises(ModelError, match=r"Out of memory|Not enough memory"):
            run(make_config(device="cuda", compile="off", **big))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()


def test_auto_finds_a_batch_size(make_config: MakeConfig) -> None:
    report = run(make_config(device="cuda", compile="off", batch_size="auto", steps=2))
    assert report.counts["samples"] >= 2 * 8


def test_the_compiler_makes_a_graph_for_each_kind(make_config: MakeConfig) -> None:
    torch._dynamo.reset()
    before, graphs = count_graphs(), []
    run(
        make_config(device="cuda", depth=4, attn_types=("full", "axial_row"), steps=8, val_every=4),
        lambda done, total, notes=None: graphs.append(count_graphs() - before) if done else None,
    )
    assert set(graphs) == {2 * (2 + 2)}


@pytest.mark.usefixtures("codec")
def test_grids_are_drawn_by_recorded_steps_and_compile_nothing(
    workspace: Workspace, make_config: MakeConfig, caplog: pytest.LogCaptureFixture
) -> None:
    """Each grid records the steps anew: the memory is free again for training."""
    torch._dynamo.reset()
    before, graphs = count_graphs(), []
    run(
        make_config(device="cuda", steps=8, val_every=0, sample_every=2),
        lambda done, total, notes=None: graphs.append(count_graphs() - before) if done else None,
    )
    assert set(graphs) == {1 + 2}
    assert "drawing without" not in caplog.text
    assert len(list((workspace.run("tiny") / "samples").iterdir())) == 4


@pytest.mark.parametrize("kind", [kind for kind in ATTENTION_TYPES if kind != "full"])
def test_flex_attention_has_the_gradients_of_masked_attention(kind: Any) -> None:
    torch._dynamo.reset()
    shape = attention_config(kind, text=31, size=15)
    plain, flex = (Pattern(kind, shape).cuda() for _ in range(2))
    flex.use_flex(shape)
    results = []
    for attend in (plain.attend, torch.compile(flex.attend, fullgraph=True)):
        torch.manual_seed(0)
        qkv = [
            torch.randn(2, 2, shape.total_seq_len, 16, device="cuda", requires_grad=True)
            for _ in range(3)
        ]
        mixed = attend(*qkv)
        mixed.square().sum().backward()
        results.append([mixed, *(x.grad for x in qkv)])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, atol=2e-2, rtol=2e-2)

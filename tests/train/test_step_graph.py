"""Steps as CUDA graphs, with a made-up graph, whose replay computes the step again.

`test_cuda` records steps on a device.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.core.errors import ConfigError
from pipeline.core.workspace import Workspace
from pipeline.train import model as train_model
from pipeline.train import run as train_run
from pipeline.train.config import TrainConfig
from pipeline.train.distributed import Ranks
from pipeline.train.feeding import DeviceBatch
from pipeline.train.optimizer import TorchStepper
from pipeline.train.run import run
from pipeline.train.step_graph import NORMAL, StepGraph, check_graphs
from pipeline.train.trainer import Trainer
from tests.helpers.training import log_of, train_config

MakeConfig = Callable[..., TrainConfig]
CPU = torch.device("cpu")


class MadeUpGraph:
    """Stands for a CUDA graph."""

    compute: Callable[[], Sequence[Tensor]]
    results: Sequence[Tensor]
    replays = 0

    def replay(self) -> None:
        type(self).replays += 1
        for result, value in zip(self.results, self.compute(), strict=True):
            result.copy_(value)


class Recording:
    """Stands for `torch.cuda.graph`."""

    graph: MadeUpGraph | None = None

    def __init__(self, graph: MadeUpGraph, capture_error_mode: str) -> None:
        assert capture_error_mode == "thread_local"
        self._graph = graph

    def __enter__(self) -> None:
        Recording.graph = self._graph

    def __exit__(self, *_: object) -> None:
        Recording.graph = None


def recordable(compute: Callable[..., Sequence[Tensor]]) -> Callable[..., Any]:
    """`compute`, which runs nothing while it is recorded."""
    latest: Sequence[Tensor] = ()

    def run_or_record(*arguments: Any) -> Sequence[Tensor]:
        nonlocal latest
        if Recording.graph is None:
            latest = compute(*arguments)
            return latest
        Recording.graph.compute = lambda: compute(*arguments)
        Recording.graph.results = [torch.full_like(result, -1) for result in latest]
        return Recording.graph.results

    return run_or_record


@pytest.fixture(autouse=True)
def _made_up_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "CUDAGraph", MadeUpGraph)
    monkeypatch.setattr(torch.cuda, "graph", Recording)
    monkeypatch.setattr(MadeUpGraph, "replays", 0)


def batch(value: int, size: int = 2) -> DeviceBatch:
    ids = torch.full((size, 3), value)
    return DeviceBatch(tokens_BT=ids, codes_BN=ids, rows=np.arange(size))


def summing_graph() -> StepGraph:
    """Its results are sums of all ids."""

    def add(batches: Sequence[DeviceBatch]) -> Sequence[Tensor]:
        return [sum((b.tokens_BT.sum() + b.codes_BN.sum() for b in batches), torch.zeros(()))] * 4

    return StepGraph(recordable(add), torch.optim.SGD([torch.zeros(1)]))


def test_a_step_is_recorded_once_and_then_replayed_with_other_batches() -> None:
    steps = summing_graph()
    results = [steps.run([batch(value), batch(1)]) for value in range(NORMAL + 3)]
    assert MadeUpGraph.replays == 3
    expected = [[12 * value + 12] * 4 for value in range(NORMAL + 3)]
    assert [[one.item() for one in result] for result in results] == expected


def test_a_step_of_another_shape_runs_normally() -> None:
    steps = summing_graph()
    for _ in range(NORMAL + 1):
        steps.run([batch(1), batch(1)])
    assert steps.run([batch(2)])[0].item() == 24
    assert steps.run([batch(2), batch(2, size=1)])[0].item() == 36
    assert MadeUpGraph.replays == 1
    assert steps.run([batch(3), batch(3)])[0].item() == 72
    assert MadeUpGraph.replays == 2


@pytest.mark.parametrize(
    ("ranks", "options", "missing"),
    [
        (Ranks(kind="none", rank=0, size=1, device=CPU), {}, "a CUDA device"),
        (Ranks(kind="ddp", rank=0, size=2, device=torch.device("cuda")), {}, "a single process"),
        (
            Ranks(kind="none", rank=0, size=1, device=torch.device("cuda")),
            {"reversible": True},
            "layers that are not --reversible",
        ),
    ],
)
def test_graphs_are_refused_where_a_step_can_not_be_recorded(
    ranks: Ranks, options: dict[str, Any], missing: str
) -> None:
    config = train_config(compile="graphs", **options)
    with pytest.raises(ConfigError, match=f"--compile graphs needs {missing}. Use --compile on"):
        check_graphs(config, ranks)
    check_graphs(train_config(compile="on", **options), ranks)


def test_a_run_on_a_cpu_refuses_graphs(make_config: MakeConfig) -> None:
    with pytest.raises(ConfigError, match="needs a CUDA device"):
        run(make_config(compile="graphs"))


# --- Runs ----------------------------------------------------------------------------------------


@pytest.fixture
def on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs take `--compile graphs` on a CPU, and compile nothing."""
    monkeypatch.setattr(train_run, "check_graphs", lambda *_: None)
    monkeypatch.setattr(train_model, "compile_model", lambda *_: None)


def places_of(trainer: Trainer) -> list[int]:
    """The addresses of all tensors that a step changes."""
    state, stepper = trainer.state, trainer.state.stepper
    assert isinstance(stepper, TorchStepper)
    assert stepper._failed is not None
    tensors = [*state.model.parameters(), stepper._failed]
    tensors += [value for kept in state.optimizer.state.values() for value in kept.values()]
    tensors += [group["lr"] for group in state.optimizer.param_groups]
    if stepper.loss_scale is not None:
        tensors += [stepper.loss_scale.value, stepper.loss_scale._healthy]
    if state.average is not None:
        tensors += state.average.tensors.values()
    return [tensor.data_ptr() for tensor in tensors]


@pytest.mark.usefixtures("on_cpu")
@pytest.mark.parametrize("options", [{}, {"precision": "fp16"}, {"ga_steps": 2}], ids=str)
def test_a_run_of_replayed_steps_is_that_of_normal_ones(
    workspace: Workspace,
    make_config: MakeConfig,
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, Any],
) -> None:
    """A graph knows tensors by their address, so a step must leave them where they are."""
    options |= {"steps": 10, "val_every": 4, "ema_decay": 0.9}
    run(make_config(name="normal", **options))
    healthy, places = Trainer.compute, list[list[int]]()

    def compute(trainer: Trainer, *arguments: Any) -> Sequence[Tensor]:
        computed = healthy(trainer, *arguments)
        places.append(places_of(trainer))
        return computed

    monkeypatch.setattr(Trainer, "compute", recordable(compute))
    run(make_config(name="replayed", compile="graphs", **options))
    assert MadeUpGraph.replays == 10 - NORMAL
    assert places == [places[0]] * 10
    for ours, theirs in zip(
        log_of(workspace.run("replayed")), log_of(workspace.run("normal")), strict=True
    ):
        assert ours == pytest.approx(theirs, rel=1e-6)


@pytest.mark.usefixtures("on_cpu")
def test_a_step_that_can_not_be_recorded_runs_normally_and_its_gradients_are_forgotten(
    workspace: Workspace,
    make_config: MakeConfig,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    plain = {"ff_dropout": 0.0, "attn_dropout": 0.0}  # in the test, what is recorded draws numbers
    run(make_config(name="normal", **plain))
    healthy = TorchStepper.step

    def step(stepper: TorchStepper, broken: Tensor) -> Tensor:
        if Recording.graph is not None:
            raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nmore")
        return healthy(stepper, broken)

    monkeypatch.setattr(TorchStepper, "step", step)
    run(make_config(name="refused", compile="graphs", **plain))
    assert caplog.text.count("Training without CUDA graphs") == 1
    assert "when stream is capturing). --compile on skips it." in caplog.text
    for ours, theirs in zip(
        log_of(workspace.run("refused")), log_of(workspace.run("normal")), strict=True
    ):
        assert ours == pytest.approx(theirs, rel=1e-6)

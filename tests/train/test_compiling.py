"""Compiled training: graphs by kind of attention, no recompilation, and going on without a compiler.

With torch's `aot_eager`, which traces and splits a model as its compiler does but generates no code: that
takes a minute on a CPU.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch._dynamo
from torch._dynamo.utils import counters

from pipeline.core.errors import ModelError
from pipeline.core.workspace import Workspace
from pipeline.models.dalle.attention_types import ATTENTION_TYPES
from pipeline.models.dalle.config import DalleConfig
from pipeline.models.dalle.model import Dalle
from pipeline.train import model as train_model
from pipeline.train.compiling import compile_model, count_graphs, eager, is_compiled, use_eager
from pipeline.train.config import TrainConfig
from pipeline.train.run import run
from tests.helpers.ranks import torchrun
from tests.helpers.training import log_of
from tests.train.test_distributed import losses_of

MakeConfig = Callable[..., TrainConfig]
SHAPE: dict[str, Any] = {
    "dim": 16,
    "depth": 4,
    "heads": 2,
    "dim_head": 8,
    "text_seq_len": 7,
    "num_text_tokens": 20,
    "num_image_tokens": 10,
    "image_fmap_size": 3,
}


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()
    counters.clear()


def compiled(kind: str = "none", **options: Any) -> Dalle:
    torch.manual_seed(0)
    model = Dalle(DalleConfig(**{**SHAPE, **options})).train()
    compile_model(model, kind, backend="aot_eager", fullgraph=True)  # type: ignore[arg-type]
    return model


def batch(size: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randint(20, (size, 7)), torch.randint(10, (size, 9))


EVERY_KIND = {"attn_types": ATTENTION_TYPES, "depth": 2 * len(ATTENTION_TYPES)}
CASES: dict[str, tuple[dict[str, Any], int]] = {
    # Three kinds differ only in their masks, which are inputs of one graph.
    "every kind": (EVERY_KIND, len(ATTENTION_TYPES) - 2),
    "dropout, shift, rotary": (
        {"ff_dropout": 0.01, "attn_dropout": 0.01, "shift_tokens": True, "rotary_emb": True},
        1,
    ),
    "reversible": ({"reversible": True}, 1),
    "shared, sandwich": ({"shared_attn_ids": (0, 1), "sandwich_norm": True, "stable": True}, 1),
}
HEADS = 2  # the output head has a graph for text and one for codes


@pytest.mark.parametrize("name", list(CASES))
def test_all_layers_of_a_kind_share_a_graph_and_nothing_is_compiled_twice(name: str) -> None:
    """And, without dropout, the losses and gradients are those of the eager model."""
    options, kinds = CASES[name]
    model, given = compiled(**options), batch()
    found = losses_and_gradients(model, given)
    for _ in range(2):
        model(*batch()).total.backward()
    assert count_graphs() == kinds + HEADS
    model.eval()
    with torch.no_grad():
        for _ in range(3):
            model(*batch())
        with eager(model, True):
            model(*batch(1))
    model.train()
    model(*batch()).total.backward()
    assert count_graphs() == 2 * (kinds + HEADS)  # as many for validation
    assert not counters["graph_break"]
    use_eager(model)
    assert not is_compiled(model)
    if "ff_dropout" not in options:
        torch.testing.assert_close(found, losses_and_gradients(model, given))


def losses_and_gradients(
    model: Dalle, given: tuple[torch.Tensor, torch.Tensor]
) -> list[torch.Tensor]:
    model.zero_grad()
    loss = model(*given).total
    loss.backward()
    return [loss.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]


def test_sharded_models_are_compiled_between_fsdps_hooks() -> None:
    """It gathers attentions and feed-forwards one at a time, so these have graphs, one for each kind."""
    model = compiled("fsdp", attn_types=("full", "axial_row"))
    called: list[str] = []
    for part in (*model.transformer.attentions, *model.transformer.feed_forwards):
        part.register_forward_pre_hook(lambda module, _: called.append(type(module).__name__))
    for _ in range(2):
        model(*batch()).total.backward()
    assert called == ["Attention", "FeedForward"] * 4 * 2
    assert count_graphs() == 2 + 1 + HEADS
    assert not counters["graph_break"]


# --- Runs ----------------------------------------------------------------------------------------


@pytest.fixture
def no_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs compile without generating code."""
    compile_quickly = functools.partial(compile_model, backend="aot_eager")
    monkeypatch.setattr(train_model, "compile_model", compile_quickly)


@pytest.mark.usefixtures("no_code")
def test_a_compiled_run_is_the_eager_one_and_compiles_before_its_first_step(
    workspace: Workspace, make_config: MakeConfig, caplog: pytest.LogCaptureFixture
) -> None:
    """8 validation samples in batches of 3: the last batch is not full."""
    caplog.set_level(logging.INFO, logger="pipeline.train")
    options = {"steps": 6, "val_every": 2, "batch_size": 3, "ff_dropout": 0.2, "attn_dropout": 0.2}
    run(make_config(name="eager", compile="off", **options))
    graphs: list[int] = []
    run(
        make_config(name="compiled", compile="on", **options),
        lambda done, total, notes=None: graphs.append(count_graphs()) if done else None,
    )
    assert graphs == [2 * (1 + HEADS)] * 6
    assert f"Compiled {graphs[0]} graphs in " in caplog.text
    for ours, theirs in zip(
        log_of(workspace.run("compiled")), log_of(workspace.run("eager")), strict=True
    ):
        assert ours == pytest.approx(theirs, rel=1e-4)


def broken_compiler(*_: object) -> Any:
    raise RuntimeError(
        "Failed to find C compiler. Please specify via CC environment variable.\nmore"
    )


def broken_in_backward(graph: Any, inputs: Any) -> Any:
    from functorch.compile import make_boxed_func  # type: ignore[import-untyped]
    from torch._dynamo.backends.common import aot_autograd

    return aot_autograd(fw_compiler=lambda g, _: make_boxed_func(g), bw_compiler=broken_compiler)(
        graph, inputs
    )


@pytest.mark.parametrize("backend", [broken_compiler, broken_in_backward])
def test_a_run_goes_on_without_a_compiler_that_fails_and_says_so_once(
    backend: Callable[..., Any],
    workspace: Workspace,
    make_config: MakeConfig,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    run(make_config(name="eager", compile="off", steps=4))
    monkeypatch.setattr(
        train_model, "compile_model", functools.partial(compile_model, backend=backend)
    )
    run(make_config(name="compiled", compile="on", steps=4))
    assert caplog.text.count("Training without torch.compile, which failed") == 1
    assert "Failed to find C compiler" in caplog.text
    assert log_of(workspace.run("compiled")) == log_of(workspace.run("eager"))


def test_a_gpu_that_fails_is_not_taken_for_a_compiler_that_does(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> Any:
        raise RuntimeError("CUDA error: unspecified launch failure\nmore")

    compile_model_by = functools.partial(compile_model, backend=fail)
    monkeypatch.setattr(train_model, "compile_model", compile_model_by)
    with pytest.raises(ModelError, match=r"failed after step 0 \(CUDA error: unspecified launch"):
        run(make_config(compile="on"))
    assert "Training without" not in caplog.text


@pytest.mark.usefixtures("no_code")
def test_a_compiled_model_that_does_not_fit_is_reported_without_compiling_other_sizes(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.train.test_out_of_memory import room_for

    room_for(3, monkeypatch)
    with pytest.raises(ModelError, match="3 would fit"):
        run(make_config(compile="on"))
    assert count_graphs() == 0


# --- Several processes ---------------------------------------------------------------------------

# Each process compiles without generating code, and says at its end how many graphs it has.
NO_CODE = """
import atexit, functools
from pipeline.train import model
from pipeline.train.compiling import compile_model, count_graphs
model.compile_model = functools.partial(compile_model, backend="aot_eager")
atexit.register(lambda: print(count_graphs(), "graphs", flush=True))
"""


@pytest.mark.slow
@pytest.mark.parametrize(("parallel", "layers"), [("ddp", 1), ("fsdp", 2)])
def test_two_compiled_processes_train_as_an_eager_one_with_the_double_batch(
    workspace: Workspace, make_config: MakeConfig, parallel: str, layers: int
) -> None:
    """With gradients that are shared only in the second of a step's two batches."""
    plain = {"ff_dropout": 0.0, "attn_dropout": 0.0, "ga_steps": 2, "steps": 6}
    config = make_config(name="two", batch_size=4, parallel=parallel, compile="on", **plain)
    done = torchrun(config, before=NO_CODE)
    assert done.returncode == 0, done.stderr
    assert "Training without torch.compile" not in done.stderr
    assert done.stdout.count(f"{2 * (layers + HEADS)} graphs") == 2, done.stdout
    run(make_config(name="one", batch_size=8, **plain))
    torch.testing.assert_close(
        torch.tensor(losses_of(workspace.run("two"))),
        torch.tensor(losses_of(workspace.run("one"))),
        rtol=2e-4,
        atol=1e-5,
    )

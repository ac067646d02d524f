"""DeepSpeed's configuration; these tests run without it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pipeline.core.errors import ConfigError, DependencyError
from pipeline.core.workspace import Workspace
from pipeline.train.config import TrainConfig
from pipeline.train.deepspeed import (
    BUFFERS,
    check_engine,
    engine_options,
    import_deepspeed,
    make_engine_stepper,
    start_engine,
    zero_stage,
)
from pipeline.train.optimizer import make_optimizer
from pipeline.train.run import run

MakeConfig = Callable[..., TrainConfig]


def with_file(make_config: MakeConfig, given: Any, **options: Any) -> TrainConfig:
    """A config with a JSON of DeepSpeed."""
    path = make_config().workspace / "deepspeed.json"
    path.write_text(given if isinstance(given, str) else json.dumps(given))
    return make_config(parallel="deepspeed", deepspeed_config=path, **options)


def test_deepspeed_gets_the_options(make_config: MakeConfig) -> None:
    config = make_config(parallel="deepspeed", zero_stage=2, batch_size=4, ga_steps=3)
    options = engine_options(config)
    assert options["train_micro_batch_size_per_gpu"] == 4
    assert options["gradient_accumulation_steps"] == 3
    assert options["gradient_clipping"] == 0.5
    assert options["zero_optimization"] == {**BUFFERS, "stage": 2}
    assert not options["torch_autocast"]["enabled"]


def test_a_file_adds_what_the_options_do_not_say(make_config: MakeConfig) -> None:
    given = {
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": 1,
        "zero_optimization": {"stage": 3, "overlap_comm": True, "reduce_bucket_size": 9},
        "torch_autocast": {"lower_precision_safe_modules": ["torch.nn.Linear"]},
        "fp16": {"enabled": "auto", "initial_scale_power": 12},
        "wall_clock_breakdown": True,
    }
    config = with_file(make_config, given, precision="bf16")
    assert zero_stage(config) == 3
    options = engine_options(config)
    assert options["train_micro_batch_size_per_gpu"] == 8
    zero = {"stage": 3, "overlap_comm": True, "reduce_bucket_size": 9}
    assert options["zero_optimization"] == BUFFERS | zero
    assert options["torch_autocast"] == {
        "enabled": True,
        "dtype": "bfloat16",
        "lower_precision_safe_modules": ["torch.nn.Linear"],
    }
    assert options["fp16"] == {"enabled": False, "initial_scale_power": 12}
    assert options["wall_clock_breakdown"]


def test_the_stage_is_1_by_default(make_config: MakeConfig) -> None:
    assert zero_stage(make_config(parallel="deepspeed")) == 1
    assert zero_stage(with_file(make_config, {"zero_optimization": {"stage": "auto"}})) == 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"gradient_clipping": 1.0}, r"`gradient_clipping` is 1\.0, but --clip-grad-norm sets it"),
        ({"train_micro_batch_size_per_gpu": 9}, "but --batch-size sets it to 8"),
        ({"bf16": {"enabled": True}}, "`bf16.enabled` is true, but --precision bf16 sets it"),
        ({"optimizer": {"type": "Adam"}}, "`optimizer` is set by --optimizer"),
        ({"scheduler": {"type": "WarmupLR"}}, "`scheduler` is set by --lr-decay"),
        (
            {"zero_optimization": {"offload_optimizer": {"device": "nvme"}}},
            "`offload_optimizer` to nvme is not supported",
        ),
        ({"zero_optimization": 3}, "must be a JSON object, not 3"),
        ("[1, 2]", "the whole is a list of 2, expected an object"),
        ("{", r"deepspeed\.json is not JSON"),
    ],
)
def test_a_file_that_contradicts_is_refused(
    make_config: MakeConfig, given: Any, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        check_engine(with_file(make_config, given))


def test_another_stage_than_the_files_is_refused(make_config: MakeConfig) -> None:
    config = with_file(make_config, {"zero_optimization": {"stage": 3}}, zero_stage=2)
    with pytest.raises(ConfigError, match=r"`zero_optimization.stage` is 3, but --zero-stage"):
        check_engine(config)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"parallel": "ddp", "zero_stage": 2}, "--zero-stage is for --parallel deepspeed"),
        ({"deepspeed_config": Path("x.json")}, "--deepspeed-config is for --parallel deepspeed"),
        ({"compile": "on"}, "--compile on can't be combined with --parallel deepspeed"),
        ({"compile": "graphs"}, "--compile graphs can't be combined with --parallel deepspeed"),
        ({"precision": "fp16", "zero_stage": 0}, "give --zero-stage 1, 2 or 3"),
        ({"precision": "fp16", "ema_decay": 0.9}, "would average fp16 weights"),
    ],
)
def test_options_that_do_not_go_together_are_refused_before_anything_is_written(
    workspace: Workspace, make_config: MakeConfig, options: dict[str, Any], message: str
) -> None:
    engine = {} if "deepspeed_config" in options else {"parallel": "deepspeed"}
    with pytest.raises(ConfigError, match=message):
        run(make_config(**{**engine, **options}))
    assert not workspace.run("tiny").exists()


@pytest.mark.parametrize(
    "options",
    [
        {"precision": "bf16", "ema_decay": 0.9},
        {"precision": "fp32", "ema_decay": 0.9},
        {"precision": "fp16", "zero_stage": 1},
        {"precision": "bf16", "zero_stage": 0},
    ],
)
def test_options_that_go_together_are_taken(
    make_config: MakeConfig, options: dict[str, Any]
) -> None:
    check_engine(make_config(parallel="deepspeed", **options))


def test_one_process_gets_advice_on_how_to_start(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with pytest.raises(ConfigError, match=r"torchrun .* --parallel deepspeed"):
        run(make_config(parallel="deepspeed"))


def test_the_extra_is_named_where_the_package_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "deepspeed", None)
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    with pytest.raises(DependencyError, match=r"pip install 'dalle-pipeline\[deepspeed\]'"):
        import_deepspeed(torch.device("cpu"))


@pytest.mark.parametrize(("device", "compiled"), [("cpu", False), ("cuda", True)])
def test_the_all_reduce_for_inference_is_compiled_on_gpus_only(
    monkeypatch: pytest.MonkeyPatch, device: str, compiled: bool
) -> None:
    """Compiling it takes a minute on a CPU, or fails."""
    operators = {"deepspeed_shm_comm": True}
    package = SimpleNamespace(ops=SimpleNamespace(__compatible_ops__=operators))
    monkeypatch.setitem(sys.modules, "deepspeed", package)
    monkeypatch.delenv("DS_ACCELERATOR", raising=False)
    with warnings.catch_warnings():
        import_deepspeed(torch.device(device))
    assert operators == {"deepspeed_shm_comm": compiled}
    assert os.environ["DS_ACCELERATOR"] == device


def test_an_engine_without_zero_scales_its_loss_itself() -> None:
    engine = SimpleNamespace(zero_optimization=lambda: False, optimizer=None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # torch's own scaler disables itself with a warning on a CPU
        assert make_engine_stepper(engine, torch.nn.Linear(2, 2)).scale is None


def test_fp16_is_refused_on_a_processor(make_config: MakeConfig) -> None:
    config = make_config(parallel="deepspeed", precision="fp16")
    model = torch.nn.Linear(2, 2)
    with pytest.raises(ConfigError, match="fp16: DeepSpeed scales losses only on CUDA"):
        start_engine(model, make_optimizer(model, config.optimizer), config, torch.device("cpu"))


def test_deepspeed_is_not_imported_unless_it_is_chosen() -> None:
    code = "import sys, pipeline.train.run; print('deepspeed' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"

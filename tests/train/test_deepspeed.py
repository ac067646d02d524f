"""DeepSpeed trains like torch, in two real processes, and its checkpoints are ours."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.core.storage import read_manifest
from pipeline.core.workspace import Workspace
from pipeline.models.checkpoints.native import (
    AVERAGE_FILE,
    MODEL_FILE,
    OPTIMIZER_FILE,
    RNG_FILE,
    list_checkpoints,
    load_dalle,
    read_info,
    read_tensors,
)
from pipeline.train.config import TrainConfig
from pipeline.train.resume import read_warm_start
from pipeline.train.run import run
from tests.helpers.ranks import torchrun
from tests.helpers.training import tree
from tests.oracles.codecs import dalle_pytorch
from tests.train.test_distributed import losses_of

MakeConfig = Callable[..., TrainConfig]

# Not imported here: it would be for all other tests of this process, too.
pytestmark = pytest.mark.skipif(find_spec("deepspeed") is None, reason="needs deepspeed")

# Kinds of model, and the stage to train them by.
KINDS: dict[str, tuple[int, dict[str, Any]]] = {
    "plain": (0, {}),
    "bf16": (1, {"precision": "bf16"}),
    "shared": (
        3,
        {
            "shared_attn_ids": "0,0",
            "shared_ff_ids": "0,0",
            "share_input_output_emb": True,
            "weight_decay": 0.1,
        },
    ),
    "reversible": (3, {"reversible": True, "rotary_emb": True, "shift_tokens": True}),
}
# Small parameters would else stay whole.
SHARDED = {"zero_optimization": {"stage3_param_persistence_threshold": 0}}


def write_json(workspace: Workspace, options: dict[str, Any]) -> Path:
    path = workspace.root / "deepspeed.json"
    path.write_text(json.dumps(options))
    return path


def last_step(workspace: Workspace) -> int:
    """The step of the last checkpoint."""
    return read_info(list_checkpoints(workspace.run("tiny") / "checkpoints")[-1]).step


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
    assert done.stdout == ""  # what DeepSpeed says is not the command's output
    run(make_config(name="one", batch_size=8, **plain))


def test_zero_trains_as_one_process_with_the_double_batch(
    workspace: Workspace, make_config: MakeConfig
) -> None:
    train_both(workspace, make_config, zero_stage=2)
    assert_trained_alike(workspace)


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(KINDS))
def test_every_stage_and_model_trains_as_in_one_process(
    workspace: Workspace, make_config: MakeConfig, kind: str
) -> None:
    stage, options = KINDS[kind]
    file = write_json(workspace, SHARDED if kind == "reversible" else {})
    train_both(workspace, make_config, zero_stage=stage, deepspeed_config=file, **options)
    assert_trained_alike(workspace, half=kind == "bf16")


# On processors DeepSpeed refuses fp16; its arithmetic works there.
FP16 = """
import os
os.environ["DS_ACCELERATOR"] = "cpu"
from deepspeed.accelerator import get_accelerator
import pipeline.train.deepspeed as engine
engine.has_fp16 = lambda device: True
type(get_accelerator()).is_fp16_supported = lambda self: True
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "precision", "zero"),
    [
        (1, "fp32", {"offload_optimizer": {"device": "cpu"}}),
        (2, "fp16", {}),
        (3, "bf16", SHARDED["zero_optimization"]),
    ],
)
def test_a_stopped_run_resumes_to_the_same_bytes(
    workspace: Workspace, make_config: MakeConfig, stage: int, precision: str, zero: dict[str, Any]
) -> None:
    """With dropout: each process has its own random numbers, and gets them back."""
    config = make_config(
        batch_size=4,
        ga_steps=2,
        steps=6,
        save_every=3,
        precision=precision,
        ema_decay=0.0 if precision == "fp16" else 0.9,
        parallel="deepspeed",
        zero_stage=stage,
        deepspeed_config=write_json(workspace, {"zero_optimization": zero}),
    )
    before = FP16 if precision == "fp16" else ""
    assert torchrun(config, before=before).returncode == 0
    folder = workspace.run("tiny")
    whole = tree(folder)
    (folder / "manifest.json").unlink()
    shutil.rmtree(folder / "checkpoints/step-000006")
    done = torchrun(config, before=before)
    assert done.returncode == 0, done.stderr
    assert tree(folder) == whole


# Losses stay what they are; in the third step their gradients are not finite.
BROKEN = """
from pipeline.train.trainer import Trainer
healthy = Trainer.loss
def loss(self, module, batch):
    found = healthy(self, module, batch)
    if self.state.step == 2:
        found.total.register_hook(lambda gradient: gradient * float("inf"))
    return found
Trainer.loss = loss
"""


@pytest.mark.slow
@pytest.mark.parametrize("stage", [0, 3])
def test_a_broken_gradient_stops_all_before_the_step(
    workspace: Workspace, make_config: MakeConfig, stage: int
) -> None:
    config = make_config(batch_size=4, parallel="deepspeed", zero_stage=stage, save_every=1)
    done = torchrun(config, before=BROKEN)
    assert done.returncode != 0
    assert "before step 3: the gradient's norm is" in done.stderr
    assert "on the samples train_00" in done.stderr
    assert last_step(workspace) == 2


@pytest.mark.slow
def test_gradients_that_overflow_at_any_scale_stop_all(
    workspace: Workspace, make_config: MakeConfig
) -> None:
    options = {"parallel": "deepspeed", "zero_stage": 1, "precision": "fp16", "batch_size": 4}
    scale = {"fp16": {"initial_scale_power": 1, "hysteresis": 1}}
    config = make_config(deepspeed_config=write_json(workspace, scale), val_every=0, **options)
    done = torchrun(config, before=FP16 + BROKEN.replace("== 2", ">= 2"))
    assert done.returncode != 0
    assert (
        "before step 4: gradients overflow in fp16 at any loss scale on the samples" in done.stderr
    )


# A checkpoint of DeepSpeed's own beside each of ours, as the reference's train_dalle.py writes it.
SAVE_BOTH = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from tests.oracles.codecs import dalle_pytorch
dalle_pytorch()
from pipeline.models.checkpoints.export import dalle_pytorch_hparams
from pipeline.train.trainer import Trainer
own = Trainer.save
def save(self):
    own(self)
    client = dict(hparams=dalle_pytorch_hparams(self.state.hyperparameters), epoch=3)
    folder = self.folder.root.parent / "dalle-ds-cp"
    self.state.module.save_checkpoint(str(folder), client_state=client)
Trainer.save = save
"""


@pytest.mark.slow
@pytest.mark.parametrize("stage", [2, 3])
def test_what_this_deepspeed_saves_is_read_as_our_own_checkpoint(
    workspace: Workspace, make_config: MakeConfig, stage: int
) -> None:
    dalle_pytorch()
    options = {"model": "dalle-pytorch", "batch_size": 4, "save_every": 0}
    engine = {"parallel": "deepspeed", "zero_stage": stage}
    done = torchrun(make_config(steps=6, **engine, **options), before=SAVE_BOTH)
    assert done.returncode == 0, done.stderr
    folder = workspace.root / "runs/dalle-ds-cp"
    assert (folder / "latest").read_text() == "global_step6"
    theirs, ours = read_warm_start(folder), read_warm_start(workspace.run("tiny"))
    assert theirs.model == ours.model
    for found, expected in ((theirs.weights, ours.weights), (theirs.moments, ours.moments)):
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=0, atol=0, msg=name)
    run(make_config(name="further", steps=2, resume_from=folder))

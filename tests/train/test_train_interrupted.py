"""Ctrl-C and SIGTERM: a checkpoint is saved, and the run ends in the bytes of an uninterrupted one."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from pipeline.core.workspace import Workspace
from pipeline.models.checkpoints.native import list_checkpoints, read_info
from pipeline.models.dalle.model import DalleLoss
from pipeline.train.config import TrainConfig
from pipeline.train.feeding import DeviceBatch
from pipeline.train.run import run
from pipeline.train.trainer import Trainer
from tests.helpers.progress import items_only
from tests.helpers.training import TrainedRuns, log_of, open_workspace, tree
from tests.train.test_evaluation_samples import codec

__all__ = ["codec"]

MakeConfig = Callable[..., TrainConfig]
SIGNALS = [signal.SIGINT, signal.SIGTERM]


def signal_at(step: int, number: signal.Signals = signal.SIGTERM) -> Callable[..., None]:
    """A progress that sends this process a signal as soon as so many steps are done."""

    def progress(done: int, total: int | None, notes: object = None) -> None:
        if done == step:
            signal.raise_signal(number)

    return progress


def be_interrupted(config: TrainConfig, step: int, number: signal.Signals = signal.SIGTERM) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(config, signal_at(step, number))


def steps_of(folder: Path) -> list[int]:
    return [read_info(path).step for path in list_checkpoints(folder / "checkpoints")]


@pytest.mark.parametrize("number", SIGNALS)
def test_no_step_is_lost(
    workspace: Workspace, make_config: MakeConfig, number: signal.Signals
) -> None:
    """As far as the next checkpoint would have been, and without an earlier one."""
    config = make_config(steps=3000, save_every=1000, val_every=0)
    be_interrupted(config, 14, number)
    folder = workspace.run("tiny")
    assert steps_of(folder) == [15]  # the step that was going on was finished
    assert read_info(list_checkpoints(folder / "checkpoints")[0]).training["samples"] == 15 * 8
    assert [record["step"] for record in log_of(folder)] == list(range(1, 16))
    assert not (folder / "manifest.json").exists()


@pytest.mark.parametrize("step", [1, 3, 4, 6, 9, 11])
def test_it_resumes_to_the_same_bytes(
    workspace: Workspace, make_config: MakeConfig, trained: TrainedRuns, step: int
) -> None:
    config = make_config(log_every=2)
    whole = trained.whole(config)
    be_interrupted(config, step)
    assert steps_of(workspace.run("tiny"))[-1] == step + 1
    run(config)
    assert tree(workspace.run("tiny")) == whole


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_stopped_again_and_again_it_ends_in_the_same_bytes(
    workspace: Workspace, make_config: MakeConfig, trained: TrainedRuns, keep: int
) -> None:
    config = make_config(
        steps=14, save_every=4, keep_n_checkpoints=keep, lr_decay="plateau", ema_decay=0.9
    )
    whole = trained.whole(config)
    folder, found = workspace.run("tiny"), []
    for step in (1, 3, 5, 8, 10):
        be_interrupted(config, step)
        found.append(steps_of(folder))
    # The step of an interruption counts as the last one that stays, until the next is written.
    expected = [[2], [4], [4, 6], [4, 8, 9], [4, 8, 11]]
    assert found == [steps[-keep:] for steps in expected]
    run(config)
    assert tree(folder) == whole


def test_validation_that_was_broken_off_is_made_up_for(
    workspace: Workspace,
    make_config: MakeConfig,
    trained: TrainedRuns,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = make_config(batch_size=4, val_every=4, steps=9)
    whole = trained.whole(config)
    healthy, validated = Trainer.loss, []

    def loss(self: Trainer, module: nn.Module, batch: DeviceBatch) -> DalleLoss:
        if not module.training:
            validated.append(self.state.step)
            signal.raise_signal(signal.SIGTERM)
        return healthy(self, module, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "loss", loss)
        with pytest.raises(KeyboardInterrupt):
            run(config)
    folder = workspace.run("tiny")
    assert validated == [4]  # the second of two batches was not begun
    assert steps_of(folder) == [4]
    assert not any("val_loss" in record for record in log_of(folder))
    run(config)
    assert tree(folder) == whole


@pytest.mark.usefixtures("codec")
def test_a_grid_that_was_broken_off_is_drawn_later(
    workspace: Workspace, make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.train.evaluation import GridSampler

    config = make_config(sample_every=4, ema_decay=0.5, val_every=0)
    run(config)
    whole = tree(workspace.run("tiny"))
    workspace.run("tiny").rename(workspace.root / "elsewhere")
    healthy = GridSampler.draw

    def draw(self: GridSampler, model: nn.Module, stop: Any) -> Any:
        signal.raise_signal(signal.SIGTERM)
        return healthy(self, model, stop)

    with monkeypatch.context() as patch:
        patch.setattr(GridSampler, "draw", draw)
        with pytest.raises(KeyboardInterrupt):
            run(config)
    folder = workspace.run("tiny")
    assert steps_of(folder) == [4]
    assert not (folder / "samples").exists()
    run(config)
    assert tree(folder) == whole


def test_a_signal_in_the_last_step_leaves_only_the_end_to_do(
    workspace: Workspace, make_config: MakeConfig, trained: TrainedRuns
) -> None:
    config = make_config(log_every=5, val_every=5)
    whole = trained.whole(config)
    be_interrupted(config, 11)
    assert steps_of(workspace.run("tiny")) == [10, 12]
    steps: list[int] = []
    run(config, items_only(lambda done, total, notes=None: steps.append(done)))
    assert steps == []
    assert tree(workspace.run("tiny")) == whole


def test_a_call_in_another_thread_trains_as_well(
    workspace: Workspace, make_config: MakeConfig
) -> None:
    import threading

    thread = threading.Thread(target=run, args=(make_config(steps=2),))
    thread.start()
    thread.join()
    assert steps_of(workspace.run("tiny")) == [2]


# --- The command -------------------------------------------------------------------------------------


def command(workspace: Workspace, options: Mapping[str, object]) -> list[str]:
    small = {"dim": 16, "depth": 1, "heads": 1, "dim-head": 16, "threads": 1, "batch-size": 8}
    words = [f"--{name}={value}" for name, value in {**small, **options}.items()]
    place = f"--workspace={workspace.root}"
    train = ["train", place, "--device=cpu", "--no-tensorboard"]
    return [sys.executable, "-m", "pipeline", *train, *words]


@pytest.mark.parametrize("number", SIGNALS)
def test_the_command_says_that_it_stopped_and_the_same_one_resumes(
    workspace: Workspace, number: signal.Signals
) -> None:
    open_workspace(workspace)
    endless = command(workspace, {"steps": 10**6, "save-every": 10**6, "log-every": 1})
    log = workspace.run("dalle") / "log.jsonl"
    with subprocess.Popen(
        endless, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        while not (log.exists() and log.read_bytes().count(b"\n") > 3):
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(number)
        _, stderr = process.communicate()
    assert process.returncode == 130, stderr
    assert "run the same command again to continue" in " ".join(stderr.split())
    (step,) = steps_of(workspace.run("dalle"))
    assert step > 3
    assert len(log_of(workspace.run("dalle"))) == step

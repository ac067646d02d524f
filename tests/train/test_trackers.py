"""Logging: log.jsonl, event files, W&B."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.core.errors import DependencyError
from pipeline.core.storage import read_manifest
from pipeline.core.workspace import Workspace
from pipeline.train.config import TrainConfig
from pipeline.train.run import run
from tests.helpers.progress import items_only
from tests.helpers.training import StoppedError, log_of, stop_at

MakeConfig = Callable[..., TrainConfig]


def events_of(workspace: Workspace) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(workspace.run("tiny") / "tensorboard")).Reload()
    return {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }


def test_event_files_hold_what_the_log_holds_and_speeds(
    workspace: Workspace, make_config: MakeConfig
) -> None:
    run(make_config(tensorboard=True))
    events = events_of(workspace)
    log = log_of(workspace.run("tiny"))
    for name in ("loss", "loss_text", "loss_image", "lr", "val_loss_image"):
        expected = [(record["step"], record[name]) for record in log if name in record]
        assert [step for step, _ in events[name]] == [step for step, _ in expected]
        logged = [value for _, value in events[name]]
        assert logged == pytest.approx([value for _, value in expected])
    assert all(value > 0 for _, value in events["tokens_per_s"])
    assert all(value > 0.01 for _, value in events["memory_gb"])
    manifest = read_manifest(workspace.run("tiny"), "run")
    assert not any(entry.path.startswith("tensorboard") for entry in manifest.files)


def test_steps_that_are_done_again_appear_once_in_the_events(
    workspace: Workspace, make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tensorboard.summary.writer import event_file_writer

    # In the order of names, which TensorBoard reads files in, the tenth file comes before the ninth.
    monkeypatch.setattr(event_file_writer, "_global_uid", event_file_writer.AtomicCounter(9))
    with pytest.raises(StoppedError):
        run(make_config(tensorboard=True), stop_at(8))
    run(make_config(tensorboard=True))
    assert [step for step, _ in events_of(workspace)["loss"]] == list(range(1, 13))


def test_wandb_gets_the_same(
    workspace: Workspace, make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged: list[Any] = []
    tracker = SimpleNamespace(
        log=lambda values, step: logged.append((step, values)),
        finish=lambda: logged.append("finished"),
    )
    asked: dict[str, Any] = {}
    stand_in = SimpleNamespace(init=lambda **kw: asked.update(kw) or tracker)
    monkeypatch.setitem(sys.modules, "wandb", stand_in)
    run(make_config(wandb="dalle_train_transformer", steps=3, val_every=0))
    assert asked["project"] == "dalle_train_transformer"
    assert asked["config"]["dim"] == 16
    losses = [(step, values["loss"]) for step, values in logged[:-1] if "loss" in values]
    assert losses == [(r["step"], r["loss"]) for r in log_of(workspace.run("tiny"))]
    assert logged[-1] == "finished"


def test_wandb_that_is_not_installed_is_asked_for(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(DependencyError, match="pip install wandb"):
        run(make_config(wandb="x"))


def test_the_progress_line_shows_speed_and_memory(make_config: MakeConfig) -> None:
    notes: list[dict[str, Any]] = []
    run(make_config(steps=3), items_only(lambda done, total, note: notes.append(dict(note))))
    assert len(notes) == 3
    assert set(notes[-1]) == {"loss", "tokens/s", "memory"}
    assert notes[-1]["memory"].endswith(" GB")

"""Options that may change when a run is resumed, errors for others, and damaged plans."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.core.errors import ConfigError, ContractError
from pipeline.core.storage import read_manifest
from pipeline.core.workspace import Workspace
from pipeline.models.checkpoints.native import list_checkpoints, read_info
from pipeline.train.config import TrainConfig
from pipeline.train.run import run
from tests.helpers.progress import items_only
from tests.helpers.training import StoppedError, TrainedRuns, log_of, stop_at, tree

MakeConfig = Callable[..., TrainConfig]


@pytest.fixture
def folder(workspace: Workspace) -> Path:
    return workspace.run("tiny")


def train(config: TrainConfig) -> list[int]:
    """Run `config`; returns the steps that were trained."""
    steps: list[int] = []
    run(config, items_only(lambda done, total, notes=None: steps.append(done)))
    return steps


@pytest.mark.parametrize("lr_decay", ["constant", "plateau"])
@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"steps": 7}, {"steps": 12}),
        ({"steps": None, "epochs": 1}, {"steps": None, "epochs": 2}),
        ({"steps": 7}, {"steps": None, "epochs": 2}),
        ({"steps": None, "epochs": 1}, {"steps": 12}),
    ],
)
def test_a_finished_run_is_prolonged_as_if_asked_for_at_the_start(
    make_config: MakeConfig,
    trained: TrainedRuns,
    lr_decay: str,
    before: dict[str, Any],
    after: dict[str, Any],
) -> None:
    folder = trained.put(make_config(lr_decay=lr_decay, **before))
    done = read_manifest(folder, "run").counts["steps"]
    more = train(make_config(lr_decay=lr_decay, **after))
    assert more[0] == done + 1
    assert tree(folder) == trained.whole(make_config(lr_decay=lr_decay, **after))


@pytest.mark.parametrize("lr_decay", ["cosine", "linear"])
@pytest.mark.parametrize("change", [{"steps": 13}, {"steps": None, "epochs": 9}, {"batch_size": 4}])
def test_with_a_learning_rate_that_depends_on_the_end_resume_from_is_suggested(
    make_config: MakeConfig, trained: TrainedRuns, lr_decay: str, change: dict[str, Any]
) -> None:
    folder = trained.put(make_config(lr_decay=lr_decay))
    before = tree(folder)
    with pytest.raises(ConfigError, match=f"--lr-decay {lr_decay}.*--resume-from {folder}"):
        train(make_config(lr_decay=lr_decay, **change))
    assert tree(folder) == before
    more = make_config(lr_decay=lr_decay, name="more", resume_from=folder, **change)
    with pytest.raises(StoppedError):
        run(more, stop_at(1))


def test_a_run_continues_with_batches_of_another_size(
    make_config: MakeConfig, trained: TrainedRuns, caplog: pytest.LogCaptureFixture
) -> None:
    """As the message about memory that ran out says."""
    folder = trained.put(make_config(lr_decay="constant"), killed_after=6)
    smaller = make_config(lr_decay="constant", batch_size=4, ga_steps=2)
    assert train(smaller) == list(range(6, 13))
    assert "batch_size 8 → 4" in caplog.text
    manifest = read_manifest(folder, "run")
    assert manifest.config["batch_size"] == 4
    assert manifest.counts["samples"] == 12 * 8


@pytest.mark.parametrize("plan", [None, "[1"])
def test_a_run_without_a_checkpoint_may_start_with_other_options(
    make_config: MakeConfig, folder: Path, plan: str | None
) -> None:
    """As when memory ran out in its first step."""
    with pytest.raises(StoppedError):
        run(make_config(), stop_at(3))
    if plan is not None:
        (folder / "plan.json").write_text(plan)
    assert train(make_config(batch_size=4, dim=24))[0] == 1
    assert read_manifest(folder, "run").config["batch_size"] == 4


def test_a_finished_run_has_nothing_to_train_in_other_batches(
    make_config: MakeConfig, trained: TrainedRuns
) -> None:
    folder = trained.put(make_config(lr_decay="constant"))
    before = tree(folder)
    with pytest.raises(ConfigError, match="no steps left, so --batch-size can't change"):
        train(make_config(lr_decay="constant", batch_size=4))
    assert tree(folder) == before
    train(make_config(lr_decay="constant", batch_size=4, steps=15))
    assert read_manifest(folder, "run").counts["samples"] == 12 * 8 + 3 * 4


@pytest.mark.parametrize(
    ("shorter", "sentence"),
    [
        ({"steps": 11}, "has already trained 12 steps.*--steps 12 or more"),
        ({"steps": None, "epochs": 2}, "is already in epoch 3.*--epochs 3 or more"),
    ],
)
def test_steps_are_not_taken_back(
    make_config: MakeConfig, trained: TrainedRuns, shorter: dict[str, Any], sentence: str
) -> None:
    folder = trained.put(make_config(lr_decay="constant"))
    before = tree(folder)
    with pytest.raises(ConfigError, match=sentence):
        train(make_config(lr_decay="constant", **shorter))
    assert tree(folder) == before


WATCHED: dict[str, Any] = {"log_every": 2, "val_every": 3, "save_every": 2, "keep_n_checkpoints": 3}


def test_monitoring_options_may_change(make_config: MakeConfig, trained: TrainedRuns) -> None:
    folder = trained.put(make_config(), killed_after=6)
    assert train(make_config(**WATCHED))[0] == 6
    steps = [read_info(path).step for path in list_checkpoints(folder / "checkpoints")]
    assert steps == [8, 10, 12]
    assert [r["step"] for r in log_of(folder) if "val_loss" in r] == [6, 9, 12]


def test_a_finished_run_stays_as_it_was_watched(
    make_config: MakeConfig, trained: TrainedRuns
) -> None:
    folder = trained.put(make_config())
    before = tree(folder)
    assert run(make_config(**WATCHED)).outcome == "unchanged"
    assert tree(folder) == before


def test_an_option_that_came_later_had_its_default(
    make_config: MakeConfig, trained: TrainedRuns
) -> None:
    folder = trained.put(make_config(), killed_after=6)
    path = folder / "plan.json"
    plan = json.loads(path.read_bytes())
    del plan["config"]["null_cond_prob"]
    path.write_text(json.dumps(plan))
    with pytest.raises(ConfigError, match=r"null_cond_prob 0\.0 → 0\.1"):
        train(make_config(null_cond_prob=0.1))
    assert train(make_config())[0] == 6


PLANS = ["", "\0" * 40, "[1", "[]", "null", "{}", '{"config": 1, "inputs": {}}', "[" * 100_000]


@pytest.mark.parametrize("data", PLANS)
def test_a_damaged_plan_is_named_and_nothing_is_changed(
    make_config: MakeConfig, trained: TrainedRuns, data: str
) -> None:
    folder = trained.put(make_config(), killed_after=6)
    (folder / "plan.json").write_text(data)
    before = tree(folder)
    with pytest.raises(ContractError, match=r"plan\.json.*--resume-from"):
        run(make_config())
    assert tree(folder) == before
    assert run(make_config(on_change="restart", steps=1)).counts["steps"] == 1


def test_a_run_with_checkpoints_and_no_plan_is_not_restarted(
    make_config: MakeConfig, trained: TrainedRuns
) -> None:
    folder = trained.put(make_config(), killed_after=6)
    (folder / "plan.json").unlink()
    with pytest.raises(ContractError, match=r"plan\.json is missing"):
        run(make_config())
    assert len(list_checkpoints(folder / "checkpoints")) == 1


def test_the_manifest_of_a_finished_run_says_what_its_lost_plan_said(
    make_config: MakeConfig, trained: TrainedRuns
) -> None:
    folder = trained.put(make_config(lr_decay="constant"))
    (folder / "plan.json").unlink()
    with pytest.raises(ConfigError, match="learning_rate"):
        run(make_config(lr_decay="constant", learning_rate=1.0))
    assert train(make_config(lr_decay="constant", steps=14)) == [13, 14]


def test_other_shards_are_named(
    workspace: Workspace, make_config: MakeConfig, trained: TrainedRuns
) -> None:
    trained.put(make_config())
    shutil.copytree(workspace.shards("default"), workspace.shards("other"))
    with pytest.raises(ConfigError, match=r"shards default → other.*--resume-from"):
        run(make_config(shards="other"))

"""A run's folder: our files, other files, and the traces of a power cut."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.core.errors import ConfigError, ContractError, ModelError, WorkspaceError
from pipeline.core.storage import read_manifest
from pipeline.core.workspace import Workspace
from pipeline.models.checkpoints.series import checkpoint_path
from pipeline.train.config import ExportConfig, TrainConfig
from pipeline.train.export import export
from pipeline.train.run import run
from tests.helpers.progress import items_only
from tests.helpers.training import StoppedError, TrainedRuns, log_of, stop_at, tree

MakeConfig = Callable[..., TrainConfig]
LOOKALIKES = ("step-000005-best", "step-000045-old", "step-000005.bak", "step-000099")


@pytest.fixture
def folder(workspace: Workspace) -> Path:
    return workspace.run("tiny")


def put_own_files_beside(folder: Path) -> dict[str, bytes]:
    """What a user may keep in a run's folder: copies of checkpoints, notes; by their paths."""
    checkpoints = folder / "checkpoints"
    for name in LOOKALIKES:
        shutil.copytree(checkpoint_path(checkpoints, 5), checkpoints / name)
    notes = (
        "checkpoints/step-notes.txt",
        "checkpoints/step-000005/notes.txt",
        "notes.txt",
        "mine/a.bin",
    )
    for name in notes:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(name)
    found = [*notes, *(f"checkpoints/{n}/model.safetensors" for n in LOOKALIKES)]
    return {name: (folder / name).read_bytes() for name in found}


def test_what_is_the_users_is_neither_deleted_nor_resumed_from_nor_listed(
    workspace: Workspace, make_config: MakeConfig, trained: TrainedRuns, tmp_path: Path
) -> None:
    config = make_config(steps=15, keep_n_checkpoints=2)
    whole = trained.whole(config)
    folder = trained.put(config, killed_after=7)
    own = put_own_files_beside(folder)
    steps: list[int] = []
    run(config, items_only(lambda done, total, notes=None: steps.append(done)))
    assert steps[0] == 6  # not after step 45 or 99
    assert {name: (folder / name).read_bytes() for name in own} == own
    left = tree(folder)
    assert {
        name: left[name] for name in whole
    } == whole  # also the manifest, which lists none of them
    report = export(ExportConfig(workspace=workspace.root, run="tiny", out=tmp_path / "dalle.pt"))
    assert report.details["checkpoint"].endswith("step-000015")
    again = run(make_config(steps=9, on_change="restart"))
    assert again.counts["steps"] == 9
    assert {name: (folder / name).read_bytes() for name in own} == own
    assert not checkpoint_path(folder / "checkpoints", 10).exists()


@pytest.mark.parametrize("name", ["model.safetensors", "rng.safetensors", "checkpoint.json"])
@pytest.mark.parametrize("damage", ["cut", "zeros", "gone"])
def test_it_resumes_from_the_checkpoint_before_a_damaged_one(
    make_config: MakeConfig,
    trained: TrainedRuns,
    caplog: pytest.LogCaptureFixture,
    name: str,
    damage: str,
) -> None:
    folder = trained.put(make_config(), killed_after=11)
    path = folder / "checkpoints/step-000010" / name
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2] if damage == "cut" else bytes(len(data)))
    if damage == "gone":
        path.unlink()
    steps: list[int] = []
    with caplog.at_level(logging.WARNING):
        run(make_config(), items_only(lambda done, total, notes=None: steps.append(done)))
    assert steps[0] == 6
    assert f"damaged checkpoint {folder}/checkpoints/step-000010" in caplog.text
    assert tree(folder) == trained.whole(make_config())


@pytest.mark.parametrize(
    "edit",
    [
        {"step": "10"},
        {"epoch": None},
        {"training": {"plateau": {"rate": "x"}}},
        {"training": {"scaler": [1]}},
        {"training": {"samples": -3}},
        {"model": {"dim": 10**9}},
        {"files": {"../model.safetensors": "0" * 64}},
    ],
    ids=json.dumps,
)
def test_a_checkpoint_edited_by_hand_is_skipped(
    make_config: MakeConfig,
    trained: TrainedRuns,
    edit: dict[str, Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder = trained.put(make_config(), killed_after=11)
    path = folder / "checkpoints/step-000010/checkpoint.json"
    said = json.loads(path.read_bytes())
    for name, value in edit.items():
        said[name] = {**said[name], **value} if isinstance(value, dict) else value
    path.write_text(json.dumps(said))
    with pytest.raises(StoppedError):  # the first step after the checkpoint before
        run(make_config(), stop_at(6))
    assert str(path) in caplog.text


def test_a_state_that_does_not_belong_to_the_run_is_refused_in_a_sentence(
    make_config: MakeConfig, folder: Path
) -> None:
    """As the scale of another engine is that of a run of ours."""
    config = make_config(precision="fp16")
    with pytest.raises(StoppedError):
        run(config, stop_at(6))
    path = folder / "checkpoints/step-000005/checkpoint.json"
    said = json.loads(path.read_bytes())
    said["training"]["scaler"] = {"cur_scale": 1.0}
    path.write_text(json.dumps(said))
    with pytest.raises(ModelError, match=r"Can't resume from .*step-000005 "):
        run(config)


TAILS = {
    "half a line": b'{"step": 8, "epoch": 0, "lo',
    "zeros": bytes(4096),
    "zeros and a line": bytes(100) + b'\n{"step": 8}\n',
    "something else": b"\xff\xfe\n[1]\n\n3\n{}\n",
}


@pytest.mark.parametrize("tail", list(TAILS))
def test_what_a_power_cut_left_at_the_end_of_the_log_is_dropped(
    make_config: MakeConfig, trained: TrainedRuns, caplog: pytest.LogCaptureFixture, tail: str
) -> None:
    folder = trained.put(make_config(), killed_after=7)
    with (folder / "log.jsonl").open("ab") as file:
        file.write(TAILS[tail])
    run(make_config())
    assert "log.jsonl: dropped" in caplog.text
    assert tree(folder) == trained.whole(make_config())


def test_a_log_that_is_gone_costs_only_its_lines(
    make_config: MakeConfig, trained: TrainedRuns
) -> None:
    folder = trained.put(make_config(), killed_after=7)
    (folder / "log.jsonl").unlink()
    report = run(make_config())
    assert [record["step"] for record in log_of(folder) if "loss" in record] == list(range(6, 13))
    assert report.details["loss"] > 0


def test_killed_between_its_last_checkpoint_and_its_manifest_it_keeps_the_last_losses(
    make_config: MakeConfig, folder: Path
) -> None:
    """The last step is in the log because the run ends there, though no line is due."""
    config = make_config(log_every=5, val_every=5)
    run(config)
    whole = tree(folder)
    (folder / "manifest.json").unlink()
    run(config)
    assert tree(folder) == whole


def test_what_was_being_written_when_it_was_killed_is_swept_up(
    make_config: MakeConfig, trained: TrainedRuns
) -> None:
    folder = trained.put(make_config(), killed_after=7)
    checkpoints = folder / "checkpoints"
    shutil.copytree(checkpoints / "step-000005", checkpoints / "step-000007.partial")
    run(make_config())
    assert tree(folder) == trained.whole(make_config())


def test_a_folder_that_is_no_run_is_refused_by_its_name(
    workspace: Workspace, make_config: MakeConfig, folder: Path
) -> None:
    folder.mkdir(parents=True)
    (folder / "thesis.txt").write_text("years")
    for options in ({}, {"on_change": "restart"}):
        with pytest.raises(WorkspaceError, match=str(folder)):
            run(make_config(**options))
    assert tree(folder).keys() == {"thesis.txt"}


def test_the_folder_of_named_runs_is_no_run_and_a_run_holds_no_other(
    workspace: Workspace, make_config: MakeConfig
) -> None:
    run(make_config(name="auto", steps=2))
    before = tree(workspace.root / "runs")
    assert next(iter(before)).startswith("custom_transformer/2L_8HD_2H_16I_6T_default_1E/")
    for options in ({}, {"on_change": "restart"}):
        with pytest.raises(WorkspaceError, match="custom_transformer"):
            run(make_config(name="custom_transformer", **options))
    assert tree(workspace.root / "runs") == before
    run(make_config(steps=2))
    with pytest.raises(WorkspaceError, match=r"inside .*/tiny"):
        run(make_config(name="tiny/within"))
    assert [path.name for path in (workspace.root / "runs").glob("tiny/*/")] == ["checkpoints"]


@pytest.mark.parametrize(
    "name", ["", "..", "../raw", "../../elsewhere", "/tmp/x", ".hidden", "a/b/c"]
)
def test_a_name_that_leads_elsewhere_is_refused(make_config: MakeConfig, name: str) -> None:
    with pytest.raises(ConfigError, match="can't name a folder"):
        run(make_config(name=name, on_change="restart"))


@pytest.mark.parametrize("damage", ["cut", "changed", "gone"])
def test_a_damaged_tokenizer_of_the_shards_is_not_trained_with(
    workspace: Workspace, make_config: MakeConfig, folder: Path, damage: str
) -> None:
    path = workspace.shards("default") / "tokenizer.json"
    data = path.read_bytes()
    path.write_bytes(data[:-1] if damage == "cut" else data.replace(b"red", b"der"))
    if damage == "gone":
        path.unlink()
    with pytest.raises(ContractError, match=str(path)):
        run(make_config())
    assert not folder.exists()


def test_a_file_of_ours_that_was_there_before_the_run_finished_is_in_its_manifest(
    make_config: MakeConfig, folder: Path
) -> None:
    run(make_config(tensorboard=True))
    listed = {entry.path for entry in read_manifest(folder, "run").files}
    others = {name for name in tree(folder) if not name.startswith("tensorboard/")}
    assert listed == others - {"manifest.json"}

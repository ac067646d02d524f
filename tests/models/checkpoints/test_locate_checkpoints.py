"""The checkpoint to use of a run: finished, in progress, or damaged."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pipeline.core.errors import ConfigError, ModelError
from pipeline.core.storage import make_manifest, sha256_file, write_manifest
from pipeline.models.checkpoints.locate import checkpoint_digest, find_own, find_run_checkpoint
from pipeline.models.checkpoints.native import (
    AVERAGE_FILE,
    INFO_FILE,
    MODEL_FILE,
    OPTIMIZER_FILE,
    CheckpointInfo,
    read_info,
    write_checkpoint,
)
from pipeline.models.dalle.config import DalleConfig

MODEL = DalleConfig(
    dim=8,
    depth=1,
    heads=1,
    dim_head=8,
    text_seq_len=4,
    num_text_tokens=20,
    num_image_tokens=16,
    image_fmap_size=2,
)


def write_step(run: Path, step: int, *files: str) -> Path:
    info = CheckpointInfo(
        step=step, epoch=0, consumed=0, model=MODEL, codec="c", tokenizer="t", shards="s"
    )
    path = run / f"checkpoints/step-{step:06d}"
    write_checkpoint(path, info, {name: {"x": torch.ones(step)} for name in files or (MODEL_FILE,)})
    return path


def finish(run: Path, checkpoint: object) -> None:
    details = {"checkpoint": checkpoint}
    write_manifest(
        run, make_manifest("run", config={}, inputs={}, counts={}, files=(), details=details)
    )


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def damage_description(path: Path) -> None:
    described = json.loads((path / INFO_FILE).read_bytes())
    described["model"] = {"dim": 8}
    (path / INFO_FILE).write_text(json.dumps(described))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with the steps 2, 4 and 6, not finished."""
    folder = tmp_path / "runs/dalle"
    for step in (2, 4, 6):
        write_step(folder, step)
    return folder


def test_a_run_in_progress_gives_its_last_checkpoint(run: Path) -> None:
    found = find_run_checkpoint(run)
    assert found.path.name == "step-000006"
    assert found.reason == "the run has not finished"


def test_a_finished_run_gives_the_checkpoint_that_it_names(run: Path) -> None:
    finish(run, "checkpoints/step-000004")
    found = find_run_checkpoint(run)
    assert (found.path.name, found.reason) == ("step-000004", None)


@pytest.mark.parametrize(
    "damage",
    [
        lambda step: cut(step / MODEL_FILE),
        lambda step: cut(step / INFO_FILE),
        lambda step: (step / MODEL_FILE).unlink(),
        lambda step: (step / INFO_FILE).unlink(),
        lambda step: (step / MODEL_FILE).write_bytes(b""),
        damage_description,
    ],
)
@pytest.mark.parametrize("finished", [True, False])
def test_a_damaged_last_checkpoint_is_skipped_and_named(
    run: Path,
    finished: bool,
    damage: Callable[[Path], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    if finished:
        finish(run, "checkpoints/step-000006")
    damage(run / "checkpoints/step-000006")
    with caplog.at_level(logging.WARNING):
        found = find_run_checkpoint(run)
    assert found.path.name == "step-000004"
    assert found.reason == ("the last one is damaged" if finished else "the run has not finished")
    assert "Skipped the damaged checkpoint" in caplog.text
    assert "step-000006: " in caplog.text


def test_moments_that_are_damaged_do_not_matter_for_drawing(run: Path) -> None:
    step = write_step(run, 8, MODEL_FILE, OPTIMIZER_FILE)
    cut(step / OPTIMIZER_FILE)
    assert find_run_checkpoint(run).path == step


def test_a_damaged_mean_of_the_weights_is_found_out(run: Path) -> None:
    cut(write_step(run, 8, MODEL_FILE, AVERAGE_FILE) / AVERAGE_FILE)
    assert find_run_checkpoint(run).path.name == "step-000006"


@pytest.mark.parametrize(
    "named", ["../../elsewhere", "/etc", "", None, 3, "checkpoints/step-000099"]
)
def test_a_manifest_that_names_no_checkpoint_of_the_run_is_not_followed(
    run: Path, named: object, tmp_path: Path
) -> None:
    write_step(tmp_path / "elsewhere", 9)
    shutil.move(tmp_path / "elsewhere/checkpoints/step-000009", tmp_path / "elsewhere/9")
    finish(run, named)
    assert find_run_checkpoint(run).path == run / "checkpoints/step-000006"


def test_no_intact_checkpoint_is_an_error(run: Path) -> None:
    for step in (run / "checkpoints").iterdir():
        cut(step / MODEL_FILE)
    with pytest.raises(ModelError, match=r"All checkpoints of .*dalle are damaged"):
        find_run_checkpoint(run)


def test_a_run_without_a_checkpoint_says_when_there_will_be_one(tmp_path: Path) -> None:
    (tmp_path / "runs/new").mkdir(parents=True)
    with pytest.raises(ModelError, match=r"has no checkpoint yet.*--save-every"):
        find_run_checkpoint(tmp_path / "runs/new")


def test_a_run_that_is_not_there_is_named_with_those_that_are(run: Path) -> None:
    with pytest.raises(ModelError, match="Did you mean 'dalle'"):
        find_run_checkpoint(run.parent / "dale")
    with pytest.raises(ModelError, match=r"Choices: dalle\. `pipeline train` creates one"):
        find_run_checkpoint(run.parent / "zzz")


def test_the_folder_of_a_run_means_its_last_intact_checkpoint(run: Path) -> None:
    cut(run / "checkpoints/step-000006" / MODEL_FILE)
    step = run / "checkpoints/step-000004"
    assert find_own(run) == step
    assert find_own(step) == step
    assert find_own(run / "nothing") is None
    assert checkpoint_digest(run) == sha256_file(step / INFO_FILE)


@pytest.mark.parametrize(
    ("given", "meant"),
    [("runs/dale", "runs/dalle"), ("runs/dalle/checkpoints/step-00006", "step-000006")],
)
def test_a_path_close_to_a_checkpoint_is_corrected(
    run: Path, tmp_path: Path, given: str, meant: str
) -> None:
    with pytest.raises(ConfigError, match=f"there is no checkpoint. Did you mean .*{meant}'"):
        checkpoint_digest(tmp_path / given)
    with pytest.raises(ModelError, match=f"is missing.* Did you mean .*{meant}'"):
        read_info(tmp_path / given)

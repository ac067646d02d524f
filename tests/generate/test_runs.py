"""Generating from runs in progress or with a damaged last checkpoint; guidance of models."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.core.errors import ModelError
from pipeline.core.storage import read_manifest
from pipeline.core.workspace import Workspace
from pipeline.generate.config import GenerateConfig
from pipeline.generate.run import run
from pipeline.models.checkpoints.native import MODEL_FILE, read_info
from tests.generate.images import hashes_by_prompt
from tests.generate.test_foreign import write_stock
from tests.helpers.generate import write_step

MakeConfig = Callable[..., GenerateConfig]


@pytest.fixture
def in_progress(workspace: Workspace) -> Path:
    """The run `dalle` with one more checkpoint, of step 7, not finished."""
    folder = workspace.run("dalle")
    codec = read_info(folder / "checkpoints/step-000003").codec
    write_step(folder, 7, codec=codec)
    (folder / "manifest.json").unlink()
    return folder


def test_a_run_in_progress_draws_from_its_last_checkpoint_and_says_which(
    workspace: Workspace,
    make_config: MakeConfig,
    in_progress: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        report = run(make_config())
    assert report.details["checkpoint"] == str(in_progress / "checkpoints/step-000007")
    assert "Using step-000007" in caplog.text
    assert "the run has not finished" in caplog.text
    run(make_config(name="given", checkpoint=in_progress / "checkpoints/step-000007"))
    assert hashes_by_prompt(workspace, "given") == hashes_by_prompt(workspace)
    assert run(make_config()).outcome == "unchanged"


def test_a_further_checkpoint_draws_beside_the_images_of_the_earlier_one(
    workspace: Workspace, make_config: MakeConfig, in_progress: Path
) -> None:
    run(make_config())
    write_step(in_progress, 9, codec=read_info(in_progress / "checkpoints/step-000003").codec)
    report = run(make_config())
    assert report.outputs == (str(workspace.generated("default-2")),)
    assert hashes_by_prompt(workspace, "default-2") != hashes_by_prompt(workspace)


def test_a_damaged_last_checkpoint_gives_way_to_the_one_before(
    workspace: Workspace,
    make_config: MakeConfig,
    in_progress: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    weights = in_progress / "checkpoints/step-000007" / MODEL_FILE
    weights.write_bytes(weights.read_bytes()[:-8])
    with caplog.at_level(logging.WARNING):
        report = run(make_config())
    assert report.details["checkpoint"] == str(in_progress / "checkpoints/step-000003")
    assert "Skipped the damaged checkpoint" in caplog.text
    inputs = read_manifest(workspace.generated("default"), "generated").inputs
    assert {name.split("/")[0] for name in inputs} == {"checkpoint", "codecs", "prompts"}


def test_a_run_that_does_not_exist_is_reported(make_config: MakeConfig) -> None:
    with pytest.raises(ModelError, match="Did you mean 'dalle'"):
        run(make_config(run="dallle"))


@pytest.mark.parametrize(
    ("training", "warned"),
    [({}, True), ({"null_cond_prob": 0.0}, True), ({"null_cond_prob": 0.1}, False)],
)
def test_guidance_of_a_model_that_saw_every_caption_is_warned_of(
    workspace: Workspace,
    make_config: MakeConfig,
    caplog: pytest.LogCaptureFixture,
    training: dict[str, Any],
    warned: bool,
) -> None:
    folder = workspace.run("dalle")
    codec = read_info(folder / "checkpoints/step-000003").codec
    step = write_step(folder, 5, codec=codec, **training)
    with caplog.at_level(logging.WARNING):
        run(make_config(checkpoint=step, cond_scale=1.0))
    assert "--cond-scale" not in caplog.text
    with caplog.at_level(logging.WARNING):
        run(make_config(checkpoint=step, cond_scale=3.0))
    assert ("--cond-scale 3 compares with an empty caption" in caplog.text) is warned
    assert ("--null-cond-prob" in caplog.text) is warned


def test_for_a_dalle_pytorch_model_guidance_is_reported_as_unknown(
    workspace: Workspace,
    make_config: MakeConfig,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    stock = {
        "checkpoint": write_stock(workspace, tmp_path / "dalle.pt"),
        "tokenizer": f"hf:{workspace.run('dalle') / 'tokenizer.json'}",
        "codec": "mine",
    }
    with caplog.at_level(logging.WARNING):
        run(make_config(**stock, cond_scale=3.0))
    assert "dalle.pt doesn't record whether it was trained with any" in caplog.text

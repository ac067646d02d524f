"""`pipeline export`: which checkpoint of a run is exported."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pipeline.core.errors import ModelError
from pipeline.core.workspace import Workspace
from pipeline.models.checkpoints.foreign import read_foreign
from pipeline.models.checkpoints.native import MODEL_FILE, load_dalle
from pipeline.train.config import ExportConfig, TrainConfig
from pipeline.train.export import export
from pipeline.train.run import run

MakeConfig = Callable[..., TrainConfig]


@pytest.fixture
def in_progress(workspace: Workspace, make_config: MakeConfig) -> Path:
    """A run with the steps 5, 10 and 12, not finished."""
    run(make_config(keep_n_checkpoints=3))
    (workspace.run("tiny") / "manifest.json").unlink()
    return workspace.run("tiny")


def exported(workspace: Workspace, out: Path, **options: object) -> str:
    """The name of the checkpoint that was exported."""
    config = ExportConfig(workspace=workspace.root, run="tiny", out=out, **options)  # type: ignore[arg-type]
    checkpoint = Path(export(config).details["checkpoint"])
    model = load_dalle(checkpoint, device=torch.device("cpu"))
    weights = read_foreign(out).weights
    assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())
    return checkpoint.name


def test_a_run_in_progress_is_exported_from_its_last_checkpoint(
    workspace: Workspace, in_progress: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert exported(workspace, tmp_path / "dalle.pt") == "step-000012"
    assert "Exporting step-000012" in caplog.text


def test_a_damaged_last_checkpoint_gives_way_to_the_one_before(
    workspace: Workspace, in_progress: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    weights = in_progress / "checkpoints/step-000012" / MODEL_FILE
    weights.write_bytes(weights.read_bytes()[:-8])
    assert exported(workspace, tmp_path / "dalle.pt") == "step-000010"
    assert "Skipped the damaged checkpoint" in caplog.text
    assert "step-000012: " in caplog.text
    assert exported(workspace, tmp_path / "given.pt", checkpoint=in_progress) == "step-000010"


def test_a_run_that_does_not_exist_is_reported(workspace: Workspace, tmp_path: Path) -> None:
    config = ExportConfig(workspace=workspace.root, run="tiny", out=tmp_path / "dalle.pt")
    with pytest.raises(ModelError, match=r"There is no run .*tiny"):
        export(config)
    assert not (tmp_path / "dalle.pt").exists()

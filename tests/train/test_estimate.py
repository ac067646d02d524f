"""What training takes is said before its first step, and a disk that is too small ends it there."""

from __future__ import annotations

import logging
import re

import pytest

from pipeline.core import estimate
from pipeline.core.errors import StorageError
from pipeline.core.progress import NOW
from pipeline.core.workspace import Workspace
from pipeline.train.run import run
from tests.helpers.training import MakeConfig


def test_the_line_names_model_batch_steps_and_times(
    make_config: MakeConfig, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "pipeline.core.estimate")
    report = run(make_config(steps=3, ga_steps=2))
    (line,) = [record.message for record in caplog.records if record.levelno == logging.INFO]
    parameters = report.counts["parameters"]
    assert line.startswith(f"train: train {parameters:,} parameters on cpu in fp32, 16 samples (")
    assert re.search(
        r"tokens\) a step, 3 steps\. Estimate: .* to the first step, .* in all; ", line
    )
    # One checkpoint: weights and two moments.
    assert f"{4 * 3 * parameters / 1000:.0f} kB of disk" in line


def test_a_disk_without_room_for_the_checkpoints_is_refused_before_anything_is_written(
    workspace: Workspace, make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(estimate, "free_bytes", lambda _: 1000)
    with pytest.raises(StorageError, match="only 1 kB are free"):
        run(make_config(steps=2))
    assert not workspace.run("tiny").exists()
    assert run(make_config(steps=2, force=True)).outcome == "done"


def test_what_is_waited_for_before_the_first_step_is_named(make_config: MakeConfig) -> None:
    seen: list[object] = []

    def progress(done: int, total: int | None, notes: object = None) -> None:
        seen.append(notes[NOW] if isinstance(notes, dict) and NOW in notes else done)

    run(make_config(steps=2), progress)
    assert seen == ["checking the shards", "building the model", "the first step", 1, 2]

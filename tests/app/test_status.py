"""`pipeline status`: each folder's state by its own manifest, and a failed attempt where it belongs."""

from __future__ import annotations

import json
import os
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pipeline.app.run_log import keep_record
from pipeline.app.status import find_rows
from pipeline.core.contracts import StageReport
from pipeline.core.errors import ConfigError, ModelError
from pipeline.core.ownership import mark_unfinished
from pipeline.core.storage import input_digest, make_manifest, write_json, write_manifest
from pipeline.core.workspace import Workspace


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return Workspace(tmp_path / "data").open(source="dalleblog").root


def finish(root: Path, name: str, contract: str, *inputs: str, number: int = 0) -> None:
    manifest = make_manifest(
        contract,
        config={},
        inputs={folder: input_digest(root / folder) for folder in inputs},
        counts={},
        files=(),
        details={"content": f"{name} {number}"},
    )
    (root / name).mkdir(parents=True, exist_ok=True)
    write_manifest(root / name, manifest)


def attempt(root: Path, stage: str, *writes: str, error: BaseException | None = None) -> None:
    try:
        with (
            keep_record(root, f"pipeline {stage}", clock=lambda: 0.0) as record,
            record.stage(stage, writes=writes) as run,
        ):
            if error is not None:
                raise error
            run.report = StageReport(stage=stage, outcome="done", outputs=(str(root / writes[0]),))
    except (ModelError, ConfigError, KeyboardInterrupt):
        pass


def states(root: Path) -> dict[str, str]:
    rows = find_rows(root)
    return {row.folder or row.stage: row.state for row in rows if row.state != "not run"}


def test_a_failed_attempt_marks_no_other_folder(root: Path) -> None:
    for name in ("generated/a", "generated/b"):
        finish(root, name, "generated")
        attempt(root, "generate", name)
    attempt(root, "generate", "generated/c", error=ModelError("not finite"))
    assert states(root) == {"generated/a": "fresh", "generated/b": "fresh", "generate": "failed"}
    (row,) = [row for row in find_rows(root) if row.state == "failed"]
    assert (row.folder, row.why) == ("", "not finite")


@pytest.mark.parametrize("error", [ModelError("broken"), KeyboardInterrupt()])
def test_the_folder_that_a_run_left_unfinished_is_the_failed_one(
    root: Path, error: BaseException
) -> None:
    finish(root, "runs/first", "run")
    finish(root, "runs/second", "run")
    mark_unfinished(root / "runs/third", "run")
    attempt(root, "train", "runs/third", error=error)
    assert states(root) == {"runs/first": "fresh", "runs/second": "fresh", "runs/third": "failed"}


def test_a_killed_run_is_failed_and_a_live_one_is_running(root: Path) -> None:
    finish(root, "runs/first", "run")
    mark_unfinished(root / "runs/second", "run")
    child = os.fork()
    if child == 0:
        with (
            keep_record(root, "pipeline train") as record,
            record.stage("train", writes=("runs/second",)),
        ):
            os._exit(9)
    os.waitpid(child, 0)
    assert states(root) == {"runs/first": "fresh", "runs/second": "failed"}
    with (
        keep_record(root, "pipeline train") as record,
        record.stage("train", writes=("runs/second",)),
    ):
        assert states(root) == {"runs/first": "fresh", "runs/second": "running"}
    attempt(root, "train", "runs/second", error=KeyboardInterrupt())
    assert states(root) == {"runs/first": "fresh", "runs/second": "failed"}


def test_a_usage_error_is_not_a_state(root: Path) -> None:
    finish(root, "runs/first", "run")
    attempt(root, "train", "runs/..", error=ConfigError("--name"))
    assert states(root) == {"runs/first": "fresh"}


def test_folders_made_from_stale_ones_are_stale_too(root: Path) -> None:
    finish(root, "raw", "raw")
    finish(root, "dedupe", "dedupe", "raw")
    finish(root, "codecs/small", "codec", "dedupe")
    finish(root, "codes/small-a", "codes", "dedupe", "codecs/small")
    finish(root, "shards/default", "shards", "codes/small-a")
    finish(root, "runs/dalle", "run", "shards/default")
    assert set(states(root).values()) == {"fresh"}
    finish(root, "raw", "raw", number=1)
    found = states(root)
    assert found.pop("raw") == found.pop("codecs/small") == "fresh"
    assert set(found.values()) == {"stale"}


def test_shards_of_a_deleted_codec_are_stale(root: Path) -> None:
    finish(root, "codecs/small", "codec")
    finish(root, "codes/small-a", "codes", "codecs/small")
    finish(root, "shards/default", "shards", "codes/small-a")
    (root / "codecs/small/manifest.json").unlink()
    found: dict[str, Any] = states(root)
    assert (found["codes/small-a"], found["shards/default"]) == ("stale", "stale")


def test_a_run_that_wrote_beside_its_name_is_the_last_one_there_alone(root: Path) -> None:
    for time, name in ((1.0, "tokenizers/bpe"), (2.0, "tokenizers/bpe-2")):
        finish(root, name, "tokenizer")
        with (
            keep_record(root, "pipeline train-tokenizer", clock=partial(float, time)) as record,
            record.stage("train-tokenizer", writes=("tokenizers/bpe",)) as run,
        ):
            run.report = StageReport(
                stage="train-tokenizer", outcome="done", outputs=(str(root / name),)
            )
    times = {row.folder: row.last_run for row in find_rows(root) if row.folder}
    assert times == {
        "tokenizers/bpe": "1970-01-01T00:00:01Z",
        "tokenizers/bpe-2": "1970-01-01T00:00:02Z",
    }


def test_a_later_success_ends_a_failure(root: Path) -> None:
    attempt(root, "train", "runs/dalle", error=ModelError("broken"))
    finish(root, "runs/dalle", "run")
    attempt(root, "train", "runs/dalle")
    assert states(root) == {"runs/dalle": "fresh"}


def test_lines_of_earlier_versions_are_read(root: Path) -> None:
    (root / "runs.jsonl").write_text(
        '{"command": "x", "stages": [{"stage": "train"}]}\n{"stages": 3}\n'
    )
    write_json(root / "runs" / "dalle" / "plan.json", {})
    assert states(root)["runs/dalle"] == "unfinished"


def test_the_last_run_of_a_folder_is_shown(root: Path) -> None:
    finish(root, "generated/a", "generated")
    for _ in range(2):
        attempt(root, "generate", "generated/a")
    lines = (root / "runs.jsonl").read_text().splitlines()
    dated = [json.loads(line) | {"started": f"2026-01-0{day}"} for day, line in enumerate(lines, 1)]
    (root / "runs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in dated))
    (row,) = [row for row in find_rows(root) if row.folder == "generated/a"]
    assert row.last_run == "2026-01-02"

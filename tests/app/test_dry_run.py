"""The whole pipeline, small: run, run again, stopped at any point and run again."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.core.inventory import find_folders
from pipeline.core.storage import input_digest
from pipeline.demo.replica.config import FaultPlan, ReplicaConfig
from pipeline.demo.replica.server import Replica
from tests.helpers.cli import run_command
from tests.helpers.small_options import scrape_options, small_options

STAGES = ("raw", "dedupe", "tokenizers/bpe", "codecs/small", "shards/default", "runs/dalle")


@pytest.fixture(scope="module")
def replica() -> Iterator[Replica]:
    faults = FaultPlan(corrupt=0.03, error=0.1, truncated=0.05)
    config = ReplicaConfig(
        sections=("relative_positions",), missing_ranks=0.05, size=64, faults=faults
    )
    with Replica(config) as server:
        yield server


@pytest.fixture
def options(replica: Replica, tmp_path: Path) -> Path:
    path = tmp_path / "options.toml"
    prompt = "a small red block sitting on a large green block"
    tables = {
        "scrape": scrape_options(replica.url, "relative_positions", limit=6),
        "train-codec": {"steps": 12, "checkpoint_every": 4},
        "shard": {"text_seq_len": 24},
        "train": {"steps": 12, "save_every": 4, "on_change": "restart"},
        "generate": {"prompts": [prompt], "num_images": 2},
    }
    path.write_text(small_options(tables))
    return path


def run(workspace: Path, options: Path) -> dict[str, Any]:
    arguments = [
        "run",
        "dalleblog",
        "--workspace",
        str(workspace),
        "--config",
        str(options),
        "--json",
    ]
    result = run_command(arguments)
    assert result.exit_code == 0, result.output
    report: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return report


def digests(workspace: Path) -> dict[str, str]:
    return {
        folder.name: input_digest(folder.path)
        for folder in find_folders(workspace)
        if folder.manifest
    }


def test_the_pipeline_runs_once_and_then_has_nothing_to_do(tmp_path: Path, options: Path) -> None:
    workspace = tmp_path / "data"
    first = run(workspace, options)
    assert first["outcome"] == "done"
    done = digests(workspace)
    assert set(STAGES) <= set(done)
    assert len(list((workspace / "generated" / "default").glob("*-*.png"))) == 2
    assert "small red block" in (workspace / "report.html").read_text()
    assert run_command(["verify", "--workspace", str(workspace)]).exit_code == 0

    second = run(workspace, options)
    assert second["outcome"] == "unchanged"
    outcomes = {name: report["outcome"] for name, report in second["details"].items()}
    assert set(outcomes.values()) == {"unchanged"}
    assert digests(workspace) == done

    other = tmp_path / "other"
    run(other, options)
    assert contents(other) == contents(workspace)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_stopped_at_any_point_it_ends_with_the_same_result(tmp_path: Path, options: Path) -> None:
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    run(straight, options)
    command = [sys.executable, "-m", "pipeline", "run", "dalleblog", "--quiet"]
    command += ["--workspace", str(stopped), "--config", str(options)]
    codes = set()
    for delay_s, how in zip(
        (1.5, 2.5, 3.5, 4.5, 5.5, 6.5, 7.5, 9),
        (signal.SIGINT, signal.SIGKILL, signal.SIGTERM) * 3,
        strict=False,
    ):
        process = subprocess.Popen(command, stderr=subprocess.PIPE)
        try:
            process.wait(delay_s)
        except subprocess.TimeoutExpired:
            process.send_signal(how)
        _, errors = process.communicate()
        assert b"Traceback" not in errors
        codes.add(process.returncode)
    assert codes <= {0, 130, -signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT}
    run(stopped, options)
    assert digests(stopped)["raw"] == digests(straight)["raw"]
    assert contents(stopped) == contents(straight)
    for name in ("kept", "rejected"):
        assert tables(stopped, name) == tables(straight, name)


def contents(workspace: Path) -> dict[str, dict[str, str]]:
    """Hashes of all files that do not depend on the order in which the images were fetched."""
    return {
        folder.name: {entry.path: entry.sha256 for entry in folder.manifest.files}
        for folder in find_folders(workspace)
        if folder.manifest and folder.contract not in ("raw", "dedupe")
    }


def tables(workspace: Path, name: str) -> list[dict[str, Any]]:
    """The rows of a dedupe table, without the locations of their bytes in the raw store."""
    import pyarrow.parquet as pq

    rows = pq.read_table(workspace / "dedupe" / name).to_pylist()
    return [{k: v for k, v in row.items() if k not in ("segment", "offset")} for row in rows]

"""`pipeline run`: which stages run and why, their records, and the forecast of a dry run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.app.run_log import keep_record, read_active, read_records
from pipeline.core.workspace import Workspace
from pipeline.demo.replica.config import ReplicaConfig
from pipeline.demo.replica.server import Replica
from tests.helpers.cli import run_command

OPTIONS = """
[scrape]
page_url = "http://dalleblog.localhost/blog/dall-e/"
connect_to = "{address}"
sections = ["relative_positions"]
limit = {limit}
attempts = 2
backoff_s = 0.01

[dedupe]
workers = 0
val_fraction = 0.3

[train-tokenizer]
vocab_size = 300
"""
SHORT = ("--until", "train-tokenizer")


@pytest.fixture(scope="module")
def replica() -> Iterator[Replica]:
    with Replica(ReplicaConfig(sections=("relative_positions",), size=16)) as server:
        yield server


def write_options(path: Path, replica: Replica, limit: int = 2) -> Path:
    address = replica.url.removeprefix("http://").strip("/")
    path.write_text(OPTIONS.format(address=address, limit=limit))
    return path


@pytest.fixture
def options(replica: Replica, tmp_path: Path) -> Path:
    return write_options(tmp_path / "options.toml", replica)


def run(workspace: Path, options: Path, *more: str, code: int = 0) -> dict[str, Any]:
    place = ("--workspace", str(workspace), "--config", str(options))
    result = run_command(["run", "dalleblog", *place, *more, "--json"])
    assert result.exit_code == code, result.output
    report: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return report


def actions(report: dict[str, Any]) -> dict[str, str]:
    return {name: view["action"] for name, view in report["details"].items()}


def outcomes(report: dict[str, Any]) -> dict[str, str]:
    return {name: stage["outcome"] for name, stage in report["details"].items()}


def test_until_and_from_choose_the_stages(tmp_path: Path, options: Path) -> None:
    workspace = tmp_path / "data"
    assert list(outcomes(run(workspace, options, "--until", "dedupe"))) == ["scrape", "dedupe"]
    part = run(workspace, options, "--from", "dedupe", *SHORT)
    assert outcomes(part) == {"dedupe": "unchanged", "train-tokenizer": "done"}
    for wrong in (("--until", "nosuch"), ("--from", "shard", "--until", "dedupe")):
        run(workspace, options, *wrong, code=2)


def test_from_may_be_in_the_file(tmp_path: Path, options: Path) -> None:
    workspace = tmp_path / "data"
    run(workspace, options, "--until", "dedupe")
    options.write_text(options.read_text() + '[run]\nfrom = "dedupe"\nuntil = "dedupe"\n')
    assert list(outcomes(run(workspace, options))) == ["dedupe"]


def test_a_run_without_its_first_stage_makes_no_workspace(tmp_path: Path, options: Path) -> None:
    run(tmp_path / "data", options, "--from", "dedupe", code=1)
    assert not (tmp_path / "data").exists()


def test_a_dry_run_touches_nothing_and_forecasts_the_run(
    tmp_path: Path, options: Path, replica: Replica
) -> None:
    workspace = tmp_path / "data"
    first = run(workspace, options, *SHORT, "--dry-run")
    assert set(actions(first).values()) == {"run"}
    assert not workspace.exists()

    run(workspace, options, *SHORT)
    asked = sum(replica.requests.values())
    before = contents(workspace)
    dry = run(workspace, options, *SHORT, "--dry-run")
    assert set(actions(dry).values()) == {"skip"}
    assert dry["outcome"] == "unchanged"
    again = run(workspace, options, "--refresh", *SHORT, "--dry-run")
    assert actions(again) == {"scrape": "run", "dedupe": "maybe", "train-tokenizer": "skip"}
    assert sum(replica.requests.values()) == asked
    assert contents(workspace) == before

    write_options(options, replica, limit=3)
    larger = run(workspace, options, *SHORT, "--dry-run")["details"]
    assert "limit 2 → 3" in larger["scrape"]["why"]
    assert larger["dedupe"]["action"] == "maybe"
    done = run(workspace, options, *SHORT)
    assert outcomes(done) == {"scrape": "done", "dedupe": "done", "train-tokenizer": "unchanged"}


def test_a_dry_run_notices_a_scrape_in_between(
    tmp_path: Path, options: Path, replica: Replica
) -> None:
    workspace = tmp_path / "data"
    run(workspace, options, *SHORT)
    run(workspace, write_options(options, replica, limit=3), "--until", "scrape")
    dry = run(workspace, options, *SHORT, "--dry-run")
    assert actions(dry) == {"scrape": "skip", "dedupe": "run", "train-tokenizer": "skip"}
    assert dry["details"]["dedupe"]["why"] == "raw changed since"
    retrained = run(workspace, options, *SHORT, "--dry-run", "--retrain")
    assert retrained["details"]["train-tokenizer"]["why"] == "if dedupe yields something new"


def test_trained_models_stay_while_data_grows(
    tmp_path: Path, options: Path, replica: Replica
) -> None:
    workspace = tmp_path / "data"
    run(workspace, options, *SHORT)
    tokenizer = (workspace / "tokenizers" / "bpe" / "manifest.json").read_bytes()
    write_options(options, replica, limit=4)
    assert outcomes(run(workspace, options, *SHORT))["train-tokenizer"] == "unchanged"
    assert (workspace / "tokenizers" / "bpe" / "manifest.json").read_bytes() == tokenizer
    rows = run_command(["status", "--workspace", str(workspace), "--json"])
    row = json.loads(rows.stdout)["details"]["tokenizers/bpe"]
    assert (row["state"], row["why"]) == ("fresh", "dedupe has grown since")
    assert outcomes(run(workspace, options, *SHORT, "--retrain"))["train-tokenizer"] == "done"


def test_a_run_leaves_a_line_with_its_inputs_and_outputs(tmp_path: Path, options: Path) -> None:
    workspace = tmp_path / "data"
    run(workspace, options, *SHORT)
    run(workspace, options, *SHORT)
    first, second = read_records(workspace)
    assert (first["command"], first["outcome"]) == ("pipeline run", "done")
    assert second["outcome"] == "unchanged"
    assert first["seconds"] > 0
    assert first["cpu_seconds"] > 0
    scrape, dedupe, tokenizer = first["stages"]
    assert scrape["counts"]["done"] == 64
    nothing = {"unchanged": 0, "changed": 0, "absent": 0, "gone": 0, "failures": {}}
    assert scrape["did"] == {
        "limit": 2,
        "sections": ["relative_positions"],
        "stored": 64,
        **nothing,
    }
    assert "did" not in dedupe
    assert dedupe["inputs"]["raw"] == scrape["outputs"]["raw"]
    assert tokenizer["inputs"] == {"dedupe": dedupe["outputs"]["dedupe"]}
    assert second["stages"][2]["skipped"].startswith("trained already")


def test_a_single_stage_leaves_a_line_too(tmp_path: Path, options: Path) -> None:
    workspace = tmp_path / "data"
    run(workspace, options, "--until", "scrape")
    command = ["dedupe", "--workspace", str(workspace), "--config", str(options)]
    by = {"PIPELINE_RUN_BY": "a scheduler"}
    assert run_command(command, env=by).exit_code == 0
    first, last = read_records(workspace)
    assert (last["command"], last["by"]) == ("pipeline dedupe", "a scheduler")
    assert "by" not in first


def test_failed_items_do_not_stop_others_and_exit_with_3(tmp_path: Path) -> None:
    from pipeline.demo.replica.config import FaultPlan

    faults = FaultPlan(error=0.1, permanent=1.0)
    with Replica(ReplicaConfig(sections=("relative_positions",), size=16, faults=faults)) as broken:
        options = write_options(tmp_path / "options.toml", broken)
        report = run(tmp_path / "data", options, *SHORT, code=3)
    assert outcomes(report) == {"scrape": "incomplete", "dedupe": "done", "train-tokenizer": "done"}
    assert read_records(tmp_path / "data")[-1]["outcome"] == "incomplete"


def test_a_source_that_is_down_changes_nothing_and_is_reported(
    tmp_path: Path, options: Path, replica: Replica
) -> None:
    workspace = tmp_path / "data"
    run(workspace, options, *SHORT)
    before = contents(workspace)
    down = tmp_path / "down.toml"
    down.write_text(options.read_text().replace(replica.url.removeprefix("http://"), "127.0.0.1:9"))
    run(workspace, down, "--refresh", *SHORT, code=1)
    assert contents(workspace) == before
    failed = read_records(workspace)[-1]
    assert failed["outcome"] == "failed"
    assert failed["error"]["type"] == "SourceError"
    status = run_command(["status", "--workspace", str(workspace), "--json"])
    row = json.loads(status.stdout)["details"]["scrape"]
    assert row["state"] == "failed"
    assert "dalleblog.localhost" in row["why"]
    assert run(workspace, options, "--refresh", *SHORT)["outcome"] == "unchanged"
    status = run_command(["status", "--workspace", str(workspace), "--json"])
    assert json.loads(status.stdout)["details"]["raw"]["state"] == "fresh"


def test_a_killed_run_is_reported_and_the_next_one_recovers(
    tmp_path: Path, options: Path, replica: Replica
) -> None:
    workspace = tmp_path / "data"
    write_options(options, replica, limit=40)
    options.write_text(options.read_text().replace("[scrape]", "[scrape]\nrate = 100.0"))
    command = [sys.executable, "-m", "pipeline", "run", "--workspace", str(workspace), "--quiet"]
    process = subprocess.Popen([*command, "--config", str(options), *SHORT])
    try:
        wait_for(
            lambda: next((a.facts for a in read_active(workspace) if a.facts.get("total")), {}),
            "done",
        )
        (running,) = read_active(workspace)
        assert running.is_running
        assert (running.facts["stage"], running.facts["process"]) == ("scrape", process.pid)
        row = status_of(workspace, "raw", "scrape")
        assert row["state"] == "running"
        assert " of 768" in row["why"]
        assert run(workspace, options, code=1)["error"]["type"] == "LockedError"
    finally:
        process.kill()
        process.wait()
    assert status_of(workspace, "raw", "scrape")["state"] == "failed"
    write_options(options, replica, limit=40)
    report = run(workspace, options, *SHORT)
    assert report["details"]["scrape"]["counts"]["done"] == 768
    killed, healed = read_records(workspace)
    assert killed["outcome"] == "killed"
    assert killed["stages"] == [{"stage": "scrape", "writes": ["raw", "run"], "outcome": "killed"}]
    assert healed["outcome"] == "done"


def test_a_torn_line_is_skipped_and_ended(tmp_path: Path) -> None:
    root = Workspace(tmp_path / "data").open(source="dalleblog").root
    (root / "runs.jsonl").write_bytes(b'{"command": "one"}\n{"comm')
    with keep_record(root, "two", clock=lambda: 0.0):
        pass
    assert [record["command"] for record in read_records(root)] == ["one", "two"]
    assert read_records(root)[1]["started"] == "1970-01-01T00:00:00Z"


def test_a_record_may_contain_any_character(tmp_path: Path) -> None:
    root = Workspace(tmp_path / "data").open(source="dalleblog").root
    with keep_record(root, "a\u2028b\x85c"):
        pass
    assert [record["command"] for record in read_records(root)] == ["a\u2028b\x85c"]


def test_an_interrupted_run_is_recorded_as_such(tmp_path: Path) -> None:
    root = Workspace(tmp_path / "data").open(source="dalleblog").root

    def work() -> None:
        with keep_record(root, "pipeline run") as record, record.stage("dedupe"):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)

    with pytest.raises(KeyboardInterrupt):
        work()
    (line,) = read_records(root)
    assert line["outcome"] == line["stages"][0]["outcome"] == "interrupted"
    assert read_active(root) == []


def status_of(workspace: Path, *names: str) -> dict[str, Any]:
    result = run_command(["status", "--workspace", str(workspace), "--json"])
    rows = json.loads(result.stdout)["details"]
    row: dict[str, Any] = next(rows[name] for name in names if name in rows)
    return row


def wait_for(read: Any, key: str) -> None:
    for _ in range(300):
        if key in read():
            return
        time.sleep(0.1)
    raise AssertionError(f"no {key!r} within 30 s")


def contents(workspace: Path) -> dict[str, bytes]:
    """Every file except the records of runs."""
    left_out = ("runs.jsonl",)
    return {
        str(path.relative_to(workspace)): path.read_bytes()
        for path in sorted(workspace.rglob("*"))
        if path.is_file()
        and path.name not in left_out
        and path.parent.name not in (".locks", ".active")
        and not path.name.startswith("ledger.sqlite-")
    }

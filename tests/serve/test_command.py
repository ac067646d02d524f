"""The command: it announces its URL, takes no lock, ends cleanly, and refuses what it can't do."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from typer.testing import Result

from pipeline.app.run_log import keep_record
from pipeline.core.workspace import Workspace
from tests.helpers.cli import run_command
from tests.helpers.generate import workspace as workspace  # a fixture


def command(root: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "pipeline", "serve", "--workspace", str(root), *options]


def run(root: Path, *options: str, **environment: str) -> Result:
    """Run the command in this process: it ends before it serves."""
    return run_command(["serve", "--workspace", str(root), *options], env=environment)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_beside_a_running_stage_until_a_signal_and_ends_cleanly(
    number: signal.Signals, workspace: Workspace
) -> None:
    with (
        keep_record(workspace.root, "pipeline train", whole=True),
        subprocess.Popen(
            command(workspace.root, "--port", "0", "--json"),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process,
    ):
        assert process.stdout is not None
        url = json.loads(process.stdout.readline())["address"]
        with urllib.request.urlopen(f"{url}healthz", timeout=60) as answer:
            assert json.load(answer) == {"status": "ok", "waiting": 0}
        request = urllib.request.Request(url, headers={"Accept": "text/html"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            assert b"<h1>a source</h1>" in answer.read()
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "Traceback" not in errors
    assert not (workspace.root / "runs.jsonl").read_text().count("pipeline serve")


def test_a_port_that_is_taken_is_a_usage_error(workspace: Workspace) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = run(workspace.root, "--port", str(taken.getsockname()[1]))
    assert done.exit_code == 2
    assert "can't be used" in done.output
    assert "Traceback" not in done.output


def test_another_address_without_a_token_is_a_usage_error(workspace: Workspace) -> None:
    done = run(workspace.root, "--host", "0.0.0.0", "--port", "0")
    assert done.exit_code == 2
    assert "PIPELINE_SERVE_TOKEN" in done.output


def test_a_token_in_the_environment_is_not_printed(workspace: Workspace) -> None:
    done = run(
        workspace.root, "--host", "no.such.host.invalid", PIPELINE_SERVE_TOKEN="very secret token"
    )
    assert done.exit_code == 2
    assert "can't be used" in done.output
    assert "very secret token" not in done.output


def test_a_folder_that_is_no_workspace_is_refused(tmp_path: Path) -> None:
    done = run(tmp_path)
    assert done.exit_code == 1
    assert "is not a workspace" in done.output

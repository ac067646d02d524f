"""Run by `make test-airflow` in Airflow's own environment; without Airflow there is nothing to run here."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PIPELINE = Path(os.environ.get("DALLE_PIPELINE_COMMAND", ROOT / ".venv" / "bin" / "pipeline"))

# Airflow reads them when it is first imported.
os.environ.setdefault("AIRFLOW_HOME", tempfile.mkdtemp(prefix="airflow-"))
os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"
os.environ["AIRFLOW__CORE__DAGS_FOLDER"] = str(ROOT / "dags")
os.environ["AIRFLOW__LOGGING__LOGGING_LEVEL"] = "WARNING"
sys.path.insert(0, str(ROOT / "dags"))


@pytest.fixture
def start_replica(tmp_path: Path) -> Iterator[object]:
    """Give a function that starts a replica with these options and returns its host:port."""
    started: list[subprocess.Popen[str]] = []

    def start(*options: str, port: int = 0) -> str:
        import json

        line = [str(PIPELINE), "replica", "--port", str(port), "--size", "32", "--json", *options]
        process = subprocess.Popen(line, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None
        return str(json.loads(process.stdout.readline())["address"]).split("/")[2]

    start.started = started  # type: ignore[attr-defined]
    yield start
    for process in started:
        process.terminate()
        process.wait()

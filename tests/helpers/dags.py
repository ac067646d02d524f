"""Run by `make test-airflow` in Airflow's own environment; without Airflow there is nothing to run here."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PIPELINE = Path(os.environ.get("DALLE_PIPELINE_COMMAND", ROOT / ".venv" / "bin" / "pipeline"))
PYTHON = Path(os.environ.get("DALLE_PIPELINE_PYTHON", PIPELINE.parent / "python"))
SECTION = "relative_positions"

# Airflow reads them when it is first imported.
os.environ.setdefault("AIRFLOW_HOME", tempfile.mkdtemp(prefix="airflow-"))
os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"
os.environ["AIRFLOW__CORE__DAGS_FOLDER"] = str(ROOT / "dags")
os.environ["AIRFLOW__LOGGING__LOGGING_LEVEL"] = "WARNING"
for name in [name for name in os.environ if name.startswith("DALLE_PIPELINE_")]:
    del os.environ[name]
sys.path.insert(0, str(ROOT / "dags"))


@pytest.fixture(scope="session")
def metadata() -> None:
    """Airflow's database, made once."""
    from airflow.utils import db

    db.initdb()


@pytest.fixture
def bag(metadata: None) -> Any:
    from airflow.dag_processing.dagbag import DagBag

    return DagBag(str(ROOT / "dags"))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, metadata: None) -> Path:
    """The workers' workspace; their command is `pipeline` beside it."""
    workspace = tmp_path / "place" / "data"
    workspace.mkdir(parents=True)
    monkeypatch.setenv("DALLE_PIPELINE_COMMAND", str(tmp_path / "pipeline"))
    monkeypatch.setenv("DALLE_PIPELINE_WORKSPACE", str(workspace))
    monkeypatch.setenv("DALLE_PIPELINE_ALERT_COMMAND", f"tee -a {tmp_path}/sent")
    from tests.dags.calls import write_command

    write_command(tmp_path, "exit 1")
    return workspace


class Source:
    """A replica of the blog that comes and goes."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def start(self, sections: Sequence[str], changed: Sequence[str]) -> str:
        """Start it with these sections, with other images at the paths `changed`; returns its host:port."""
        self.stop()
        script = ROOT / "tests" / "dags" / "serve_replica.py"
        self._process = subprocess.Popen(
            [str(PYTHON), str(script), ",".join(sections), *changed],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def stop(self) -> None:
        """End it: the source is dead."""
        if self._process is not None:
            self._process.communicate("")
            self._process = None


@pytest.fixture
def source() -> Iterator[Source]:
    source = Source()
    yield source
    source.stop()

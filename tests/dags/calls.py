"""A task's context and its command, without a run: for the tests of what a task does."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from dalle_pipeline_airflow.assets import SHARDS
from dalle_pipeline_airflow.operator import PipelineOperator


class Task:
    """What a task instance gives: its siblings' states, and since when it waits."""

    dag_id, run_id, task_id, try_number = "a_dag", "a_run", "a_task", 1

    def __init__(self) -> None:
        self.siblings: dict[str, str] = {}
        self.waits_since: datetime | None = None

    def get_task_states(self, **_: Any) -> dict[str, dict[str, str]]:
        return {self.run_id: self.siblings}

    def get_first_reschedule_date(self, _context: Any) -> datetime | None:
        return self.waits_since

    def get_previous_dagrun(self) -> Any:
        return None


class Log:
    """A task's log; it may raise, as Airflow's timeout does from a signal handler while a line is read."""

    def __init__(self, raises: Exception | None = None) -> None:
        self.levels: list[int] = []
        self._raises = raises

    def info(self, *_: Any) -> None:
        """The command line."""

    def log(self, level: int, *_: Any) -> None:
        self.levels.append(level)
        if self._raises is not None:
            raise self._raises


def write_command(folder: Path, script: str) -> None:
    path = folder / "pipeline"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def context(conf: dict[str, Any] | None = None, event: Any = None, **params: Any) -> dict[str, Any]:
    dag = SimpleNamespace(dag_id="a_dag", params={"workspace": None, "config": None, "limit": None})
    run = SimpleNamespace(conf=conf, run_type="manual", start_date=datetime.now(UTC))
    events = {SHARDS: [SimpleNamespace(extra=event)]} if event is not None else {}
    found = {"params": {"workspace": None, "config": None, **params}, "dag": dag, "dag_run": run}
    return {**found, "ti": Task(), "run_id": "a_run", "triggering_asset_events": events}


def operator(*arguments: str, **settings: Any) -> PipelineOperator:
    return PipelineOperator(task_id="a_task", arguments=arguments, **settings)


def report_line(**facts: Any) -> str:
    return "echo '" + json.dumps({"stage": "dedupe", "details": {}, **facts}) + "'"


def failed(kind: str, message: str = "a sentence") -> str:
    return report_line(outcome="failed", error={"type": kind, "message": message})


def sent(tmp_path: Path) -> list[str]:
    """What the alert command was handed."""
    path = tmp_path / "sent"
    lines = path.read_text().splitlines() if path.exists() else []
    return [line.split(": ", 1)[1] for line in lines]


def kept(workspace: Path) -> list[str]:
    path = workspace / "alerts.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line)["message"] for line in lines]

"""Where the tasks run: pools, queues, executor_config, timeouts, owner, by the DAG processor's environment.

`DALLE_PIPELINE_CRAWL_POOL`, `…_GPU_QUEUE`, `…_CPU_EXECUTOR_CONFIG`, `…_GPU_TASK_HOURS`: a kind of task
(crawl, cpu, gpu), then the setting. Read where the DAG files are parsed: the scheduler needs them.
"""

from __future__ import annotations

import json
import os
from datetime import timedelta
from typing import Any, Literal

Kind = Literal["crawl", "cpu", "gpu"]


def run_on(kind: Kind) -> dict[str, Any]:
    """The arguments of an operator for this kind of task. Raises ValueError for a value that is none."""
    hours = _hours(f"{kind.upper()}_TASK_HOURS")
    found = {
        "pool": _read(f"{kind.upper()}_POOL"),
        "queue": _read(f"{kind.upper()}_QUEUE"),
        "executor_config": _table(f"{kind.upper()}_EXECUTOR_CONFIG"),
        "execution_timeout": hours,
    }
    return {name: value for name, value in found.items() if value is not None}


def run_timeout() -> timedelta | None:
    """How long a run of a DAG may take; no limit unless given."""
    return _hours("RUN_HOURS")


def retry_delay() -> timedelta:
    """How long after a failure a task is tried again; after one of the network twice that, and more."""
    return _hours("RETRY_HOURS") or timedelta(minutes=5)


def owner() -> str:
    """Whom Airflow shows as the owner."""
    return _read("OWNER") or "dalle-pipeline"


def _read(name: str) -> str | None:
    return os.environ.get(f"DALLE_PIPELINE_{name}") or None


def _hours(name: str) -> timedelta | None:
    text = _read(name)
    if text is None:
        return None
    try:
        hours = float(text)
    except ValueError:
        hours = 0.0
    if not 0 < hours < 1e6:
        raise ValueError(f"DALLE_PIPELINE_{name}={text!r}: expected a number of hours above 0.")
    return timedelta(hours=hours)


def _table(name: str) -> dict[str, Any] | None:
    text = _read(name)
    if text is None:
        return None
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise ValueError(f"DALLE_PIPELINE_{name} is no JSON object: {text[:100]!r}.")
    return found

"""Resources of the tasks: pools, queues, executor_config, timeouts, owner.

`DALLE_PIPELINE_CRAWL_POOL`, `…_GPU_QUEUE`, `…_CPU_EXECUTOR_CONFIG`, `…_GPU_TASK_HOURS`: a kind of task
(crawl, cpu, gpu), then the setting. They are read from the DAG processor's environment when the DAG files are
parsed: the scheduler needs them.
"""

from __future__ import annotations

import json
import os
from datetime import timedelta
from typing import Any, Literal

Kind = Literal["crawl", "cpu", "gpu"]


def run_on(kind: Kind) -> dict[str, Any]:
    """The operator's arguments for this kind of task. Raises ValueError for an invalid value."""
    hours = _hours(f"{kind.upper()}_TASK_HOURS")
    found = {
        "pool": _read(f"{kind.upper()}_POOL"),
        "queue": _read(f"{kind.upper()}_QUEUE"),
        "executor_config": _table(f"{kind.upper()}_EXECUTOR_CONFIG"),
        "execution_timeout": hours,
    }
    return {name: value for name, value in found.items() if value is not None}


def run_timeout() -> timedelta | None:
    """The maximum duration of a DAG run; no limit by default."""
    return _hours("RUN_HOURS")


def retry_delay() -> timedelta:
    """The delay before a task is retried; twice that and growing for those that use the network."""
    return _hours("RETRY_HOURS") or timedelta(minutes=5)


def owner() -> str:
    """The owner shown in Airflow."""
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
        raise ValueError(f"DALLE_PIPELINE_{name} is not a JSON object: {text[:100]!r}.")
    return found

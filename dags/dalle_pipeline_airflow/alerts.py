"""Alerts: to the task's log, the workspace's `alerts.jsonl`, `alert_command` and Airflow's notifiers.

Each channel has a timeout, and none blocks the others. `DALLE_PIPELINE_NOTIFIERS` lists
notifiers of Airflow as JSON, `[{"class": "airflow.providers.smtp.notifications.smtp.SmtpNotifier",
"arguments": {…}}]`; in those arguments that are templates, `{{ alert }}` is the message.
"""

from __future__ import annotations

import contextvars
import importlib
import json
import logging
import os
import shlex
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from airflow.sdk import DAG
from airflow.sdk.exceptions import AirflowException

from dalle_pipeline_airflow.records import alerts_of, keep_alert
from dalle_pipeline_airflow.settings import place_of, setting, shards_events

WITHIN_S = 20.0
log = logging.getLogger("airflow.task.alerts")
Find = Callable[[Mapping[str, Any]], Iterable[tuple[str, str]]]


class Alert:
    """An Airflow callback: `find` returns the kind and the message of each alert in a context."""

    def __init__(self, find: Find) -> None:
        self.find = find

    def __call__(self, context: Any) -> None:
        """Find alerts and send them."""
        for kind, message in self.find(context):
            send_alert(context, kind, message, once=kind == "retry")


def send_alert(context: Mapping[str, Any], kind: str, message: str, *, once: bool = False) -> None:
    """Send an alert; with `once` only the first of its kind from this task in this run."""
    workspace = find_workspace(context)
    alert = _describe(context, kind, message)
    if once and workspace is not None and _was_sent(workspace, alert):
        return
    log.error("ALERT: %s", message)
    for way in _ways(workspace, alert, context):
        problem = _try_within(way)
        if problem is not None:
            log.error("An alert could not be sent: %s", problem)


def find_workspace(
    context: Mapping[str, Any], event: Mapping[str, Any] | None = None
) -> Path | None:
    """The workspace of the task; None if its settings are refused or it doesn't exist."""
    try:
        workspace = place_of(context, event).workspace
    except (AirflowException, KeyError, OSError):
        return None
    return workspace if workspace.is_dir() else None


def _describe(context: Mapping[str, Any], kind: str, message: str) -> dict[str, str]:
    task = context.get("ti")
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "dag": str(context["dag"].dag_id),
        "run": str(context["run_id"]),
        "task": "" if task is None or kind == "run" else str(task.task_id),
        "kind": kind,
        "message": message,
    }


def _was_sent(workspace: Path, alert: Mapping[str, str]) -> bool:
    same = ("dag", "task", "kind")
    return any(
        all(sent.get(name) == alert[name] for name in same)
        for sent in alerts_of(workspace, alert["run"])
    )


# --- Channels ------------------------------------------------------------------------------------


def _ways(
    workspace: Path | None, alert: Mapping[str, str], context: Mapping[str, Any]
) -> Iterator[Callable[[], None]]:
    if workspace is not None:
        yield lambda: keep_alert(workspace, alert)
    yield lambda: _run_command(alert)
    yield from _notifiers(alert, context)


def _run_command(alert: Mapping[str, str]) -> None:
    command = setting("alert_command")
    if command is None:
        return
    text = f"{alert['dag']} {alert['run']} {alert['task']}: {alert['message']}\n"
    # A session of its own: it outlives a task that is being killed.
    process = subprocess.Popen(
        shlex.split(command), stdin=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        process.communicate(text, timeout=WITHIN_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise
    if process.returncode != 0:
        raise OSError(f"alert_command exited with {process.returncode}")


def _notifiers(
    alert: Mapping[str, str], context: Mapping[str, Any]
) -> Iterator[Callable[[], None]]:
    text = os.environ.get("DALLE_PIPELINE_NOTIFIERS")
    try:
        found = json.loads(text) if text else []
        given = [(str(one["class"]), dict(one.get("arguments", {}))) for one in found]
    except (ValueError, TypeError, KeyError) as error:
        log.error("DALLE_PIPELINE_NOTIFIERS is not a list of class and arguments: %s", error)
        return
    for name, arguments in given:
        yield lambda name=name, arguments=arguments: _notify(name, arguments, alert, context)


def _notify(
    name: str,
    arguments: Mapping[str, Any],
    alert: Mapping[str, str],
    context: Mapping[str, Any],
) -> None:
    module, _, kind = name.rpartition(".")
    notifier = getattr(importlib.import_module(module), kind)(**arguments)
    full = {**context, "alert": alert["message"], "alert_kind": alert["kind"]}
    if not isinstance(full.get("dag"), DAG):  # the scheduler's instance can't render templates
        del full["dag"]
    notifier.render_template_fields(notifier._update_context(full))
    notifier.notify(full)


def _try_within(way: Callable[[], None]) -> str | None:
    """Run it in a thread; returns what went wrong, or None."""
    problems: list[str] = []

    def work() -> None:
        try:
            way()
        except Exception as error:
            problems.append(f"{type(error).__name__}: {error}")

    context = contextvars.copy_context()
    thread = threading.Thread(target=lambda: context.run(work), daemon=True)
    thread.start()
    thread.join(WITHIN_S + 5)
    if thread.is_alive():
        return f"no response within {WITHIN_S + 5:g} s"
    return problems[0] if problems else None


# --- Callbacks ----------------------------------------------------------------------------------


def failure_of(context: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """A task that has finally failed."""
    if not _was_stopped(context):
        yield "failed", f"{context['ti'].task_id} failed: {context.get('exception')}"


def first_retry_of(context: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """A task whose first try failed: the retries may take hours."""
    ti = context["ti"]
    if ti.try_number == 1 and not _was_stopped(context):
        yield (
            "retry",
            f"{ti.task_id} failed and will be retried: {context.get('exception')}",
        )


def failed_run(context: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """A run that failed without an alert of a task: by a timeout, or because it was marked as failed."""
    run, reason = str(context["run_id"]), context.get("reason") or "the reason is unknown"
    workspaces = [find_workspace(context, event) for event in shards_events(context) or [{}]]
    sent = [alert for path in workspaces if path is not None for alert in alerts_of(path, run)]
    is_known = any(alert.get("kind") in ("failed", "stopped") for alert in sent)
    if reason == "task_failure" and any(map(_is_unwritable, workspaces)):
        is_known = True
    if not is_known:
        yield "run", f"The run {run} failed: {reason}"


def _is_unwritable(workspace: Path | None) -> bool:
    """Whether the task that failed could not store its alert."""
    return workspace is None or shutil.disk_usage(workspace).free < 1 << 16


def _was_stopped(context: Mapping[str, Any]) -> bool:
    """Whether the task itself alerted that it was stopped."""
    return bool(getattr(context.get("task"), "stopped", False))

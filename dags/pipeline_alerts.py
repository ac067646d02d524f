"""Who is told what: callbacks of the tasks, in Airflow's own way. Add your own notifiers beside them."""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from airflow.sdk import BaseNotifier

FindTrouble = Callable[[Mapping[str, Any]], Iterable[str]]


class Alert(BaseNotifier):
    """Tells somebody what `find` finds in a task's context: a callback for success or failure.

    Each sentence goes to the log, into `alerts.jsonl` of the workspace, and to `alert_command`.
    """

    def __init__(self, find: FindTrouble) -> None:
        super().__init__()
        self.find = find

    def notify(self, context: Any) -> None:
        """Look, and tell."""
        for message in self.find(context):
            self.log.error("ALERT: %s", message)
            tell(message, context)


def tell(message: str, context: Mapping[str, Any]) -> None:
    """Hand an alert on; a way that fails must not keep it from the others."""
    params, ti = context["params"], context["ti"]
    record = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "dag": ti.dag_id,
        "run": ti.run_id,
        "task": ti.task_id,
        "message": message,
    }
    folder = Path(params["workspace"])
    if folder.is_dir():
        with (folder / "alerts.jsonl").open("a") as file:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
    if params["alert_command"]:
        text = f"{record['dag']} {record['run']} {record['task']}: {message}\n"
        subprocess.run(shlex.split(params["alert_command"]), input=text, text=True, check=False)


def failure_of(context: Mapping[str, Any]) -> Iterable[str]:
    """A task that failed for good."""
    yield f"{context['ti'].task_id} failed: {context.get('exception')}"


def changes_of_page(context: Mapping[str, Any]) -> Iterable[str]:
    """Sections that came, went, or have other captions."""
    report = context["ti"].xcom_pull(task_ids=context["ti"].task_id) or {}
    page = report.get("details", {}).get("page", {})
    for key, words in (
        ("sections_added", "has new sections"),
        ("sections_removed", "lost sections"),
    ):
        if page.get(key):
            yield f"The page {words}: {', '.join(page[key])}"
    for name, (before, now) in page.get("captions", {}).items():
        yield f"The page's section {name} has {now} captions, had {before}"


def doubts_of_fetches(context: Mapping[str, Any]) -> Iterable[str]:
    """Too few good fetches, or too much that differs from last time."""
    found = context["ti"].xcom_pull(task_ids=context["ti"].task_id) or {}
    least, most = context["params"]["min_good_share"], context["params"]["max_different_share"]
    if found.get("good_share", 1.0) < least:
        yield f"Only {found['good_share']:.1%} of the fetches were good, expected {least:.1%} or more"
    if found.get("different_share", 0.0) > most:
        different = f"{found['different_share']:.1%} of the data is new, changed or gone"
        yield f"{different}, expected {most:.1%} at most"

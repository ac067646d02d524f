"""The steps around the commands: check settings, measure scrapes, publish shards, link the report."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from dalle_pipeline_airflow import PIPELINE_VERSION
from dalle_pipeline_airflow.alerts import find_workspace, send_alert
from dalle_pipeline_airflow.assets import RAW, SHARDS, facts_of, last_extra
from dalle_pipeline_airflow.command import read_version
from dalle_pipeline_airflow.parts import (
    finished_runs,
    group_sections,
    label_of,
    scrape_arguments,
    was_trained_on,
)
from dalle_pipeline_airflow.records import (
    Entry,
    alerts_of,
    days_since_fresh,
    measure,
    of_run,
    page_changes,
    run_label,
    scrapes,
)
from dalle_pipeline_airflow.settings import Place, choices, place_of, shards_event


def check_begin(context: Mapping[str, Any]) -> dict[str, str]:
    """Refuse what can't succeed, before any work; returns the settings of the run."""
    place = place_of(context)
    version = read_version(place)
    if version != PIPELINE_VERSION:
        raise AirflowFailException(
            f"{place.command} is version {version}, these DAGs need {PIPELINE_VERSION}. Put the dags/ folder "
            "of the same version where Airflow reads it, or install that version of the command."
        )
    _alert_of_marked_run(context, place)
    found = {"command": place.command, "workspace": str(place.workspace), "version": version}
    return {**found, "config": str(place.config or "")}


def _alert_of_marked_run(context: Mapping[str, Any], place: Place) -> None:
    """Report a previous run that was marked as failed between two of its tasks, without an alert."""
    before = context["ti"].get_previous_dagrun()
    if before is None or str(getattr(before.state, "value", before.state)) != "failed":
        return
    places = [(run.conf or {}).get("workspace") for run in (before, context["dag_run"])]
    if places[0] != places[1] or not _has_begun(context, before.run_id):
        return
    if place.workspace.is_dir() and not alerts_of(place.workspace, before.run_id):
        said = f"The previous run, {before.run_id}, failed without an alert in alerts.jsonl: "
        said += "it was marked as failed, or the alert could not be stored"
        send_alert(context, "earlier", said, once=True)


def _has_begun(context: Mapping[str, Any], run: str) -> bool:
    """Whether a run passed its check."""
    ti = context["ti"]
    found = ti.get_task_states(dag_id=ti.dag_id, task_ids=[ti.task_id], run_ids=[run]).get(run, {})
    return "success" in {str(getattr(state, "value", state)) for state in found.values()}


def judge_fetches(context: Mapping[str, Any]) -> dict[str, float]:
    """Measure the scrapes of this run by the workspace's own records; alert if a limit is exceeded."""
    workspace, params = place_of(context).workspace, choices(context)
    own, earlier = _own_scrapes(context, workspace)
    found = measure(own, earlier)
    counts = dict(own[-1]["counts"]) if own else {}
    raw = {"outputs": [str(workspace / "raw")], "counts": counts}
    context["outlet_events"][RAW].extra = facts_of(raw, str(workspace)) | found
    least, most = params["min_good_share"], params["max_different_share"]
    if found["good_share"] < least:
        said = f"Only {found['good_share']:.1%} of the fetches succeeded, expected at least {least:.1%}"
        send_alert(context, "fetches", said, once=True)
    if found.get("different_share", 0.0) > most:
        said = f"{found['different_share']:.1%} of the data is new, changed or gone"
        said += f", expected at most {most:.1%}"
        send_alert(context, "difference", said, once=True)
    return found


def _own_scrapes(context: Mapping[str, Any], workspace: Path) -> tuple[list[Entry], list[Entry]]:
    """The workspace's scrapes of this DAG run, and those before it."""
    return of_run(scrapes(workspace), run_label(context["dag"].dag_id, context["run_id"]))


def alert_of_page(context: Mapping[str, Any]) -> None:
    """Alert about changes of the page, once per run."""
    own, _ = _own_scrapes(context, place_of(context).workspace)
    changes = page_changes(own)
    if changes:
        send_alert(context, "page", ". ".join(dict.fromkeys(changes)), once=True)


def check_age(context: Mapping[str, Any]) -> float | None:
    """Alert if no image was fetched or confirmed for too long; returns the days, if they are known."""
    workspace = find_workspace(context)
    if workspace is None:
        raise AirflowSkipException("There is no workspace to check.")
    days = days_since_fresh(scrapes(workspace), datetime.now(UTC))
    most = choices(context)["max_age_days"]
    if days is not None and days > most:
        said = f"No image was fetched or confirmed for {days:.0f} days, expected at most {most:g}"
        send_alert(context, "age", said, once=True)
    return days


def publish_shards(context: Mapping[str, Any], report: Mapping[str, Any] | None) -> str:
    """Add these to the event of the shards; skipped if the last event was for the same shards.

    It compares with the last event, not with what this run wrote: if a run wrote the shards and died before
    this task, the next one publishes them.
    """
    place = place_of(context)
    if not report:
        raise AirflowFailException(
            "`shard` left no report; perhaps it was marked as successful by hand. Clear it."
        )
    workspace, fingerprint = str(place.workspace), report["details"]["fingerprint"]
    last = last_extra(context["inlet_events"][SHARDS], workspace)
    if last.get("fingerprint") == fingerprint:
        raise AirflowSkipException("The shards have not changed since the last event.")
    counts = report["counts"]
    context["outlet_events"][SHARDS].extra = {
        "workspace": workspace,
        "config": str(place.config) if place.config else None,
        "fingerprint": fingerprint,
        "rows": counts.get("written", 0),
        "shards": counts.get("shards", 0),
    }
    return str(fingerprint)


def own_run(context: Mapping[str, Any]) -> str:
    """The name of the training of this DAG run."""
    return f"{choices(context)['run_name']}-{context['dag_run'].run_after:%Y%m%dT%H%M%S}"


def plan_parts(
    context: Mapping[str, Any], report: Mapping[str, Any] | None
) -> list[dict[str, Any]]:
    """The arguments of each part of the scrape: sections of about the same total size."""
    if not report:
        raise AirflowFailException(
            "`page` left no report; perhaps it was marked as successful by hand. Clear it."
        )
    params = choices(context)
    groups = group_sections(report["details"]["sections"], params["parts"])
    return [
        {"arguments": scrape_arguments(params, group), "shown_as": label_of(group)}
        for group in groups
    ]


def skip_if_trained(context: Mapping[str, Any], place: Place) -> None:
    """Skip if the last finished run was trained on the shards that the event names."""
    fingerprint = shards_event(context).get("fingerprint")
    runs = finished_runs(place.workspace, choices(context)["run_name"], before=own_run(context))
    if isinstance(fingerprint, str) and runs and was_trained_on(runs[-1], fingerprint):
        raise AirflowSkipException(f"{runs[-1].name} was trained on these shards.")


def report_url(context: Mapping[str, Any]) -> str:
    """The URL of the report: below DALLE_PIPELINE_REPORT_URL, else a file."""
    page = place_of(context).workspace / "report.html"
    base = os.environ.get("DALLE_PIPELINE_REPORT_URL")
    return f"{base.rstrip('/')}/{page.parent.name}/report.html" if base else page.as_uri()

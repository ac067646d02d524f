"""Continue training when the shards have changed.

check → train → report, and `retain` if old runs are to be removed, for each workspace whose shards have changed
(`news`). Triggered by the asset `dalleblog_shards`; the extra of its event contains the workspace and the fingerprint of
the shards. Every run of the DAG trains a new run in `runs/`, NAME-TIME, which starts from the last checkpoint of the
previous finished one; a killed or retried run resumes. Shards that the last finished run was trained on are skipped.

| symptom | cause | what to do |
|---|---|---|
| `check` failed | the conf, the workspace or the version of the command is not accepted | see its log |
| `train` skipped | the last finished run was trained on these shards | nothing; trigger the DAG by hand to continue |
| `train` is retried | its process was killed, or memory ran out | check the log; it resumes from its last checkpoint |
| `train` waits (up for reschedule) | a refresh is writing the shards | nothing |
| "The disk is full" | a checkpoint could not be written | free some space (`pipeline clean --keep-runs 4`), clear `train` |

See docs/scheduling.md for settings and alerts.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from airflow.sdk import DAG, TriggerRule, get_current_context, task, task_group
from airflow.sdk.exceptions import AirflowSkipException

# The package beside this file, wherever both are.
sys.path.append(str(Path(__file__).parent))

from dalle_pipeline_airflow import checks
from dalle_pipeline_airflow.alerts import Alert, failed_run, failure_of, first_retry_of
from dalle_pipeline_airflow.assets import RUN, SHARDS
from dalle_pipeline_airflow.operator import PipelineOperator
from dalle_pipeline_airflow.params import TRAIN
from dalle_pipeline_airflow.parts import train_arguments
from dalle_pipeline_airflow.resources import owner, retry_delay, run_on, run_timeout
from dalle_pipeline_airflow.settings import Place, choices, shards_events


def _train(context: Mapping[str, Any], place: Place) -> list[str]:
    checks.skip_if_trained(context, place)
    name = choices(context)["run_name"]
    return train_arguments(place.workspace, name, checks.own_run(context))


def _clean(context: Mapping[str, Any], _place: Place) -> list[str]:
    keep = choices(context)["keep_runs"]
    if keep is None:
        raise AirflowSkipException("keep_runs is not set: every run is kept.")
    return ["clean", f"--keep-runs={keep}", "--yes"]


with DAG(
    dag_id="dalleblog_train",
    description="Train on the new shards.",
    schedule=[SHARDS],
    start_date=datetime(2026, 1, 4),
    catchup=False,
    max_active_runs=1,
    allowed_run_types=["asset_triggered", "manual", "operator_triggered", "asset_materialization"],
    dagrun_timeout=run_timeout(),
    tags=["dalle-pipeline"],
    doc_md=__doc__,
    on_failure_callback=Alert(failed_run),
    default_args={
        "owner": owner(),
        "on_failure_callback": Alert(failure_of),
        "retries": 2,
        "retry_delay": retry_delay(),
        **run_on("cpu"),
    },
    params=dict(TRAIN),
) as dag:

    @task
    def news() -> list[str]:
        """The workspaces whose shards have changed; without an event, that of the conf or of the workers."""
        return [str(event.get("workspace")) for event in shards_events(get_current_context())] or [
            ""
        ]

    @task_group(prefix_group_id=False)
    def of_workspace(workspace: str) -> None:
        """The tasks for one of them, which is found by its index in the list."""

        @task(retries=1, map_index_template="{{ workspace }}")
        def check(workspace: str) -> dict[str, str]:
            """Refuse an unsuitable conf, workspace or version before any work."""
            context = get_current_context()
            found = checks.check_begin(context)
            context["workspace"] = workspace or found["workspace"]  # its name in the UI
            return found

        # One at a time: they share the device.
        train = PipelineOperator(
            task_id="train",
            arguments=_train,
            inlets=[SHARDS],
            outlets=[RUN],
            max_active_tis_per_dagrun=1,
            on_retry_callback=Alert(first_retry_of),
            **run_on("gpu"),
        )
        report = PipelineOperator(task_id="report", arguments=["report"])
        retain = PipelineOperator(
            task_id="retain", arguments=_clean, trigger_rule=TriggerRule.NONE_FAILED_MIN_ONE_SUCCESS
        )
        check(workspace) >> train >> report >> retain

    of_workspace.expand(workspace=news())

"""The DAG `dalleblog_train`: when the shards have changed, train on.

Waits for the asset `dalleblog_shards`, which names the workspace. Every run of the DAG is a run of its own in
`runs/`, which begins with the last checkpoint of the one before; a killed or retried training goes on
where it was.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from airflow.sdk import DAG, Param
from pipeline_alerts import Alert, failure_of
from pipeline_calls import PARAMS, SHARDS, PipelineOperator
from pipeline_parts import train_arguments


class FollowingOperator(PipelineOperator):
    """Runs in the workspace that the shards' event names; triggered by hand, in that of the params."""

    def execute(self, context: Any) -> dict[str, Any]:
        """Take the place from the latest event, then run."""
        events = context["triggering_asset_events"].get(SHARDS, [])
        params = {**context["params"], **(events[-1].extra if events else {})}
        if self.task_id == "train":
            stamp = context["dag_run"].run_after.strftime("%Y%m%dT%H%M%S")
            self.arguments += train_arguments(params["workspace"], params["name"], stamp)
        return super().execute({**context, "params": params})


with DAG(
    dag_id="dalleblog_train",
    description="Train on the new shards.",
    schedule=[SHARDS],
    start_date=datetime(2026, 1, 4),
    catchup=False,
    max_active_runs=1,
    tags=["dalle-pipeline"],
    doc_md=__doc__,
    default_args={"on_failure_callback": Alert(failure_of)},
    params={
        **PARAMS,
        "name": Param("dalle", type="string", description="Runs are named NAME-TIME."),
    },
) as dag:
    train = FollowingOperator(
        task_id="train", arguments=["train"], retries=2, retry_delay=timedelta(minutes=5)
    )
    train >> FollowingOperator(task_id="report", arguments=["report"], retries=1)

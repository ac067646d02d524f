"""Once a week: fetch what is new on the page, and update the shards.

check → page → plan → scrape, one part after another → judge → dedupe → tokenizer → codec → encode → shard →
verify → publish, which emits an event of the asset `dalleblog_shards` if the shards differ from those of the last
event. `report` writes the HTML report of the workspace; `age` alerts if the data has not been refreshed for too long.

**Every task runs a command that does only what is missing, so any task can be cleared and run again at any
time.** Its log contains the whole command line, for running it by hand.

| symptom | cause | what to do |
|---|---|---|
| `check` failed | the conf, the workspace or the version of the command is not accepted | see its log |
| `page` or `scrape` is retried | the source doesn't respond | wait some hours, then check the page |
| a part of `scrape` failed, others are skipped | once a part has failed for good, no other part starts | fix the cause, clear all of `scrape` |
| "The disk is full" | the disk is full; no data is damaged | free some space, clear the failed task |
| a task waits (up for reschedule) | another command is using a folder that it needs | nothing; `pipeline status` shows which command |
| `verify` failed | files were lost or changed on the disk | run `pipeline verify --repair` and the commands that it prints; clear `verify` |
| `publish` skipped | the shards have not changed since the last event | nothing |

To train although the shards have not changed, trigger `dalleblog_train`. See docs/scheduling.md for settings and alerts.
"""

from __future__ import annotations

import os
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from airflow.sdk import DAG, TriggerRule, get_current_context, task

# The package beside this file, wherever both are.
sys.path.append(str(Path(__file__).parent))

from dalle_pipeline_airflow import checks
from dalle_pipeline_airflow.alerts import Alert, failed_run, failure_of, first_retry_of
from dalle_pipeline_airflow.assets import CODES, RAW, SHARDS, TABLES
from dalle_pipeline_airflow.operator import PipelineOperator
from dalle_pipeline_airflow.params import REFRESH
from dalle_pipeline_airflow.parts import page_arguments
from dalle_pipeline_airflow.resources import owner, retry_delay, run_on, run_timeout

# Network failures end within hours; what kills a process is usually over within minutes.
_FOR_NETWORK: dict[str, Any] = {
    "retries": 4,
    "retry_delay": 2 * retry_delay(),
    "retry_exponential_backoff": True,
    "max_retry_delay": timedelta(hours=6),
    "on_retry_callback": Alert(first_retry_of),
}
_FOR_PROCESS: dict[str, Any] = {"retries": 2, "retry_delay": retry_delay()}


class PageOperator(PipelineOperator):
    """Fetches the page and alerts about changes on it."""

    def execute(self, context: Any) -> dict[str, Any]:
        """Run, then check the records of this DAG run."""
        report = super().execute(context)
        checks.alert_of_page(context)
        return report


class ReportOperator(PipelineOperator):
    """Writes the report and links it."""

    def execute(self, context: Any) -> dict[str, Any]:
        """Run, then put the link in the log and into the XCom `report_url`."""
        report = super().execute(context)
        url = checks.report_url(context)
        self.log.info("The report: %s", url)
        context["ti"].xcom_push(key="report_url", value=url)
        return report


with DAG(
    dag_id="dalleblog_refresh",
    description="Scrape what is new, prepare it, verify it.",
    schedule=os.environ.get("DALLE_PIPELINE_SCHEDULE") or "@weekly",
    start_date=datetime(2026, 1, 4),
    catchup=False,
    max_active_runs=1,
    allowed_run_types=["scheduled", "manual", "operator_triggered", "asset_materialization"],
    dagrun_timeout=run_timeout(),
    tags=["dalle-pipeline"],
    doc_md=__doc__,
    on_failure_callback=Alert(failed_run),
    default_args={
        "owner": owner(),
        "on_failure_callback": Alert(failure_of),
        **_FOR_PROCESS,
        **run_on("cpu"),
    },
    params=dict(REFRESH),
) as dag:

    @task(retries=1)
    def check() -> dict[str, str]:
        """Refuse an unsuitable conf, workspace or version before any request."""
        return checks.check_begin(get_current_context())

    @task
    def plan(report: dict[str, Any] | None) -> list[dict[str, Any]]:
        """Divide the sections into parts of about the same size."""
        return checks.plan_parts(get_current_context(), report)

    @task(outlets=[RAW])
    def judge() -> dict[str, float]:
        """The share of successful requests, and the share of the data that is different."""
        return checks.judge_fetches(get_current_context())

    @task(inlets=[SHARDS], outlets=[SHARDS])
    def publish(report: dict[str, Any] | None) -> str:
        """Emit an event of the shards if they have changed since the last event."""
        return checks.publish_shards(get_current_context(), report)

    @task(trigger_rule=TriggerRule.ALL_DONE)
    def age() -> float | None:
        """Alert if no image was fetched or confirmed for too long, even if the scrape failed."""
        return checks.check_age(get_current_context())

    page = PageOperator(
        task_id="page",
        arguments=lambda context, _place: page_arguments(context["params"]),
        **_FOR_NETWORK,
    )
    # One at a time: all parts request from the same host, and the raw store allows one command.
    scrape = PipelineOperator.partial(
        task_id="scrape",
        max_active_tis_per_dagrun=1,
        map_index_template="{{ task.shown_as }}",
        stop_after_failure=True,
        **{**run_on("crawl"), **_FOR_NETWORK},
    ).expand_kwargs(plan(page.output))
    dedupe = PipelineOperator(
        task_id="dedupe", arguments=["dedupe"], inlets=[RAW], outlets=[TABLES]
    )
    # With `run`, which trains them once and then keeps them.
    tokenizer = PipelineOperator(
        task_id="tokenizer",
        arguments=["run", "--from", "train-tokenizer", "--until", "train-tokenizer"],
        inlets=[TABLES],
    )
    codec = PipelineOperator(
        task_id="codec",
        arguments=["run", "--from", "train-codec", "--until", "train-codec"],
        inlets=[TABLES],
        **run_on("gpu"),
    )
    encode = PipelineOperator(
        task_id="encode",
        arguments=["encode"],
        inlets=[TABLES],
        outlets=[CODES],
        **run_on("gpu"),
    )
    shard = PipelineOperator(task_id="shard", arguments=["shard"], inlets=[TABLES, CODES])
    verify = PipelineOperator(task_id="verify", arguments=["verify"], inlets=[SHARDS])
    report = ReportOperator(
        task_id="report",
        arguments=["report"],
        # Whatever verify finds, if there are shards to show.
        trigger_rule=TriggerRule.ALL_DONE_MIN_ONE_SUCCESS,
    )

    check() >> page
    (
        scrape
        >> judge()
        >> dedupe
        >> tokenizer
        >> codec
        >> encode
        >> shard
        >> verify
        >> publish(shard.output)
    )
    [shard, verify] >> report
    scrape >> age()

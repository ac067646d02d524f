"""The DAG `dalleblog_refresh`: once a week, what is new on the page comes home and into the shards.

page → plan → scrape, a part after the other → dedupe → models → shard, which encodes first → verify →
report, and the asset `dalleblog_shards` where the shards have changed. Every task is a call of the `pipeline`
command that can be given again: it does what is missing, and nothing twice.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from airflow.sdk import DAG, Param, task
from airflow.sdk.exceptions import AirflowSkipException
from pipeline_alerts import Alert, changes_of_page, doubts_of_fetches, failure_of
from pipeline_calls import PARAMS, SHARDS, PipelineOperator
from pipeline_parts import group_sections, measure_fetches

# What the network breaks heals within hours; a full disk or a lock within minutes.
_FOR_NETWORK: dict[str, Any] = {
    "retries": 4,
    "retry_delay": timedelta(minutes=10),
    "retry_exponential_backoff": True,
    "max_retry_delay": timedelta(hours=6),
}
_FOR_DISK: dict[str, Any] = {"retries": 2, "retry_delay": timedelta(minutes=5)}

with DAG(
    dag_id="dalleblog_refresh",
    description="Scrape what is new, prepare it, prove it.",
    schedule="@weekly",
    start_date=datetime(2026, 1, 4),
    catchup=False,
    max_active_runs=1,
    tags=["dalle-pipeline"],
    doc_md=__doc__,
    default_args={"on_failure_callback": Alert(failure_of), "retries": 0},
    params={
        **PARAMS,
        "source": Param("dalleblog", type="string", description="The source."),
        "sections": Param([], type="array", description="Only these sections; all if empty."),
        "limit": Param(
            None, type=["null", "integer"], minimum=1, description="Captions of each part at most."
        ),
        "rate": Param(
            None,
            type=["null", "number"],
            exclusiveMinimum=0,
            description="Requests a second at most.",
        ),
        "parts": Param(4, type="integer", minimum=1, description="Parts of the scrape."),
        "mode": Param(
            "refresh",
            enum=["refresh", "update", "continue"],
            description="Ask again for everything, for what is new on the page, or for what is missing.",
        ),
        "min_good_share": Param(
            0.95,
            type="number",
            minimum=0,
            maximum=1,
            description="Alert when fewer fetches are good.",
        ),
        "max_different_share": Param(
            0.10, type="number", minimum=0, description="Alert when more of the data is different."
        ),
    },
) as dag:
    page = PipelineOperator(
        task_id="page",
        arguments=["scrape", "{{ params.source }}", "--plan"],
        on_success_callback=Alert(changes_of_page),
        **_FOR_NETWORK,
    )

    @task
    def plan(report: dict[str, Any], params: dict[str, Any]) -> list[list[str]]:
        """The arguments of each part of the scrape: groups of sections of about the same size."""
        options = [] if params["mode"] == "continue" else [f"--{params['mode']}"]
        options += [f"--limit={params['limit']}"] if params["limit"] else []
        return [
            [
                "scrape",
                params["source"],
                "--no-remember",
                *options,
                *(f"--sections={name}" for name in group),
            ]
            for group in group_sections(report["details"]["sections"], params["parts"])
        ]

    @task(on_success_callback=Alert(doubts_of_fetches))
    def judge(reports: list[dict[str, Any]]) -> dict[str, float]:
        """How much of what was asked for came, and how much of it is different."""
        return measure_fetches(reports)

    @task(outlets=[SHARDS])
    def publish(report: dict[str, Any], params: dict[str, Any], outlet_events: Any) -> None:
        """Tell whoever waits for the shards; where they are as before, nobody."""
        if report["outcome"] == "unchanged":
            raise AirflowSkipException("The shards are as they were.")
        place = {name: params[name] for name in ("workspace", "config", "command")}
        outlet_events[SHARDS].extra = place

    # One at a time: all parts ask the same host, and the workspace holds one command.
    scrape = PipelineOperator.partial(
        task_id="scrape",
        max_active_tis_per_dagrun=1,
        **_FOR_NETWORK,
    ).expand(arguments=plan(page.output))

    def call(name: str, *arguments: str, **settings: Any) -> PipelineOperator:
        """A task that runs one command."""
        return PipelineOperator(task_id=name, arguments=[*arguments], **{**_FOR_DISK, **settings})

    dedupe = call("dedupe", "dedupe")
    models = call("models", "run", "--from", "train-tokenizer", "--until", "train-codec")
    shard = call("shard", "shard", "--encode-vqgan")
    verify = call("verify", "verify", retries=0)  # What is broken stays broken: somebody must look.
    report = call("report", "report")
    judge(scrape.output) >> dedupe >> models >> shard >> verify >> report
    verify >> publish(shard.output)

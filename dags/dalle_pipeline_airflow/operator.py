"""A task that runs one `pipeline` command in the workspace of the run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import (
    AirflowException,
    AirflowFailException,
    AirflowRescheduleException,
    AirflowSkipException,
)

from dalle_pipeline_airflow.alerts import send_alert
from dalle_pipeline_airflow.assets import facts_of
from dalle_pipeline_airflow.command import Command
from dalle_pipeline_airflow.outcomes import Outcome
from dalle_pipeline_airflow.records import run_label
from dalle_pipeline_airflow.settings import Place, place_of

# For a folder that another command writes: how often to check, when to alert, when to give up.
LOCK_POLL = timedelta(seconds=30)
LOCK_ALERT_AFTER = timedelta(hours=1)
LOCK_GIVE_UP_AFTER = timedelta(days=1)
# The maximum size of a stage's report in the scheduler's database.
_LARGE_DETAILS = ("differences", "metrics", "reasons", "near_duplicates", "sizes", "measured")

Arguments = Sequence[str] | Callable[[Mapping[str, Any], Place], Sequence[str]]


class PipelineOperator(BaseOperator):
    """Runs `pipeline ARGUMENTS` and returns its report.

    `arguments` may be a function of the task's context and place. `shown_as` is Airflow's label of a mapped
    task. Done and incomplete (failed items remain) are success; see `outcomes` for the rest. If a folder is
    in use, the worker's slot is free until the next check. With `stop_after_failure` a mapped task doesn't
    start if another one of the same name has finally failed.
    """

    def __init__(
        self,
        *,
        arguments: Arguments,
        shown_as: str = "",
        stop_after_failure: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.arguments = arguments
        self.shown_as = shown_as
        self.stop_after_failure = stop_after_failure
        self.stopped = False
        self._command: Command | None = None
        self._context: Mapping[str, Any] = {}

    def execute(self, context: Any) -> dict[str, Any]:
        """Run the command and evaluate its end."""
        place = place_of(context)
        if self.stop_after_failure:
            self._stay_behind_failure(context)
        arguments = self.arguments(context, place) if callable(self.arguments) else self.arguments
        self._context = context
        by = run_label(context["dag"].dag_id, context["run_id"])
        self._command = Command(place, arguments, by=by)
        outcome = self._command.run(self.log)
        if outcome.verdict == "locked":
            self._come_back(context, outcome)
        if outcome.verdict == "final":
            raise AirflowFailException(outcome.message)
        if outcome.verdict == "retry":
            raise AirflowException(outcome.message)
        assert outcome.report is not None
        for asset in self.outlets:
            context["outlet_events"][asset].extra = facts_of(outcome.report, str(place.workspace))
        return small(outcome.report)

    def on_kill(self) -> None:
        """Stop the command and alert: Airflow has no callback for a run that somebody marked as failed."""
        if self._command is None or self.stopped:
            return
        self.stopped = True
        self._command.stop()
        send_alert(
            self._context,
            "stopped",
            f"{self.task_id} was stopped from outside: it was marked or cleared, took too long, or its "
            "worker is shutting down. What its command finished is kept.",
        )

    def _come_back(self, context: Mapping[str, Any], outcome: Outcome) -> None:
        """Free the slot and check again later. Always raises."""
        now = datetime.now(UTC)
        begun = context["ti"].get_first_reschedule_date(context) or now
        if now - begun >= LOCK_GIVE_UP_AFTER:
            raise AirflowFailException(f"Given up after {LOCK_GIVE_UP_AFTER}: {outcome.message}")
        if now - begun >= LOCK_ALERT_AFTER:
            said = f"{self.task_id} has been waiting since {begun:%Y-%m-%d %H:%M} UTC: {outcome.message}"
            send_alert(context, "waiting", said, once=True)
        raise AirflowRescheduleException(now + LOCK_POLL)

    def _stay_behind_failure(self, context: Mapping[str, Any]) -> None:
        ti = context["ti"]
        found = ti.get_task_states(
            dag_id=ti.dag_id, task_ids=[ti.task_id], run_ids=[ti.run_id]
        ).get(ti.run_id, {})
        if "failed" in {str(getattr(state, "value", state)) for state in found.values()}:
            raise AirflowSkipException(
                f"Another part of {ti.task_id} has finally failed: this one is not started. Clear all of "
                f"{ti.task_id} when the cause is gone."
            )


def small(report: Mapping[str, Any]) -> dict[str, Any]:
    """A report without what is only of interest on the command line."""
    details = {k: v for k, v in report.get("details", {}).items() if k not in _LARGE_DETAILS}
    return {**report, "details": details}

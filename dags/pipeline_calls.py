"""Calls of the `pipeline` command, for the DAGs beside this file.

Imports none of the project's code: a scheduler needs this folder, and the command by its path.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import time
from collections.abc import Mapping, Sequence
from typing import Any

from airflow.sdk import Asset, BaseOperator, Param
from airflow.sdk.exceptions import AirflowException, AirflowFailException

# Exit codes of the command; any other one is a failure that another try may heal.
DONE, WRONG_USAGE, INCOMPLETE = 0, 2, 3
# What the report of a stage may weigh in the database of the scheduler.
_LARGE_DETAILS = ("differences", "metrics", "reasons", "near_duplicates", "sizes")
_STOP_WITHIN_S = 60
# A workspace holds one command at a time, and a training may hold it for long.
LOCK_WAIT_S, LOCK_POLL_S = 24 * 3600.0, 15.0

SHARDS = Asset("dalleblog_shards")

PARAMS: Mapping[str, Param] = {
    "command": Param(
        os.environ.get("DALLE_PIPELINE_COMMAND", "pipeline"),
        type="string",
        description="The `pipeline` command: its path in the project's own environment.",
    ),
    "workspace": Param(
        os.environ.get("DALLE_PIPELINE_WORKSPACE", "data/dalleblog"),
        type="string",
        description="The dataset's folder, by its whole path.",
    ),
    "config": Param(
        os.environ.get("DALLE_PIPELINE_CONFIG") or None,
        type=["null", "string"],
        description="A TOML file with the options of the stages.",
    ),
    "engine": Param("local", type="string", description="Where parts of a stage run: local, ray."),
    "alert_command": Param(
        os.environ.get("DALLE_PIPELINE_ALERT_COMMAND") or None,
        type=["null", "string"],
        description="Run for every alert, with its text on standard input: `mail -s dalleblog you@…`.",
    ),
}


class PipelineOperator(BaseOperator):
    """Runs `pipeline ARGUMENTS` in the workspace of the DAG's params and returns its report.

    Done and incomplete (failed items remain) are success; wrong usage is never tried again, every
    other failure is, as often as `retries` says. Ended from outside, it lets the command end cleanly.
    """

    template_fields: Sequence[str] = ("arguments",)

    def __init__(self, *, arguments: Sequence[str], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.arguments = list(arguments)
        self._process: subprocess.Popen[str] | None = None

    def execute(self, context: Any) -> dict[str, Any]:
        """Run the command; its log becomes the task's."""
        params = context["params"]
        line, environment = command_line(params, self.arguments), environment_of(params)
        code, report = self._run(line, environment)
        deadline_s = time.monotonic() + LOCK_WAIT_S
        while is_locked(report) and time.monotonic() < deadline_s:
            time.sleep(LOCK_POLL_S)
            code, report = self._run(line, environment)
        if code in (DONE, INCOMPLETE) and report is not None:
            return small(report)
        message = (report or {}).get("error", {}).get("message", f"exit code {code}")
        if code == WRONG_USAGE:
            raise AirflowFailException(message)
        raise AirflowException(message)

    def on_kill(self) -> None:
        """Stop the command as Ctrl-C would: what it finished is kept."""
        if self._process is None or self._process.poll() is not None:
            return
        self._process.terminate()
        try:
            self._process.wait(_STOP_WITHIN_S)
        except subprocess.TimeoutExpired:
            self._process.kill()

    def _run(
        self, line: list[str], environment: Mapping[str, str]
    ) -> tuple[int, dict[str, Any] | None]:
        self.log.info("%s", shlex.join(line))
        report = None
        try:
            self._process = subprocess.Popen(
                line,
                env={**os.environ, **environment},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
            )
        except OSError as error:
            raise AirflowFailException(
                f"{line[0]} can't be run ({error.strerror}). Give the command's path as the param "
                "`command`, or in DALLE_PIPELINE_COMMAND."
            ) from error
        assert self._process.stdout is not None
        for text in self._process.stdout:
            report = read_report(text) or report
            self.log.info("%s", text.rstrip())
        return self._process.wait(), report


def command_line(params: Mapping[str, Any], arguments: Sequence[str]) -> list[str]:
    """The command with its arguments, workspace and options file."""
    config = ["--config", params["config"]] if params["config"] else []
    return [params["command"], *arguments, "--workspace", params["workspace"], *config, "--json"]


def environment_of(params: Mapping[str, Any]) -> dict[str, str]:
    """Options that the params give, as the environment variables that the command reads."""
    given = {
        "PIPELINE_SCRAPE_SECTIONS": "|".join(params.get("sections") or ()),
        "PIPELINE_SCRAPE_RATE": params.get("rate"),
        "PIPELINE_ENGINE": params["engine"] if params["engine"] != "local" else None,
    }
    return {name: str(value) for name, value in given.items() if value}


def read_report(line: str) -> dict[str, Any] | None:
    """The report that a line of the command holds, None if it is for a person."""
    if not line.startswith("{"):
        return None
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) and "stage" in found else None


def is_locked(report: Mapping[str, Any] | None) -> bool:
    """Whether another command holds the workspace: nothing has failed, it is only not our turn."""
    return (report or {}).get("error", {}).get("type") == "LockedError"


def small(report: Mapping[str, Any]) -> dict[str, Any]:
    """A report without what only a person at the command line wants."""
    details = {k: v for k, v in report.get("details", {}).items() if k not in _LARGE_DETAILS}
    return {**report, "details": details}

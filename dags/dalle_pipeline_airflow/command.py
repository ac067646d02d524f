"""A running `pipeline` command: its lines go to the task's log, its end becomes an `Outcome`."""

from __future__ import annotations

import json
import logging
import os
import shlex
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from airflow.sdk.exceptions import AirflowFailException

from dalle_pipeline_airflow.outcomes import Outcome
from dalle_pipeline_airflow.settings import Place

# The time that a command has to exit after SIGTERM. Kubernetes gives a pod 30 s; the task needs some itself.
STOP_WITHIN_S = 20.0
_VERSION_WITHIN_S = 120.0


class Command:
    """One call of the command in a place; `by` is the name of its initiator in the workspace."""

    def __init__(self, place: Place, arguments: Sequence[str], *, by: str = "") -> None:
        config = ["--config", str(place.config)] if place.config else []
        where = ["--workspace", str(place.workspace), *config, "--json"]
        self.line = [place.command, *arguments, *where]
        self._variables = {**os.environ, "PIPELINE_RUN_BY": by}
        self._process: subprocess.Popen[str] | None = None
        self._is_asked = self._is_signalled = False

    def run(self, log: Any) -> Outcome:
        """Run it to its end. If an exception interrupts this (a timeout), the command is stopped first."""
        log.info("%s", shlex.join(self.line))
        report, last = None, ""
        with self._started() as process:
            assert process.stdout is not None
            for text in process.stdout:
                found = read_report(text)
                report = found or report
                if found is None:
                    last = text.strip() or last
                log.log(level_of(text), "%s", text.rstrip())
            return Outcome(code=process.wait(), report=report, last_line=last)

    def stop(self) -> None:
        """Ask it to exit, as Ctrl-C would: what it finished is kept. It is killed if it doesn't."""
        self._is_asked = True  # even one that is only being started
        process = self._process
        if process is None or process.poll() is not None or self._is_signalled:
            return
        self._is_signalled = True  # once: a second signal would prevent a training run from saving
        process.terminate()
        timer = threading.Timer(STOP_WITHIN_S, process.kill)
        timer.daemon = True
        timer.start()

    @contextmanager
    def _started(self) -> Iterator[subprocess.Popen[str]]:
        # A session of its own: killing the task's group leaves the command time to exit.
        self._process = process = _open(
            self.line, stderr=subprocess.STDOUT, start_new_session=True, env=self._variables
        )
        try:
            if self._is_asked:
                self.stop()
            yield process
        finally:
            self.stop()
            with suppress(
                subprocess.TimeoutExpired
            ):  # processes that it left behind may hold the pipe
                process.communicate(timeout=STOP_WITHIN_S + 1)


def read_version(place: Place) -> str:
    """The output of `pipeline --version`. Raises AirflowFailException if it can't be run."""
    process = _open([place.command, "--version"], stderr=subprocess.PIPE)
    try:
        said, complaint = process.communicate(timeout=_VERSION_WITHIN_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise
    if process.returncode != 0:
        raise AirflowFailException(
            f"{place.command} --version exited with {process.returncode}: {complaint.strip()[-500:]}"
        )
    return said.strip().split()[-1] if said.strip() else ""


def _open(line: Sequence[str], **settings: Any) -> subprocess.Popen[str]:
    try:
        return subprocess.Popen(
            line, stdout=subprocess.PIPE, text=True, errors="replace", **settings
        )
    except OSError as error:
        raise AirflowFailException(
            f"{line[0]} can't be run ({error.strerror}). Set its path as DALLE_PIPELINE_COMMAND on the "
            "workers, or as the Variable dalle_pipeline_command."
        ) from error


def read_report(line: str) -> dict[str, Any] | None:
    """The report in a line of output, None if the line is a message."""
    if not line.startswith("{"):
        return None
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) and "stage" in found else None


def level_of(line: str) -> int:
    """The log level of a line of output."""
    if line.startswith(("Error:", "ERROR ", "CRITICAL ")):
        return logging.ERROR
    return logging.WARNING if line.startswith("WARNING ") else logging.INFO

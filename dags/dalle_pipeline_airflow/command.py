"""A `pipeline` command under way: its lines go to the task's log, its end becomes an `Outcome`."""

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

# What SIGTERM leaves a command to end in. Kubernetes gives a pod 30 s; the task needs some for itself.
STOP_WITHIN_S = 20.0
_VERSION_WITHIN_S = 120.0


class Command:
    """One call of the command in a place; `by` is how the workspace names whoever started it."""

    def __init__(self, place: Place, arguments: Sequence[str], *, by: str = "") -> None:
        config = ["--config", str(place.config)] if place.config else []
        where = ["--workspace", str(place.workspace), *config, "--json"]
        self.line = [place.command, *arguments, *where]
        self._variables = {**os.environ, "PIPELINE_RUN_BY": by}
        self._process: subprocess.Popen[str] | None = None
        self._is_asked = self._is_signalled = False

    def run(self, log: Any) -> Outcome:
        """Run it to its end. Left by an exception (a timeout), it is stopped first."""
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
        """Ask it to end, as Ctrl-C would: what it finished is kept. It is killed if it does not."""
        self._is_asked = True  # also one that is only being started
        process = self._process
        if process is None or process.poll() is not None or self._is_signalled:
            return
        self._is_signalled = True  # once: a second signal would not let a training save
        process.terminate()
        timer = threading.Timer(STOP_WITHIN_S, process.kill)
        timer.daemon = True
        timer.start()

    @contextmanager
    def _started(self) -> Iterator[subprocess.Popen[str]]:
        # A session of its own: who kills the task's group leaves the command the time to end.
        self._process = process = _open(
            self.line, stderr=subprocess.STDOUT, start_new_session=True, env=self._variables
        )
        try:
            if self._is_asked:
                self.stop()
            yield process
        finally:
            self.stop()
            with suppress(subprocess.TimeoutExpired):  # processes that it left may hold the pipe
                process.communicate(timeout=STOP_WITHIN_S + 1)


def read_version(place: Place) -> str:
    """What `pipeline --version` prints. Raises AirflowFailException where it can't be run."""
    process = _open([place.command, "--version"], stderr=subprocess.PIPE)
    try:
        said, complaint = process.communicate(timeout=_VERSION_WITHIN_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise
    if process.returncode != 0:
        raise AirflowFailException(
            f"{place.command} --version ended with {process.returncode}: {complaint.strip()[-500:]}"
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
    """The report that a line of the command holds, None if it is for a person."""
    if not line.startswith("{"):
        return None
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) and "stage" in found else None


def level_of(line: str) -> int:
    """The level at which the command wrote a line."""
    if line.startswith(("Error:", "ERROR ", "CRITICAL ")):
        return logging.ERROR
    return logging.WARNING if line.startswith("WARNING ") else logging.INFO

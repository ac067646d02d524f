"""The operator: what the ends of a command mean to Airflow, how it waits and is stopped."""

from __future__ import annotations

import logging
import os
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

pytest.importorskip("airflow")

from airflow.sdk.exceptions import (
    AirflowException,
    AirflowFailException,
    AirflowRescheduleException,
    AirflowSkipException,
)

from dalle_pipeline_airflow import alerts
from dalle_pipeline_airflow.command import Command
from dalle_pipeline_airflow.settings import place_of
from tests.dags.calls import Log, context, failed, operator, report_line, sent, write_command

# --- The ends of a command -----------------------------------------------------------------------


@pytest.mark.parametrize("code", [0, 3])
def test_done_and_incomplete_give_the_report(place: Path, tmp_path: Path, code: int) -> None:
    line = report_line(outcome="done", counts={"kept": 3})
    write_command(tmp_path, f"echo working\n{line}\necho bye >&2\nexit {code}")
    assert operator("dedupe").execute(context())["counts"] == {"kept": 3}


@pytest.mark.parametrize(
    "script",
    [
        f"{failed('ConfigError')}; exit 2",
        "echo 'Error: no such option: --x' >&2; exit 2",
        f"{failed('ContractError')}; exit 1",
        f"{failed('DamageError')}; exit 1",
        f"{failed('WorkspaceError')}; exit 1",
        f"{failed('DependencyError')}; exit 1",
        f"{failed('StorageError', 'The disk is full: no room to write x.')}; exit 1",
        f"{report_line(outcome='damaged')}; exit 1",
    ],
)
def test_what_another_try_would_find_again_is_final(
    place: Path, tmp_path: Path, script: str
) -> None:
    write_command(tmp_path, script)
    with pytest.raises(AirflowFailException):
        operator("dedupe").execute(context())


@pytest.mark.parametrize(
    "script",
    [
        f"{failed('SourceError')}; exit 1",
        f"{failed('StorageError', 'Can not write x: timed out.')}; exit 1",
        "exit 1",
        "exit 130",
        "exit 0",
        f"{failed('ContractError')}; kill -KILL $$",
        "kill -SEGV $$",
    ],
)
def test_signals_the_network_and_the_unknown_are_tried_again(
    place: Path, tmp_path: Path, script: str
) -> None:
    write_command(tmp_path, script)
    with pytest.raises(AirflowException) as caught:
        operator("dedupe").execute(context())
    assert not isinstance(caught.value, AirflowFailException)


def test_the_sentence_is_that_of_the_command(place: Path, tmp_path: Path) -> None:
    write_command(tmp_path, "echo 'Error: no such option: --x' >&2; exit 2")
    with pytest.raises(AirflowFailException, match=r"^no such option: --x$"):
        operator("dedupe").execute(context())
    folders = {"raw": {"state": "damaged"}, "runs/a": {"state": "outdated"}}
    write_command(
        tmp_path, f"{report_line(outcome='damaged', details={'folders': folders})}; exit 1"
    )
    with pytest.raises(AirflowFailException, match=r"^verify found damage in raw$"):
        operator("verify").execute(context())


def test_lines_of_the_command_keep_their_level(place: Path, tmp_path: Path) -> None:
    lines = ["plain", "WARNING scrapers.x: odd", "ERROR pipeline.y: bad", "Error: worse"]
    said = "\n".join(f"echo '{line}'" for line in lines)
    write_command(tmp_path, f"{said}\n{report_line(outcome='done')}")
    log = Log()
    Command(place_of(context()), ["dedupe"]).run(log)
    assert log.levels[:4] == [logging.INFO, logging.WARNING, logging.ERROR, logging.ERROR]


def test_a_command_that_is_not_there_says_what_names_it(place: Path, tmp_path: Path) -> None:
    (tmp_path / "pipeline").unlink()
    with pytest.raises(AirflowFailException, match="DALLE_PIPELINE_COMMAND"):
        operator("dedupe").execute(context())


def test_the_workspace_notes_who_started_a_command(place: Path, tmp_path: Path) -> None:
    write_command(
        tmp_path, f'echo "$PIPELINE_RUN_BY" > {tmp_path}/by\n{report_line(outcome="done")}'
    )
    operator("dedupe").execute(context())
    assert (tmp_path / "by").read_text() == "a_dag a_run\n"


# --- Locks ---------------------------------------------------------------------------------------


def test_a_folder_in_use_frees_the_slot_says_so_after_an_hour_and_gives_up_after_a_day(
    place: Path, tmp_path: Path
) -> None:
    write_command(tmp_path, f"{failed('LockedError', 'raw is in use')}; exit 1")
    now = datetime.now(UTC)
    here = context()
    with pytest.raises(AirflowRescheduleException) as caught:
        operator("scrape").execute(here)
    assert now < caught.value.reschedule_date < now + timedelta(hours=1)
    assert sent(tmp_path) == []
    here["ti"].waits_since = now - timedelta(hours=2)
    for _ in range(2):
        with pytest.raises(AirflowRescheduleException):
            operator("scrape").execute(here)
    (sentence,) = sent(tmp_path)
    assert "has been waiting since" in sentence
    here["ti"].waits_since = now - timedelta(hours=25)
    with pytest.raises(AirflowFailException, match="raw is in use"):
        operator("scrape").execute(here)


def test_no_part_begins_after_one_that_failed_for_good(place: Path, tmp_path: Path) -> None:
    write_command(tmp_path, report_line(outcome="done"))
    here = context()
    here["ti"].siblings = {"a_task_0": "failed", "a_task_1": "running"}
    with pytest.raises(AirflowSkipException, match="not started"):
        operator("scrape", stop_after_failure=True).execute(here)
    here["ti"].siblings = {"a_task_0": "up_for_retry", "a_task_1": "running"}
    assert operator("scrape", stop_after_failure=True).execute(here)["outcome"] == "done"


# --- The end from outside ------------------------------------------------------------------------


def test_a_task_that_is_ended_lets_the_command_end_and_says_so(place: Path, tmp_path: Path) -> None:
    trap = f"trap 'echo stopped > {tmp_path}/end; exit 130' TERM"
    write_command(tmp_path, f"{trap}\necho $$ > {tmp_path}/pid\nwhile :; do sleep 0.1; done")
    task = operator("scrape")
    errors: list[BaseException] = []

    def work() -> None:
        try:
            task.execute(context())
        except AirflowException as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text().strip():
        time.sleep(0.05)
    task.on_kill()
    thread.join()
    assert errors
    assert (tmp_path / "end").read_text() == "stopped\n"
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)
    (sentence,) = sent(tmp_path)
    assert "was stopped from outside" in sentence
    assert list(alerts.failure_of({**context(), "task": task})) == []  # it was said


def test_a_command_that_is_stopped_before_it_has_begun_ends_too(
    place: Path, tmp_path: Path
) -> None:
    write_command(tmp_path, "while :; do sleep 0.1; done")
    command = Command(place_of(context()), ["scrape"])
    command.stop()
    assert command.run(Log()).verdict == "retry"


def test_a_timeout_stops_the_command_too(place: Path, tmp_path: Path) -> None:
    trap = f"trap 'echo stopped > {tmp_path}/end; exit 130' TERM"
    write_command(tmp_path, f"{trap}\necho begun\nwhile :; do sleep 0.1; done")

    with pytest.raises(TimeoutError):
        Command(place_of(context()), ["scrape"]).run(Log(raises=TimeoutError()))
    assert (tmp_path / "end").read_text() == "stopped\n"

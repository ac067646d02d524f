"""The operator: what the command's exit codes mean to Airflow, what is told, how it is stopped."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("airflow")

from airflow.sdk.exceptions import AirflowException, AirflowFailException
from pipeline_alerts import Alert, changes_of_page, doubts_of_fetches, failure_of
from pipeline_calls import PARAMS, PipelineOperator, environment_of


def fake_command(folder: Path, script: str) -> str:
    path = folder / "pipeline"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def context(command: str, **more: Any) -> dict[str, Any]:
    params = {name: param.value for name, param in PARAMS.items()}
    return {"params": {**params, "command": command, "workspace": "/tmp/nowhere", **more}}


def report_line(**facts: Any) -> str:
    return "echo '" + json.dumps({"stage": "dedupe", "details": {}, **facts}) + "'"


@pytest.mark.parametrize("code", [0, 3])
def test_done_and_incomplete_give_the_report(tmp_path: Path, code: int) -> None:
    script = f"echo working\n{report_line(outcome='done', counts={'kept': 3})}\necho bye >&2\nexit {code}"
    operator = PipelineOperator(task_id="dedupe", arguments=["dedupe"])
    report = operator.execute(context(fake_command(tmp_path, script)))
    assert report["counts"] == {"kept": 3}


@pytest.mark.parametrize(
    ("code", "kind"), [(1, AirflowException), (2, AirflowFailException), (130, AirflowException)]
)
def test_only_wrong_usage_is_never_tried_again(tmp_path: Path, code: int, kind: type) -> None:
    error = {"type": "SourceError", "message": "no page today"}
    script = f"{report_line(outcome='failed', error=error)}\nexit {code}"
    operator = PipelineOperator(task_id="page", arguments=["scrape", "--plan"])
    with pytest.raises(kind, match="no page today") as caught:
        operator.execute(context(fake_command(tmp_path, script)))
    assert isinstance(caught.value, AirflowFailException) == (code == 2)


def test_a_locked_workspace_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline_calls.LOCK_POLL_S", 0.01)
    locked = report_line(outcome="failed", error={"type": "LockedError", "message": "in use"})
    free = tmp_path / "free"
    script = f"if [ ! -e {free} ]; then touch {free}; {locked}; exit 1; fi\n"
    command = fake_command(tmp_path, script + report_line(outcome="done", counts={"kept": 1}))
    operator = PipelineOperator(task_id="page", arguments=["scrape"])
    assert operator.execute(context(command))["counts"] == {"kept": 1}
    monkeypatch.setattr("pipeline_calls.LOCK_WAIT_S", -1.0)
    free.unlink()
    with pytest.raises(AirflowException, match="in use"):
        operator.execute(context(command))


def test_a_command_that_is_not_there_says_which_param_names_it(tmp_path: Path) -> None:
    operator = PipelineOperator(task_id="page", arguments=["scrape"])
    with pytest.raises(AirflowFailException, match="param `command`"):
        operator.execute(context(str(tmp_path / "none")))


def test_params_become_arguments_and_variables(tmp_path: Path) -> None:
    script = f'echo "$@|$PIPELINE_SCRAPE_SECTIONS|$PIPELINE_ENGINE" > {tmp_path}/said\n'
    command = fake_command(tmp_path, script + report_line(outcome="done"))
    given = context(command, config="/c.toml", engine="ray", sections=["a", "b"])
    PipelineOperator(task_id="x", arguments=["scrape", "--plan"]).execute(given)
    line = "scrape --plan --workspace /tmp/nowhere --config /c.toml --json|a|b|ray\n"
    assert (tmp_path / "said").read_text() == line
    assert environment_of(context(command)["params"]) == {}


def test_a_task_that_is_ended_lets_the_command_end(tmp_path: Path) -> None:
    trap = f"trap 'echo stopped > {tmp_path}/end; exit 130' TERM"
    script = f"{trap}\necho $$ > {tmp_path}/pid\nwhile :; do sleep 0.1; done"
    operator = PipelineOperator(task_id="x", arguments=["scrape"])
    errors: list[BaseException] = []

    def work() -> None:
        try:
            operator.execute(context(fake_command(tmp_path, script)))
        except AirflowException as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text().strip():
        time.sleep(0.05)
    operator.on_kill()
    thread.join(10)
    assert errors
    assert (tmp_path / "end").read_text() == "stopped\n"
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def alert(tmp_path: Path, find: Any, pulled: Any, **more: Any) -> list[str]:
    said = tmp_path / "said"
    ti = SimpleNamespace(dag_id="d", run_id="r", task_id="t", xcom_pull=lambda task_ids: pulled)
    params = {
        "workspace": str(tmp_path), "alert_command": f"tee -a {said}",
        "min_good_share": 0.95, "max_different_share": 0.1,
    }  # fmt: skip
    Alert(find).notify({"params": params, "ti": ti, **more})
    path = tmp_path / "alerts.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    assert (said.read_text().count("\n") if said.exists() else 0) == len(lines)
    return [json.loads(line)["message"] for line in lines]


def test_a_changed_page_is_told(tmp_path: Path) -> None:
    page = {"sections_added": ["new"], "sections_removed": ["old"], "captions": {"emojis": [3, 4]}}
    messages = alert(tmp_path, changes_of_page, {"details": {"page": page}})
    assert messages == [
        "The page has new sections: new",
        "The page lost sections: old",
        "The page's section emojis has 4 captions, had 3",
    ]


def test_a_quiet_week_tells_nobody(tmp_path: Path) -> None:
    assert alert(tmp_path, changes_of_page, {"details": {"page": {}}}) == []
    assert alert(tmp_path, doubts_of_fetches, {"good_share": 1.0, "different_share": 0.02}) == []


def test_bad_fetches_and_a_great_difference_are_told(tmp_path: Path) -> None:
    found = {"good_share": 0.5, "different_share": 0.25}
    assert alert(tmp_path, doubts_of_fetches, found) == [
        "Only 50.0% of the fetches were good, expected 95.0% or more",
        "25.0% of the data is new, changed or gone, expected 10.0% at most",
    ]


def test_a_failed_task_is_told(tmp_path: Path) -> None:
    assert alert(tmp_path, failure_of, None, exception=ValueError("boom")) == ["t failed: boom"]

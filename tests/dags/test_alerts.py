"""Who hears of an alert, and of what there is one."""

from __future__ import annotations

import base64
import json
import logging
import socketserver
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("airflow")

from dalle_pipeline_airflow import alerts
from dalle_pipeline_airflow.assets import SHARDS
from tests.dags.calls import context, kept
from tests.helpers.dags import ROOT


def test_one_way_that_fails_stops_no_other_and_is_logged(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (place / "alerts.jsonl").mkdir()
    monkeypatch.setenv("DALLE_PIPELINE_ALERT_COMMAND", "/nowhere/at/all")
    notifiers = [
        {"class": "nowhere.at.All"},
        {
            "class": "tests.dags.notifier.Notifier",
            "arguments": {"path": f"{tmp_path}/n", "text": "<{{ alert }}>"},
        },
    ]
    monkeypatch.setenv("DALLE_PIPELINE_NOTIFIERS", json.dumps(notifiers))
    with caplog.at_level(logging.ERROR, "airflow.task.alerts"):
        alerts.send_alert(context(), "failed", "a sentence")
    assert (tmp_path / "n").read_text() == "<a sentence>"
    first, *problems = [record.getMessage() for record in caplog.records]
    assert first == "ALERT: a sentence"
    unsent = "An alert could not be sent: "
    assert [line.startswith(unsent) for line in problems] == [True, True, True]
    for line, kind in zip(
        problems, ("IsADirectory", "FileNotFound", "ModuleNotFound"), strict=True
    ):
        assert line.removeprefix(unsent).startswith(f"{kind}Error: ")


class Mailbox(socketserver.StreamRequestHandler):
    """A mail server that takes one letter after the other; the server keeps their lines in `letters`."""

    def handle(self) -> None:
        self.wfile.write(b"220 here\r\n")
        for line in self.rfile:
            if line.upper().startswith(b"DATA"):
                self.wfile.write(b"354 go on\r\n")
                letter = b"".join(iter(self.rfile.readline, b".\r\n"))
                self.server.letters.append(letter.decode())  # type: ignore[attr-defined]
            self.wfile.write(b"221 bye\r\n" if line.upper().startswith(b"QUIT") else b"250 yes\r\n")


@pytest.fixture
def letters(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What came by mail to the server of Airflow's connection `smtp_default`."""
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Mailbox) as server:
        server.letters = []  # type: ignore[attr-defined]
        facts = {"conn_type": "smtp", "host": "127.0.0.1", "port": server.server_address[1]}
        extra = {"disable_ssl": True, "disable_tls": True}
        monkeypatch.setenv("AIRFLOW_CONN_SMTP_DEFAULT", json.dumps({**facts, "extra": extra}))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.letters  # type: ignore[attr-defined]
        server.shutdown()


def test_airflows_own_notifier_sends_a_mail(
    place: Path, letters: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As docs/scheduling.md configures it."""
    example = (ROOT / "docs" / "scheduling.md").read_text().split("DALLE_PIPELINE_NOTIFIERS='")[1]
    mail = json.loads(example.split("'")[0])[0]
    monkeypatch.setenv("DALLE_PIPELINE_NOTIFIERS", json.dumps([mail]))
    alerts.send_alert(context(), "failed", "a sentence")
    (letter,) = letters
    assert "Subject: dalleblog" in letter
    assert "To: you@example.org" in letter
    assert base64.b64encode(b"a sentence").decode() in letter or "a sentence" in letter


def test_a_way_that_hangs_is_left(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alerts, "WITHIN_S", 0.2)
    monkeypatch.setenv("DALLE_PIPELINE_ALERT_COMMAND", "sleep 600")
    alerts.send_alert(context(), "failed", "a sentence")
    assert kept(place) == ["a sentence"]


def test_an_alert_goes_to_the_workspace_that_the_task_worked_in(place: Path) -> None:
    other = place.parent / "other"
    other.mkdir()
    alerts.send_alert(context(event={"workspace": str(other)}), "failed", "of the other")
    alerts.send_alert(context(workspace="/etc"), "failed", "of a refused one")
    assert (kept(other), kept(place)) == (["of the other"], [])


def test_the_first_retry_and_the_failure_are_sent(place: Path) -> None:
    here = {**context(), "exception": ValueError("boom")}
    assert list(alerts.first_retry_of(here)) == [
        ("retry", "a_task failed and will be retried: boom")
    ]
    here["ti"].try_number = 2
    assert list(alerts.first_retry_of(here)) == []
    assert list(alerts.failure_of(here)) == [("failed", "a_task failed: boom")]


def test_a_failed_run_is_reported_where_no_task_has_said_so(place: Path) -> None:
    here = {**context(), "reason": "timed_out"}
    assert list(alerts.failed_run(here)) == [("run", "The run a_run failed: timed_out")]
    alerts.send_alert(here, "failed", "a_task failed")
    assert list(alerts.failed_run(here)) == []


def test_a_failure_in_one_of_several_workspaces_is_known_to_the_run(place: Path) -> None:
    other = place.parent / "other"
    other.mkdir()
    here = {**context(event={"workspace": str(place)}), "reason": "task_failure"}
    events = here["triggering_asset_events"][SHARDS]
    events.append(SimpleNamespace(extra={"workspace": str(other)}))
    here["ti"].map_index = 0
    alerts.send_alert(here, "failed", "a_task failed")
    assert (kept(place), kept(other)) == (["a_task failed"], [])
    assert list(alerts.failed_run({**here, "ti": None})) == []

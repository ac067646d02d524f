"""What is published, and where the report is."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("airflow")

from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from dalle_pipeline_airflow.assets import SHARDS
from dalle_pipeline_airflow.checks import alert_of_page, plan_parts, publish_shards, report_url
from tests.dags.calls import context, kept


class Events:
    def __init__(self, *extras: Any) -> None:
        self.events = [SimpleNamespace(extra=extra) for extra in extras]

    def ascending(self, is_ascending: bool) -> list[Any]:
        return self.events if is_ascending else self.events[::-1]


def publish(fingerprint: str, *extras: Any) -> dict[str, Any]:
    event = SimpleNamespace(extra={})
    report = {"details": {"fingerprint": fingerprint}, "counts": {"written": 7, "shards": 2}}
    here = {
        **context(),
        "inlet_events": {SHARDS: Events(*extras)},
        "outlet_events": {SHARDS: event},
    }
    publish_shards(here, report)
    return dict(event.extra)


def test_news_is_what_the_last_event_of_this_workspace_did_not_say(place: Path) -> None:
    here = {"workspace": str(place), "config": None, "rows": 7, "shards": 2}
    assert publish("b") == {**here, "fingerprint": "b"}
    of_other = {"workspace": "/other", "fingerprint": "b"}
    assert publish("b", {**here, "fingerprint": "a"}, of_other)["fingerprint"] == "b"
    assert publish("b", {**here, "fingerprint": "b"}, {**here, "fingerprint": "a"})
    assert (
        publish("b", {"workspace": str(place)}, None)["fingerprint"] == "b"
    )  # of an older version
    with pytest.raises(AirflowSkipException):
        publish("b", {**here, "fingerprint": "a"}, {**here, "fingerprint": "b"}, of_other)


def test_a_report_that_is_missing_is_no_news_and_no_plan(place: Path) -> None:
    for use in (publish_shards, plan_parts):
        with pytest.raises(AirflowFailException, match="left no report"):
            use(context(), None)


def test_the_report_has_an_address(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert report_url(context()) == f"file://{place}/report.html"
    monkeypatch.setenv("DALLE_PIPELINE_REPORT_URL", "https://data.example.org/")
    assert report_url(context()) == "https://data.example.org/data/report.html"


def test_changes_of_the_page_are_one_alert_per_run(place: Path) -> None:
    """Two scrapes of this run saw the same change, a third one another; an earlier run's is old news."""
    changes: list[dict[str, Any]] = [
        {"sections_added": ["b"]},
        {"sections_added": ["b"]},
        {"captions": {"a": [3, 4]}},
    ]
    runs: list[tuple[str, dict[str, Any]]] = [("a_dag an_earlier_run", {"sections_removed": ["c"]})]
    runs += [("a_dag a_run", page) for page in changes]
    lines = [
        json.dumps({"by": by, "stages": [{"stage": "scrape", "did": {"page": page}}]})
        for by, page in runs
    ]
    (place / "runs.jsonl").write_text("\n".join(lines) + "\n")
    for _ in range(2):
        alert_of_page(context())
    assert kept(place) == [
        "The page has new sections: b. The page's section a has 4 captions, had 3"
    ]


def test_a_page_without_changes_is_no_alert(place: Path) -> None:
    (place / "runs.jsonl").write_text(
        json.dumps({"by": "a_dag a_run", "stages": [{"stage": "scrape", "did": {"stored": 3}}]})
    )
    alert_of_page(context())
    assert kept(place) == []

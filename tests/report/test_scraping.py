"""The scrape over time in the report: rates, errors by reason, latency, and hosts, from the ledger alone."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from bs4 import BeautifulSoup

from pipeline.core.inventory import find_folders
from pipeline.core.workspace import Workspace
from pipeline.report.config import ReportConfig
from pipeline.report.run import run, why_run
from pipeline.report.scraping import scrape_over_time
from pipeline.report.view import View
from scrapers.rawstore.latency_counts import Answered, add_latencies
from scrapers.rawstore.ledger_schema import HOST_LATENCIES, LATENCIES
from tests.helpers.dedupe import RawStore, photo_png


def sections(workspace: Workspace) -> dict[str, Any]:
    config = ReportConfig(workspace=workspace.root)
    view = View(workspace=workspace, folders=find_folders(workspace.root), config=config)
    return {section.title: section for section in scrape_over_time(view)}


def table(section: Any) -> list[list[str]]:
    rows = BeautifulSoup(section.body, "lxml").find_all("tr")
    return [[cell.text for cell in row.find_all("td")] for row in rows][1:]


def add(raw: RawStore, key: str, host: str, second: int, reason: str | None = None) -> None:
    time = f"2026-01-01T00:00:{second:02}Z"
    columns = {"url": f"http://{host}/{key}.png", "last_time": time, "reason": reason}
    raw.add(key, None if reason else photo_png(0), **columns)


def test_hosts_are_listed_with_their_errors_the_worst_first(tmp_path: Path) -> None:
    raw = RawStore(tmp_path / "data")
    for number in range(3):
        add(raw, f"good{number}", "good.test", number)
    add(raw, "bad0", "BAD.test:8080", 1, "http_404")
    add(raw, "bad1", "bad.test:8080", 2, "timeout")
    add(raw, "bad2", "bad.test:8080", 3, "timeout")
    found = sections(raw.write())
    size = f"{3 * len(photo_png(0)) / 1e6:.1f}"
    assert table(found["Hosts"]) == [
        ["bad.test:8080", "0", "3", "3", "0.0", "timeout 2, http 404 1"],
        ["good.test", "3", "0", "3", size, ""],
    ]


def test_rates_and_errors_are_plotted_over_time(tmp_path: Path) -> None:
    raw = RawStore(tmp_path / "data")
    for number in range(6):
        add(raw, f"k{number}", "good.test", number // 3)
    add(raw, "gone", "good.test", 3, "http_404")
    soup = BeautifulSoup(sections(raw.write())["Over time"].body, "lxml")
    titles = [title.text for title in soup.select("h4")]
    assert titles == ["URLs a second", "MB a second", "Errors by reason, URLs in 1 second"]
    (rates, _, errors) = (json.loads(s.text)["series"] for s in soup.find_all("script"))
    assert rates[0] == {"name": "images", "points": [[0, 3], [1, 3], [2, 0], [3, 0]]}
    assert errors == [{"name": "http 404", "points": [[0, 0], [1, 0], [2, 0], [3, 1]]}]


def test_images_of_a_folder_have_no_rate(tmp_path: Path) -> None:
    raw = RawStore(tmp_path / "data")
    raw.add("k", photo_png(0), url="file:///photos/k.png", last_time="2026-01-01T00:00:00Z")
    assert sections(raw.write()) == {}


def test_a_ledger_that_cannot_be_read_is_said_on_the_page(tmp_path: Path) -> None:
    raw = RawStore(tmp_path / "data")
    raw.add("k", photo_png(0))
    workspace = raw.write()
    workspace.ledger.write_bytes(b"not a database" * 100)
    run(ReportConfig(workspace=workspace.root))
    assert "ledger.sqlite can&#x27;t be read" in (workspace.root / "report.html").read_text()


def test_the_page_is_outdated_when_urls_were_requested_again_without_any_change(
    tmp_path: Path,
) -> None:
    raw = RawStore(tmp_path / "data")
    add(raw, "k", "good.test", 1)
    workspace = raw.write()
    config = ReportConfig(workspace=workspace.root)
    run(config)
    assert why_run(config, None) is None
    with closing(sqlite3.connect(workspace.ledger)) as ledger, ledger:
        ledger.execute("UPDATE urls SET attempts = attempts + 1")
    assert why_run(config, None) == "report.html is outdated"


def write_latencies(ledger: Path, *answered: Answered) -> None:
    """Add the tables of latencies, as the scrape does."""
    with closing(sqlite3.connect(ledger)) as connection, connection:
        connection.execute(LATENCIES)
        connection.execute(HOST_LATENCIES)
        add_latencies(connection, answered)


def test_latency_is_drawn_over_time_and_listed_by_host(tmp_path: Path) -> None:
    raw = RawStore(tmp_path / "data")
    for number, host in enumerate(("SLOW.test", "quick.test", "untimed.test")):
        add(raw, f"k{number}", host, number, "timeout" if number == 0 else None)
    workspace = raw.write()
    start = 1767225600  # 2026-01-01T00:00:00Z
    write_latencies(
        workspace.ledger,
        *[("http://SLOW.test/a.png", start, 3.0)] * 6,
        *[("http://quick.test/a.png", start + 10, 0.1)] * 94,
        *[("http://quick.test/b.png", start + 180, 0.02)] * 20,
    )
    found = sections(workspace)
    assert list(found) == ["Over time", "Latency", "Hosts"]
    # Steps 23, 13 and 8: their middles are 2^11.75, 2^6.75 and 2^4.25 ms.
    assert "120 requests got a response: median 108 ms, 95th percentile 108 ms" in (
        found["Latency"].note
    )
    assert "in steps of 1 minute." in found["Latency"].note
    soup = BeautifulSoup(found["Latency"].body, "lxml")
    (script,) = soup.find_all("script")
    numbers = {each["name"]: each["points"] for each in json.loads(script.text)["series"]}
    assert numbers == {
        "median": [[0, pytest.approx(107.6, abs=0.1)], [3, pytest.approx(19.03, abs=0.01)]],
        "95th percentile": [
            [0, pytest.approx(3444.3, abs=0.1)],
            [3, pytest.approx(19.03, abs=0.01)],
        ],
    }
    assert "minutes since 2026-01-01 00:00 UTC" in soup.text
    assert table(found["Latency"]) == [["quick.test", "114", "108", "108"]]
    assert "20 responses or more, the slowest first" in soup.text


def test_the_slowest_of_the_hosts_with_enough_responses_come_first(tmp_path: Path) -> None:
    raw = RawStore(tmp_path / "data")
    add(raw, "k", "host0.test", 1)
    workspace = raw.write()
    for number in range(12):
        url = f"http://host{number}.test/k.png"
        write_latencies(workspace.ledger, *[(url, 60, 0.0015 * 2**number)] * 20)
    write_latencies(workspace.ledger, *[("http://few.test/k.png", 60, 100.0)] * 19)
    tail = [0.0015 * 2**11] * 18 + [500.0] * 2
    write_latencies(workspace.ledger, *(("http://tail.test/k.png", 60, s) for s in tail))
    found = sections(workspace)["Latency"]
    listed = [row[0] for row in table(found)]
    assert listed == ["tail.test", *(f"host{n}.test" for n in range(11, 2, -1))]
    assert "the slowest first: 10 of 13" in found.body


def test_latencies_of_one_minute_are_numbers_without_a_plot(tmp_path: Path) -> None:
    raw = RawStore(tmp_path / "data")
    add(raw, "k", "good.test", 1)
    workspace = raw.write()
    write_latencies(workspace.ledger, ("http://good.test/k.png", 60, 0.00019))
    found = sections(workspace)["Latency"]
    assert "1 request got a response: median 0.21 ms" in found.note
    assert BeautifulSoup(found.body, "lxml").text == ""


def test_a_ledger_without_latencies_has_no_part_about_them(tmp_path: Path) -> None:
    raw = RawStore(tmp_path / "data")
    add(raw, "k", "good.test", 1)
    workspace = raw.write()
    found = sections(workspace)
    write_latencies(workspace.ledger)
    assert sections(workspace) == found
    assert list(found) == ["Over time", "Hosts"]

"""Asking again: only the failed, or all with validators."""

from __future__ import annotations

import sqlite3
from dataclasses import replace

from scrapers.rawstore.ledger import Ledger
from scrapers.scrape import scrape
from scrapers.sources.dalleblog.config import DalleBlogConfig
from tests.helpers.crawls import Ask, PlainSource, Server, answer, members, png, states, stored


class Changing:
    """Serves images with an ETag; which ones are changed, gone or broken can be set."""

    def __init__(self) -> None:
        self.changed: set[str] = set()
        self.gone: set[str] = set()
        self.broken: set[str] = set()
        self.requests: list[tuple[str, str | None, int]] = []

    async def __call__(self, ask: Ask) -> bytes:
        name = ask.path.rpartition("/")[2]
        version = "2" if name in self.changed else "1"
        known = ask.headers.get("if-none-match")
        if name in self.gone:
            status, data = 404, answer(b"", 404)
        elif name in self.broken:
            status, data = 500, answer(b"", 500)
        elif known == f'"{version}"':
            status, data = 304, b'HTTP/1.1 304 X\r\nETag: "1"\r\n\r\n'
        else:
            body = png(ask.path + version)
            status, data = 200, answer(body, ETag=f'"{version}"', Last_Modified="yesterday")
        self.requests.append((name, known, status))
        return data


def test_failed_urls_are_asked_again_only_when_told(server: Server, quick: DalleBlogConfig) -> None:
    served = Changing()
    server.behaviour = served
    served.broken = {"c0_2.png", "c1_0.png"}
    source = PlainSource(server.url, captions=3)
    config = replace(quick, attempts=2)
    report = scrape(config, source=source)
    assert report.outcome == "incomplete"
    assert report.counts["failed"] == 2
    asked = len(served.requests)
    assert scrape(config, source=source).outcome == "incomplete"
    assert len(served.requests) == asked
    served.broken = set()
    report = scrape(replace(config, retry_failed=True), source=source)
    assert [name for name, _, _ in sorted(served.requests[asked:])] == ["c0_2.png", "c1_0.png"]
    assert report.outcome == "done"
    assert report.counts["done"] == 12
    assert scrape(config, source=source).outcome == "unchanged"


def test_a_caption_whose_probes_failed_is_opened_by_a_retry(
    server: Server, quick: DalleBlogConfig
) -> None:
    served = Changing()
    server.behaviour = served
    served.broken = {f"c0_{rank}.png" for rank in range(4)}
    source = PlainSource(server.url, captions=1)
    scrape(replace(quick, attempts=1), source=source)
    served.broken = set()
    assert scrape(replace(quick, retry_failed=True), source=source).counts["done"] == 4


def test_a_refresh_fetches_only_what_has_changed(server: Server, quick: DalleBlogConfig) -> None:
    served = Changing()
    server.behaviour = served
    source = PlainSource(server.url, captions=2)
    first = scrape(quick, source=source)
    before = members(quick.workspace)
    served.requests.clear()
    manifest = (quick.workspace / "raw" / "manifest.json").read_bytes()

    report = scrape(replace(quick, refresh=True), source=source)
    assert report.outcome == "unchanged"
    assert {status for _, _, status in served.requests} == {304}
    assert (quick.workspace / "raw" / "manifest.json").read_bytes() == manifest

    served.changed = {"c0_1.png"}
    served.gone = {"c1_3.png"}
    report = scrape(replace(quick, refresh=True, gone_after=1), source=source)
    assert report.outcome == "done"
    assert (report.details["changed"], report.details["gone"]) == (1, 1)
    assert report.details["content"] != first.details["content"]
    found = stored(quick.workspace)
    assert len(found) == 7
    path = "/samples/things/c0_1.png"
    assert found[server.url + path] == png(path + "2")
    assert states(quick.workspace)[f"{server.url}/samples/things/c1_3.png"] == ("missing", "gone")
    after = members(quick.workspace)
    assert before.items() <= after.items()
    (new,) = [name for name in after if name not in before and name.endswith(".png")]
    assert new.endswith("-01-v2.png")

    served.gone = set()
    report = scrape(replace(quick, refresh=True), source=source)
    assert len(stored(quick.workspace)) == 8
    assert len(members(quick.workspace)) == len(after)


def test_the_former_version_stays_in_the_ledger(server: Server, quick: DalleBlogConfig) -> None:
    served = Changing()
    server.behaviour = served
    source = PlainSource(server.url, captions=1, ranks=2)
    scrape(quick, source=source)
    served.changed = {"c0_0.png", "c0_1.png"}
    scrape(replace(quick, refresh=True), source=source)
    ledger = Ledger(quick.workspace / "raw" / "ledger.sqlite")
    rows = list(ledger.query("SELECT rank, version, etag FROM versions ORDER BY rank"))
    keys = [str(row[0])[-6:] for row in ledger.query("SELECT key FROM items ORDER BY key")]
    ledger.close()
    assert rows == [(0, 1, '"1"'), (1, 1, '"1"')]
    assert keys == ["-00-v2", "-01-v2"]


def test_a_refresh_that_gets_no_answer_keeps_what_is_there(
    server: Server, quick: DalleBlogConfig
) -> None:
    served = Changing()
    server.behaviour = served
    source = PlainSource(server.url, captions=2)
    scrape(quick, source=source)
    served.broken = {"c0_0.png", "c1_2.png"}
    report = scrape(replace(quick, refresh=True, attempts=2), source=source)
    assert report.outcome == "incomplete"
    assert report.details["kept"] == 2
    assert report.counts["done"] == 8
    assert scrape(quick, source=source).outcome == "unchanged"


def test_an_image_is_gone_only_after_enough_refreshes_in_a_row_missed_it(
    server: Server, quick: DalleBlogConfig
) -> None:
    served = Changing()
    server.behaviour = served
    source = PlainSource(server.url, captions=1)
    first = scrape(quick, source=source)
    url = f"{server.url}/samples/things/c0_2.png"
    refresh = replace(quick, refresh=True, gone_after=2)

    def seen(*gone: str) -> tuple[int, int, str]:
        served.gone = set(gone)
        report = scrape(refresh, source=source)
        return report.details["absent"], report.details["gone"], states(quick.workspace)[url][0]

    assert seen("c0_2.png") == (1, 0, "done")
    assert scrape(quick, source=source).details["content"] == first.details["content"]
    assert seen() == (0, 0, "done")  # It was there again: counted anew.
    assert seen("c0_2.png") == (1, 0, "done")
    assert seen("c0_2.png") == (0, 1, "missing")
    assert seen("c0_2.png") == (0, 0, "missing")
    assert seen() == (0, 0, "done")
    assert len(stored(quick.workspace)) == 4
    assert len([status for _, _, status in served.requests if status == 200]) == 4


def test_a_ledger_without_absences_is_taken_on(server: Server, quick: DalleBlogConfig) -> None:
    served = Changing()
    server.behaviour = served
    source = PlainSource(server.url, captions=1)
    scrape(quick, source=source)
    with sqlite3.connect(quick.workspace / "raw" / "ledger.sqlite") as db:
        db.execute("DROP TABLE absences")  # As 0.1 made it.
    served.gone = {"c0_0.png"}
    assert scrape(replace(quick, refresh=True), source=source).details["absent"] == 1


def test_a_clock_that_was_set_back_hides_nothing_from_a_refresh(
    server: Server, quick: DalleBlogConfig
) -> None:
    served = Changing()
    server.behaviour = served
    source = PlainSource(server.url, captions=2)
    scrape(quick, source=source, clock=lambda: 2e9)
    served.requests.clear()
    served.changed = {"c1_1.png"}
    report = scrape(replace(quick, refresh=True), source=source, clock=lambda: 1e9)
    assert len(served.requests) == 8
    assert report.details["changed"] == 1
    ledger = Ledger(quick.workspace / "raw" / "ledger.sqlite")
    times = {int(str(row[0])) for row in ledger.query("SELECT last_time FROM urls")}
    ledger.close()
    assert times == {2_000_000_001}


def test_the_validators_of_an_error_page_are_not_kept(
    server: Server, quick: DalleBlogConfig
) -> None:
    async def gone_with_a_tag(ask: Ask) -> bytes:
        return answer(b"", 404, ETag='"error"')

    served = Changing()
    server.behaviour = served
    source = PlainSource(server.url, captions=1, ranks=1)
    scrape(quick, source=source)
    server.behaviour = gone_with_a_tag
    scrape(replace(quick, refresh=True), source=source)
    ledger = Ledger(quick.workspace / "raw" / "ledger.sqlite")
    rows = list(ledger.query("SELECT state, etag FROM items"))
    ledger.close()
    assert rows == [("done", '"1"')]


def test_a_refresh_goes_on_where_it_was_stopped(server: Server, quick: DalleBlogConfig) -> None:
    served = Changing()
    server.behaviour = served
    source = PlainSource(server.url, captions=2)
    scrape(quick, source=source)
    ledger = Ledger(quick.workspace / "raw" / "ledger.sqlite")
    ledger.set_meta("refresh_since", "1000000000")  # All rows were asked for since.
    ledger.close()
    served.requests.clear()
    scrape(replace(quick, refresh=True), source=source)
    assert served.requests == []
    scrape(replace(quick, refresh=True), source=source)
    assert len(served.requests) == 8


def test_a_form_that_does_not_exist_costs_two_requests(
    server: Server, quick: DalleBlogConfig
) -> None:
    async def only_second(ask: Ask) -> bytes:
        return answer(png(ask.path)) if "/anc" in ask.path else answer(b"", 404)

    server.behaviour = only_second
    source = PlainSource(server.url, captions=3, ranks=32, forms=("a", "an"))
    report = scrape(quick, source=source)
    wrong = [path for path in server.image_hits if "/ac" in path]
    assert len(wrong) == 6
    assert report.counts["done"] == 96
    assert report.counts["missing"] == 6
    assert report.details["completeness"] == {"complete": 3, "partial": 0, "absent": 0}
    assert scrape(replace(quick, limit=9), source=source).outcome == "unchanged"
    assert sum(server.image_hits.values()) == 102


def test_a_form_whose_first_image_is_missing_is_found_by_its_second(
    server: Server, quick: DalleBlogConfig
) -> None:
    async def no_first(ask: Ask) -> bytes:
        return answer(b"", 404) if "_0.png" in ask.path else answer(png(ask.path))

    server.behaviour = no_first
    report = scrape(quick, source=PlainSource(server.url, captions=2, ranks=5))
    assert report.counts["done"] == 8
    assert report.details["completeness"] == {"complete": 0, "partial": 2, "absent": 0}
    section = report.details["sections"]["things"]
    assert (section["done"], section["missing"], section["partial"]) == (8, 2, 2)


# The plain source knows no options: another `limit` says that the plan is another one.
def test_a_repeated_caption_is_asked_for_once(server: Server, quick: DalleBlogConfig) -> None:
    source = PlainSource(server.url, captions=1, forms=("a", "a"))
    report = scrape(quick, source=source)
    assert report.counts["urls"] == 4

    class Twice(PlainSource):
        def plans(self):  # type: ignore[no-untyped-def]
            yield from super().plans()
            yield from super().plans()

    report = scrape(replace(quick, limit=9), source=Twice(server.url, captions=5))
    assert report.details["repeated_captions"] > 0
    assert report.counts["urls"] == 4 + 20
    assert set(server.image_hits.values()) == {1}

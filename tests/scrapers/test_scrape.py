"""The scrape on a well-behaved server: what it stores, what it asks again, what it says."""

from __future__ import annotations

import dataclasses
import gc
import json

from pipeline.core.contracts import LEDGER_ITEMS
from pipeline.core.storage import read_manifest
from scrapers.rawstore.ledger import Ledger
from scrapers.scrape import scrape
from scrapers.sources.dalleblog.config import DalleBlogConfig
from tests.helpers.crawls import PlainSource, Server, members, png, states, stored


def test_every_image_is_stored_as_served(server: Server, quick: DalleBlogConfig) -> None:
    report = scrape(quick, source=PlainSource(server.url, captions=5, ranks=6))
    assert report.outcome == "done"
    assert report.counts["urls"] == report.counts["done"] == 30
    found = stored(quick.workspace)
    assert len(found) == 30
    for url, body in found.items():
        assert body == png(url.removeprefix(server.url))


def test_the_garbage_collector_is_left_as_it_was(server: Server, quick: DalleBlogConfig) -> None:
    during = []
    source = PlainSource(server.url, captions=1, ranks=1)
    scrape(quick, lambda *_: during.append(gc.get_threshold()), source=source)
    assert during
    assert gc.get_threshold() not in during


def test_a_second_run_asks_nothing_and_says_so(server: Server, quick: DalleBlogConfig) -> None:
    source = PlainSource(server.url)
    scrape(quick, source=source)
    asked = len(server.asked)
    manifest = (quick.workspace / "raw" / "manifest.json").read_bytes()
    report = scrape(quick, source=source)
    assert report.outcome == "unchanged"
    assert len(server.asked) == asked
    assert (quick.workspace / "raw" / "manifest.json").read_bytes() == manifest


def test_other_options_over_a_finished_crawl_ask_nothing_new(
    server: Server, quick: DalleBlogConfig
) -> None:
    scrape(quick, source=PlainSource(server.url))
    hits = server.image_hits
    report = scrape(dataclasses.replace(quick, limit=2), source=PlainSource(server.url, captions=2))
    assert report.outcome == "unchanged"
    assert server.image_hits == hits
    assert report.counts["done"] == 12


def test_a_larger_plan_fetches_only_what_is_new(server: Server, quick: DalleBlogConfig) -> None:
    scrape(quick, source=PlainSource(server.url, captions=2))
    report = scrape(dataclasses.replace(quick, limit=5), source=PlainSource(server.url, captions=5))
    assert report.outcome == "done"
    assert report.counts["done"] == 20
    assert set(server.image_hits.values()) == {1}


def test_segments_hold_each_image_with_its_json(server: Server, quick: DalleBlogConfig) -> None:
    scrape(quick, source=PlainSource(server.url, captions=2, ranks=3))
    found = members(quick.workspace)
    assert len(found) == 12
    for name, data in found.items():
        if name.endswith(".json"):
            meta = json.loads(data)
            assert found[name.replace(".json", ".png")] == png(meta["url"].removeprefix(server.url))
            assert meta["section"] == "things"
            assert meta["caption"].startswith("caption ")


def test_the_view_has_the_columns_of_the_contract(server: Server, quick: DalleBlogConfig) -> None:
    scrape(quick, source=PlainSource(server.url, captions=1, ranks=1))
    ledger = Ledger(quick.workspace / "raw" / "ledger.sqlite")
    columns = [str(row[1]) for row in ledger.query("PRAGMA table_info(items)")]
    ledger.close()
    assert columns == [column.name for column in LEDGER_ITEMS]


def test_content_is_the_same_in_whatever_order_it_came(
    server: Server, quick: DalleBlogConfig, tmp_path: object
) -> None:
    one = scrape(quick, source=PlainSource(server.url, captions=8))
    other = dataclasses.replace(quick, workspace=quick.workspace / "other", concurrency=1)
    two = scrape(other, source=PlainSource(server.url, captions=8))
    assert one.details["content"] == two.details["content"]
    assert (
        read_manifest(quick.workspace / "raw", "raw").details["content"] == one.details["content"]
    )
    assert set(states(quick.workspace).values()) == {("done", None)}

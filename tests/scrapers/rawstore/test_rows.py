"""Whatever one row holds, its batch is written: through a crawl, through the store, past other locks."""

from __future__ import annotations

import asyncio
import json
import logging
import random
import sqlite3
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.core.errors import StorageError
from pipeline.core.workspace import Workspace
from scrapers.crawl.export import export_ledger
from scrapers.fetch.storable import storable, storable_header
from scrapers.rawstore import locked_database as patience
from scrapers.rawstore.batch_writer import Store
from scrapers.rawstore.ledger import Ledger
from scrapers.rawstore.ledger_rows import FormRow, Touch, UrlRow
from scrapers.scrape import scrape
from scrapers.source import CaptionForm
from scrapers.sources.dalleblog.config import DalleBlogConfig
from tests.helpers.crawls import Ask, PlainSource, Server, answer, members, png, stored
from tests.scrapers.raw_server import Heard, RawServer, moved, ok

# Header lines of a good image, and what of them is kept: ETag, Last-Modified, the row's word.
FLAWS: dict[str, tuple[bytes, str | None, str | None, str | None]] = {
    "plain": (b'ETag: "a"\r\nLast-Modified: now', '"a"', "now", None),
    "utf_8": ('ETag: "é"'.encode(), '"é"', None, None),
    "raw_etag": (b'ETag: "caf\xe9\xff"', '"caf\\xe9\\xff"', None, "bad_etag"),
    "raw_last_modified": (b"Last-Modified: M\xe4rz", None, "M\\xe4rz", "bad_last_modified"),
    "nul": (b"ETag: a\0b", "a\\x00b", None, "bad_etag"),
    "escape": (b"ETag: \x1b[2J", "\\x1b[2J", None, "bad_etag"),
    "long": (b"ETag: " + b"x" * 60_000, None, None, "bad_etag"),
    "empty": (b"ETag: \r\nLast-Modified:", "", "", None),
    "both": (b"ETag: \xe9\r\nLast-Modified: \xe9", "\\xe9", "\\xe9", "bad_etag"),
}


def rows_of(root: Path, columns: str) -> list[tuple[object, ...]]:
    ledger = Ledger(root / "raw" / "ledger.sqlite")
    found = list(ledger.query(f"SELECT {columns} FROM items ORDER BY url"))
    ledger.close()
    return found


@pytest.mark.parametrize("flaw", FLAWS)
def test_a_header_that_can_not_be_kept_costs_no_image(flaw: str, quick: DalleBlogConfig) -> None:
    lines, etag, modified, word = FLAWS[flaw]

    def script(one: Heard) -> bytes:
        if one.target.endswith(b"_1.png"):
            return ok(png("x"), *lines.split(b"\r\n"))
        return ok(png("x"))

    with RawServer(script) as server:
        source = PlainSource(server.url, captions=2)
        report = scrape(replace(quick, ignore_opt_out=True), source=source)
        assert report.counts["done"] == 8
        again = scrape(replace(quick, ignore_opt_out=True, refresh=True), source=source)
        assert again.counts["done"] == 8
        asked = [one for one in server.heard if one.target.endswith(b"_1.png")]
    found = rows_of(quick.workspace, "etag, last_modified, reason, state")
    assert found.count((etag, modified, word, "done")) == 2
    sidecars = [
        json.loads(body) for name, body in members(quick.workspace).items() if "json" in name
    ]
    assert sum(side["etag"] == etag for side in sidecars) >= 2
    # A validator that came as raw bytes is not sent back as something else.
    if flaw in ("plain", "utf_8"):
        assert asked[-1].fields("If-None-Match") == [etag]
    elif word is not None:
        assert not asked[-1].fields("If-None-Match")
        assert not asked[-1].fields("If-Modified-Since")


def test_a_redirect_to_raw_bytes_is_kept_as_it_was_asked(quick: DalleBlogConfig) -> None:
    def script(one: Heard) -> bytes:
        if one.target.startswith(b"/samples"):
            return moved(b"/caf\xe9.png" if b"_0" in one.target else b"/" + b"x" * 20_000)
        return ok(png("x"))

    with RawServer(script) as server:
        source = PlainSource(server.url, captions=1, ranks=2)
        assert scrape(replace(quick, ignore_opt_out=True), source=source).counts["done"] == 2
        (first, second) = rows_of(quick.workspace, "final_url, reason")
        assert first == (f"{server.url}/caf%E9.png", None)
        assert second == (None, "bad_final_url")


CAPTIONS = [
    "plain",
    "n\0ul",
    "lone \ud83d surrogate",
    "raw \udce9 byte",
    "\x1b[31mred\x1b[0m",
    "x" * 65_536,
    "\u202eright to left",
    "line\nbreak\ttab",
    "😀",
    "'; DROP TABLE urls; --",
    '"quotes" \\ {braces}',
]


def test_whatever_a_caption_holds_its_images_are_stored(
    server: Server, quick: DalleBlogConfig, tmp_path: Path
) -> None:
    class Odd(PlainSource):
        def plans(self):  # type: ignore[no-untyped-def]
            for number, plan in enumerate(super().plans()):
                (form,) = plan.forms
                named = CaptionForm(caption=CAPTIONS[number], url_template=form.url_template)
                section = f"s {CAPTIONS[number][:40]}"
                yield replace(plan, forms=(named,), section=section)

    report = scrape(quick, source=Odd(server.url, captions=len(CAPTIONS), ranks=2))
    assert report.counts["done"] == 2 * len(CAPTIONS)
    found = {str(caption) for (caption,) in rows_of(quick.workspace, "caption")}
    assert found == {storable(caption) for caption in CAPTIONS}
    assert "lone \\ud83d surrogate" in found
    sidecars = [
        json.loads(body.decode())
        for name, body in members(quick.workspace).items()
        if "json" in name
    ]
    assert {side["caption"] for side in sidecars} == found
    assert export_ledger(Workspace(quick.workspace), tmp_path / "out.parquet") == 2 * len(CAPTIONS)


URLS = ["/a\ud83d_{rank}.png", "/b\udce9_{rank}.png", "/ü_{rank}.png", "/d?x=\0_{rank}"]


def test_whatever_a_url_holds_it_is_asked_and_kept(server: Server, quick: DalleBlogConfig) -> None:
    class Odd(PlainSource):
        def plans(self):  # type: ignore[no-untyped-def]
            for number, plan in enumerate(super().plans()):
                form = CaptionForm(caption="c", url_template=self.base + URLS[number])
                yield replace(plan, forms=(form,))

    assert scrape(quick, source=Odd(server.url, captions=4, ranks=1)).counts["done"] == 4
    asked = set(server.image_hits)
    assert asked == {"/a%EF%BF%BD_0.png", "/b%E9_0.png", "/%C3%BC_0.png", "/d?x=%00_0"}
    kept = {str(url).removeprefix(server.url) for (url,) in rows_of(quick.workspace, "url")}
    assert kept == {"/a%EF%BF%BD_0.png", "/b%E9_0.png", "/ü_0.png", "/d?x=\0_0"}
    assert len(stored(quick.workspace)) == 4


NO_URLS = [
    "ftp://h/{rank}.png",
    "no url at all {rank}",
    "http:///{rank}.png",
    "http://h:99999/{rank}.png",
    f"http://{'a' * 64}.test/{{rank}}.png",
    "http://[::1/{rank}.png",
    "http://a b/{rank}.png",
    "//h/{rank}.png",
    "",
]


def test_a_url_that_can_not_be_asked_is_a_row_of_its_own(
    server: Server, quick: DalleBlogConfig
) -> None:
    class Odd(PlainSource):
        def plans(self):  # type: ignore[no-untyped-def]
            plans = list(super().plans())
            yield plans[0]
            for url in NO_URLS:
                yield replace(plans[0], forms=(CaptionForm(caption="c", url_template=url),))
            yield plans[1]

    report = scrape(quick, source=Odd(server.url, captions=2, ranks=1))
    assert report.outcome == "incomplete"
    assert report.counts["done"] == 2
    assert report.counts["failed"] == len(NO_URLS)
    assert report.details["reasons"] == {"bad_url": len(NO_URLS)}


def odd_text(rng: random.Random) -> str | None:
    kinds = ["", "plain", "\0", "\ud83d\udce9", "x" * 65_536, "😀é", "\x1b[0m", "'\";--"]
    return None if rng.random() < 0.2 else "".join(rng.choices(kinds, k=rng.randrange(4)))


def odd_number(rng: random.Random) -> int:
    return rng.choice([0, 1, -1, 2**31, 2**63 - 1, 2**63, -(2**70), 10**30])


@pytest.mark.parametrize("seed", range(20))
def test_any_row_goes_through_the_store(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    number = 200
    odd = rng.sample(range(number), 10)

    def row(at: int) -> UrlRow:
        good = UrlRow(1, at, 1, 200, None, 1, '"e"', "now", None, b"h" * 32, 9, 0, 512, 1, 5)
        if at not in odd:
            return good
        return good._replace(
            status_code=odd_number(rng),
            reason=odd_text(rng),
            etag=odd_text(rng),
            last_modified=odd_text(rng),
            final_url=odd_text(rng),
            bytes=odd_number(rng),
            offset=odd_number(rng),
        )

    async def run() -> list[UrlRow]:
        store = Store(Workspace(tmp_path), "plain", segment_bytes=2**20)
        rows = [row(at) for at in range(number)]
        text = odd_text(rng) or "s"
        store.add_form(FormRow(1, "key", 1, text, text, False, number, f"http://h/{text}_", ".png"))
        for one in rows:
            store.add_row(one)
        store.add_touch(
            Touch(1, 200, odd_text(rng), 1, 9, odd_text(rng), odd_text(rng), odd_text(rng), 1, 0)
        )
        await store.flush()
        store.close()
        return rows

    rows = asyncio.run(run())
    ledger = Ledger(tmp_path / "raw" / "ledger.sqlite")
    found = {one.rank: one for one in ledger.known(1)}
    words = dict[object, object](ledger.query("SELECT rank, reason FROM items"))  # type: ignore[arg-type]
    ledger.close()
    assert len(found) == number
    for one in rows[1:]:
        if one.rank not in odd:
            assert found[one.rank].etag == '"e"'
            assert words[one.rank] is None
            continue
        assert found[one.rank].etag == (None if one.etag is None else storable(one.etag))
        texts = [one.etag, one.last_modified, one.final_url]
        numbers = [one.status_code or 0, one.bytes or 0, one.offset or 0]
        changed = any(text and storable(text) != text for text in texts) or any(
            abs(value) > 2**63 - 1 for value in numbers
        )
        if changed and one.reason is None:
            assert words[one.rank] == "unstorable"


def test_text_is_kept_as_it_is_where_it_can_be() -> None:
    assert storable("é😀\0") == "é😀\0"
    assert storable("a\udce9\ud83d") == "a\\udce9\\ud83d"
    assert storable_header("\udce9") == ("\\xe9", False)
    assert storable_header("é") == ("é", True)
    assert storable_header("x" * 1024) == ("x" * 1024, True)
    assert storable_header("x" * 1025) == (None, False)
    assert storable_header(None) == (None, True)


# --- Other programs ------------------------------------------------------------------------------


def hold_lock(path: Path, seconds: float, how: str = "IMMEDIATE") -> threading.Thread:
    """Another program, as far as SQLite can tell."""
    held = threading.Event()

    def hold() -> None:
        other = sqlite3.connect(path, isolation_level=None, timeout=30)
        other.execute(f"BEGIN {how}")
        held.set()
        time.sleep(seconds)
        other.execute("COMMIT")
        other.close()

    thread = threading.Thread(target=hold)
    thread.start()
    assert held.wait(30)
    return thread


def test_a_lock_of_another_program_is_waited_for_and_said(
    server: Server,
    quick: DalleBlogConfig,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # SQLite's own wait is cut short, so that ours begins soon.
    monkeypatch.setattr("scrapers.rawstore.ledger.BUSY_S", 0.05)
    path = quick.workspace / "raw" / "ledger.sqlite"
    threads: list[threading.Thread] = []

    async def locks(ask: Ask) -> bytes:
        if not threads:
            threads.append(hold_lock(path, 2.0, "EXCLUSIVE"))
        return answer(png(ask.path))

    server.behaviour = locks
    with caplog.at_level(logging.WARNING):
        report = scrape(quick, source=PlainSource(server.url, captions=50, ranks=32))
    threads[0].join()
    assert report.counts["done"] == 1600
    assert caplog.messages[0] == f"Another program has locked {path}: waiting for it."
    assert caplog.messages[1].startswith(f"{path} is free again after ")
    assert len(caplog.messages) == 2


def test_a_lock_at_the_start_is_waited_for_too(
    server: Server, quick: DalleBlogConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scrapers.rawstore.ledger.BUSY_S", 0.05)
    source = PlainSource(server.url)
    scrape(replace(quick, limit=1), source=PlainSource(server.url, captions=1))
    thread = hold_lock(quick.workspace / "raw" / "ledger.sqlite", 1.0, "EXCLUSIVE")
    assert scrape(replace(quick, refresh=True), source=source).counts["done"] == 12
    thread.join()


def test_a_lock_that_stays_is_one_sentence(
    server: Server, quick: DalleBlogConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scrapers.rawstore.ledger.BUSY_S", 0.05)
    monkeypatch.setattr(patience, "MAIN_PATIENCE_S", 0.3)
    monkeypatch.setattr(patience, "PATIENCE_S", 0.3)
    scrape(quick, source=PlainSource(server.url, captions=1))
    path = quick.workspace / "raw" / "ledger.sqlite"
    thread = hold_lock(path, 3.0)
    with pytest.raises(StorageError, match=r"Another program holds the lock on .*: close it"):
        scrape(replace(quick, limit=5), source=PlainSource(server.url, captions=5))
    thread.join()

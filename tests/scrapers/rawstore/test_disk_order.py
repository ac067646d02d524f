"""The raw store's promise: bytes are on the disk before the ledger names them, at every moment."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.core.workspace import Workspace
from scrapers.config import ScrapeConfig
from scrapers.rawstore.batch_writer import Store, repair_segments
from scrapers.rawstore.ledger import Ledger
from scrapers.rawstore.ledger_rows import FormRow, UrlRow
from scrapers.rawstore.mending import mend_segments
from scrapers.rawstore.raw_check import Segment
from scrapers.rawstore.segments import SegmentState, SegmentWriter
from scrapers.scrape import scrape
from tests.helpers.crawls import PlainSource, Server, png
from tests.helpers.disk_order import DiskOrder

FORM = FormRow(1, "things-0123", 1, "things", "a thing", False, 8, "http://h/a_", ".png")


@pytest.fixture
def order(monkeypatch: pytest.MonkeyPatch) -> DiskOrder:
    order = DiskOrder(monkeypatch)
    order.record_call(Ledger, "commit", "commit")
    order.record_call(Ledger, "set_meta", "note")
    return order


def place(writer: SegmentWriter, number: int, size: int = 3000) -> tuple[int, int]:
    body = png(f"{number}", size)
    digest = hashlib.sha256(body).digest()
    return writer.place(f"things-0123-{number:02d}", "png", body, "{}", sha256=digest)


def test_a_segment_is_named_then_written_then_synced(tmp_path: Path, order: DiskOrder) -> None:
    folder = tmp_path / "segments"
    writer = SegmentWriter(folder, None, max_bytes=12_000)
    for number in range(3):
        place(writer, number)
    writer.write(writer.take())
    first, second = ("write 00000.tar", "sync 00000.tar"), ("write 00001.tar", "sync 00001.tar")
    begun = "sync segments"
    assert order.of("00000.tar", "00001.tar", "segments") == [begun, *first, begun, *second]
    order.events.clear()
    writer.seal()
    assert order.of("00001.tar") == list(second)


def test_bytes_are_synced_before_their_rows_are_committed(tmp_path: Path, order: DiskOrder) -> None:
    workspace = Workspace(tmp_path / "data").open(source="x")

    async def write() -> None:
        store = Store(workspace, "x", segment_bytes=10**6)
        order.events.clear()
        segment, offset = place(store.segments, 0)
        store.add_form(FORM)
        store.add_bytes(3000)
        store.add_row(
            UrlRow(1, 0, 1, 200, None, 1, None, None, None, bytes(32), 3000, segment, offset, 1, 9)
        )
        await store.flush()
        store.close()

    asyncio.run(write())
    # That there may be a segment is noted before there is one.
    assert order.of("note", "segments", "00000.tar", "commit") == [
        "note",
        "sync segments",
        "write 00000.tar",
        "sync 00000.tar",
        "commit",
    ]


def test_the_ledger_syncs_what_it_commits(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite", "x")
    full = 2
    assert list(ledger.query("PRAGMA synchronous")) == [(full,)]
    assert list(ledger.query("PRAGMA journal_mode")) == [("wal",)]
    ledger.close()


def test_a_crawl_takes_the_manifest_away_before_it_writes(
    server: Server, quick: ScrapeConfig, order: DiskOrder
) -> None:
    scrape(quick, source=PlainSource(server.url, captions=1))
    order.events.clear()
    scrape(replace(quick, limit=9), source=PlainSource(server.url, captions=2))
    found = order.of("manifest.json", "raw", "00000.tar", "commit")
    begin = found.index("delete manifest.json")
    assert found[begin : begin + 4] == [
        "delete manifest.json",
        "sync raw",
        "write 00000.tar",
        "sync 00000.tar",
    ]
    assert found[begin + 4] == "commit"
    assert found[-2:] == ["rename manifest.json", "sync raw"]


def small_store(root: Path, images: int = 3) -> tuple[Ledger, Path]:
    """A ledger and one open segment of some images."""
    folder = root / "segments"
    writer = SegmentWriter(folder, None, max_bytes=10**6)
    places = [place(writer, number) for number in range(images)]
    states = writer.write(writer.take())
    writer.release()
    ledger = Ledger(root / "ledger.sqlite", "x")
    digests = [hashlib.sha256(png(f"{number}", 3000)).digest() for number in range(images)]
    rows = [
        UrlRow(1, n, 1, 200, None, 1, None, None, None, digest, 3000, segment, offset, 1, 9)
        for n, ((segment, offset), digest) in enumerate(zip(places, digests, strict=True))
    ]
    ledger.commit(forms=[FORM], rows=rows, segments=states)
    ledger.set_meta("last_segment_begun", "0")
    return ledger, folder


def test_a_segment_that_was_cut_is_closed_on_disk_before_the_ledger_says_so(
    tmp_path: Path, order: DiskOrder
) -> None:
    ledger, folder = small_store(tmp_path)
    segment = folder / "00000.tar"
    segment.write_bytes(segment.read_bytes()[:-600])
    order.events.clear()
    (state,) = repair_segments(ledger, folder)
    ledger.close()
    assert order.of("00000.tar", "commit") == ["sync 00000.tar", "commit"]
    assert state.bytes == segment.stat().st_size
    assert state.sha256 is not None


def test_an_open_segment_is_closed_on_disk_before_another_is_mended(
    tmp_path: Path, order: DiskOrder
) -> None:
    ledger, folder = small_store(tmp_path)
    ledger.commit(segments=[SegmentState(1, 0, "0" * 64)])
    ledger.close()
    (folder / "00001.tar").write_bytes(b"")
    order.events.clear()
    mend_segments(tmp_path, [Segment(number=1, bytes=0, sha256=None)])
    assert order.of("00000.tar", "00001.tar") == ["sync 00000.tar", "delete 00001.tar"]

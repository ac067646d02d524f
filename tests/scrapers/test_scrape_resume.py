"""Killed, cut off, out of disk: the same command again ends in the same set of images, each once."""

from __future__ import annotations

import asyncio
import errno
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.core.contracts import StageReport
from pipeline.core.errors import StorageError
from pipeline.core.storage import sha256_file
from scrapers.rawstore import segments
from scrapers.rawstore.ledger import Ledger
from scrapers.rawstore.segment_hash import hash_segment
from scrapers.scrape import scrape
from scrapers.sources.dalleblog.config import DalleBlogConfig
from tests.helpers.crawls import Ask, PlainSource, Server, answer, members, png, stored

ROOT = Path(__file__).parents[2]
CHILD = """
import sys
from pathlib import Path
from scrapers.sources.dalleblog.config import DalleBlogConfig
from scrapers.scrape import scrape
from scrapers.rawstore import batch_writer as store
from tests.helpers.crawls import PlainSource
store.BATCH_ROWS = 50
config = DalleBlogConfig(workspace=Path(sys.argv[2]), segment_mb=1, backoff_s=0.01)
scrape(config, source=PlainSource(sys.argv[1], captions=int(sys.argv[3]), ranks=32))
"""


def start_child(server: Server, root: Path, captions: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", CHILD, server.url, str(root), str(captions)]
    return subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})


def check_whole(root: Path, server: Server, captions: int) -> None:
    found = stored(root)
    assert len(found) == captions * 32
    assert all(body == big(url.removeprefix(server.url)) for url, body in found.items())
    named = members(root)
    assert len(named) == 2 * captions * 32
    check_latencies(root, captions * 32)


def check_latencies(root: Path, requests: int) -> None:
    """Each row that was committed counts its request, which was answered, and no other."""
    ledger = Ledger(root / "raw" / "ledger.sqlite")
    for table, column in (
        ("urls", "attempts"),
        ("latencies", "requests"),
        ("host_latencies", "requests"),
    ):
        assert list(ledger.query(f"SELECT sum({column}) FROM {table}")) == [(requests,)], table
    ledger.close()


def big(path: str) -> bytes:
    return png(path, 3000)


async def serves_big(ask: Ask) -> bytes:
    await asyncio.sleep(0.004)
    return answer(big(ask.path))


@pytest.mark.parametrize(
    "kills", [3, pytest.param(12, marks=pytest.mark.slow)], ids=lambda kills: f"{kills}-kills"
)
def test_killed_at_any_moment_it_continues(kills: int, server: Server, tmp_path: Path) -> None:
    captions = 16 * kills
    server.behaviour = serves_big
    rng = random.Random(kills)
    root = tmp_path / "data"
    for _ in range(kills):
        before = sum(server.image_hits.values())
        child = start_child(server, root, captions)
        wanted = before + rng.randrange(1, 512)
        while sum(server.image_hits.values()) < wanted and child.poll() is None:
            time.sleep(0.001)
        child.send_signal(signal.SIGKILL)
        child.wait()
    config = DalleBlogConfig(workspace=root, segment_mb=1, backoff_s=0.01)
    source = PlainSource(server.url, captions=captions, ranks=32)
    assert scrape(config, source=source).outcome == "done"
    check_whole(root, server, captions)
    # Lost with each kill: what was in flight or not committed yet (a batch, and one behind it).
    assert sum(server.image_hits.values()) - captions * 32 <= kills * 250
    assert scrape(config, source=source).outcome == "unchanged"


def interrupted(server: Server, config: DalleBlogConfig, captions: int) -> None:
    """A crawl that stops in its middle, with a segment open."""
    half = replace(config, limit=captions // 2)
    scrape(half, source=PlainSource(server.url, captions=captions // 2, ranks=32))


def finish(server: Server, config: DalleBlogConfig, captions: int) -> StageReport:
    return scrape(config, source=PlainSource(server.url, captions=captions, ranks=32))


def big_server(server: Server) -> None:
    async def behaves(ask: Ask) -> bytes:
        return answer(big(ask.path))

    server.behaviour = behaves


def test_a_torn_tail_is_cut_off(server: Server, quick: DalleBlogConfig) -> None:
    big_server(server)
    interrupted(server, quick, 8)
    last = max((quick.workspace / "raw" / "segments").glob("*.tar"))
    with last.open("ab") as file:
        file.write(b"torn" * 5000)
    finish(server, quick, 8)
    check_whole(quick.workspace, server, 8)
    assert set(server.image_hits.values()) == {1}


def test_segments_of_a_batch_that_was_not_committed_are_begun_anew(
    server: Server, quick: DalleBlogConfig
) -> None:
    big_server(server)
    config = replace(quick, segment_mb=1)
    interrupted(server, config, 8)

    segments, commit = quick.workspace / "raw" / "segments", Ledger.commit

    def fail(ledger: Ledger, *args: Any, **options: Any) -> Any:
        """Fail the first batch that has begun a segment, however many images it holds."""
        if len(list(segments.glob("*.tar"))) > len(ledger.segment_states()):
            raise StorageError("killed here")
        return commit(ledger, *args, **options)

    with pytest.MonkeyPatch.context() as killed:
        killed.setattr(Ledger, "commit", fail)
        with pytest.raises(StorageError, match="killed here"):
            finish(server, config, 32)
    assert finish(server, config, 32).outcome == "done"
    check_whole(quick.workspace, server, 32)


def test_without_its_ledger_a_store_is_left_as_it_is(
    server: Server, quick: DalleBlogConfig
) -> None:
    big_server(server)
    config = replace(quick, segment_mb=1)
    interrupted(server, config, 16)
    raw = quick.workspace / "raw"
    older = (raw / "ledger.sqlite").read_bytes()
    finish(server, config, 32)
    present = (raw / "ledger.sqlite").read_bytes()
    names = sorted((raw / "segments").glob("*.tar"))
    hashes = [sha256_file(path) for path in names]
    (raw / "ledger.sqlite").unlink()
    for _ in range(2):
        with pytest.raises(
            StorageError, match=f"{raw / 'segments'} contains {len(names)} segments"
        ):
            finish(server, config, 32)
    (raw / "ledger.sqlite").write_bytes(older)
    (raw / "manifest.json").unlink()
    with pytest.raises(StorageError, match="doesn't know"):
        finish(server, config, 32)
    assert [sha256_file(path) for path in names] == hashes
    (raw / "ledger.sqlite").write_bytes(present)
    assert finish(server, config, 32).outcome == "unchanged"


def test_bytes_lost_behind_the_ledgers_back_are_fetched_again(
    server: Server, quick: DalleBlogConfig
) -> None:
    big_server(server)
    config = replace(quick, segment_mb=1)
    report = finish(server, config, 24)
    names = sorted((quick.workspace / "raw" / "segments").glob("*.tar"))
    assert len(names) > 3
    names[0].unlink()
    os.truncate(names[1], names[1].stat().st_size // 2)
    os.truncate(names[-1], 5000)
    assert finish(server, config, 24).outcome == "done"
    found = stored(quick.workspace)
    assert len(found) == 24 * 32
    assert all(body == big(url.removeprefix(server.url)) for url, body in found.items())
    assert members(quick.workspace)
    again = finish(server, config, 24)
    assert again.outcome == "unchanged"
    assert again.details["content"] == report.details["content"]


def test_the_manifest_names_every_segment_with_its_hash(
    server: Server, quick: DalleBlogConfig
) -> None:
    from pipeline.core.storage import read_manifest

    big_server(server)
    config = replace(quick, segment_mb=1)
    interrupted(server, config, 24)
    finish(server, config, 24)
    raw = quick.workspace / "raw"
    files = read_manifest(raw, "raw").files
    assert [entry.path for entry in files] == [
        f"segments/{path.name}" for path in sorted((raw / "segments").glob("*.tar"))
    ]
    for entry in files:
        assert (raw / entry.path).stat().st_size == entry.bytes <= 2**20
        assert hash_segment(raw / entry.path) == entry.sha256


@pytest.mark.parametrize("room", [0, 1000, 40_000, 200_000, 600_000])
def test_a_full_disk_loses_nothing_that_was_committed(
    room: int, server: Server, quick: DalleBlogConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    big_server(server)
    monkeypatch.setattr("scrapers.rawstore.batch_writer.BATCH_ROWS", 20)
    left = room

    def write(file: int, data: bytes) -> int:
        nonlocal left
        if left <= 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = os.write(file, data[:left])
        left -= written
        return written

    with monkeypatch.context() as full:
        full.setattr(segments, "os", _FullDisk(write))
        with pytest.raises(StorageError, match="disk is full"):
            finish(server, quick, 12)
    assert finish(server, quick, 12).outcome == "done"
    check_whole(quick.workspace, server, 12)


class _FullDisk:
    """`os` with a function that refuses."""

    def __init__(self, write: object) -> None:
        self.write = write

    def __getattr__(self, name: str) -> object:
        return getattr(os, name)


def test_a_full_disk_under_the_ledger_is_said_in_a_sentence(
    server: Server, quick: DalleBlogConfig
) -> None:
    big_server(server)
    interrupted(server, quick, 4)
    ledger = Ledger(quick.workspace / "raw" / "ledger.sqlite")
    pages = next(ledger.query("PRAGMA page_count"))[0]
    ledger.close()
    original = Ledger.__init__

    def small(self: Ledger, path: Path, source: str | None = None) -> None:
        original(self, path, source)
        self._db.execute(f"PRAGMA max_page_count = {pages}")

    with pytest.MonkeyPatch.context() as full:
        full.setattr(Ledger, "__init__", small)
        with pytest.raises(StorageError, match="disk is full"):
            finish(server, quick, 100)
    assert finish(server, quick, 8).counts["done"] >= 8 * 32

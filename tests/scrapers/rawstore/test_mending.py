"""A raw store that was damaged: only what is lost is asked for again, whenever the mending is killed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.core.inventory import find_folders
from pipeline.core.ownership import reopen
from pipeline.core.workspace import Workspace
from pipeline.verify.check import check_one
from scrapers.rawstore import mending
from scrapers.rawstore.ledger import Ledger
from scrapers.rawstore.mending import Mended, mend_segments, sweep_segments
from scrapers.rawstore.raw_check import Segment
from scrapers.rawstore.segments import SegmentWriter
from scrapers.sources.dalleblog.config import DalleBlogConfig
from tests.helpers.crawls import Server, members, stored
from tests.scrapers.test_scrape_resume import big, big_server, finish

CAPTIONS = 24


@pytest.fixture
def config(server: Server, quick: DalleBlogConfig) -> DalleBlogConfig:
    """A finished store of several segments, and the options that it was made with."""
    big_server(server)
    config = replace(quick, segment_mb=1)
    finish(server, config, CAPTIONS)
    server.hits.clear()
    return config


def hit_images(root: Path, segment: str, number: int) -> list[str]:
    """Turn a bit in every second of the first images of a segment; their URLs."""
    ledger = Ledger(root / "raw/ledger.sqlite")
    sql = "SELECT url, offset FROM items WHERE segment = ? ORDER BY offset"
    rows = [(str(url), int(str(offset))) for url, offset in ledger.query(sql, segment)]
    ledger.close()
    path = root / "raw/segments" / segment
    data = bytearray(path.read_bytes())
    hit = rows[: 2 * number : 2]
    for _, offset in hit:
        data[offset + 100] ^= 1
    path.write_bytes(data)
    return [url for url, _ in hit]


def mend(config: DalleBlogConfig) -> Mended:
    """What `verify --repair` does to the raw store."""
    (folder,) = (f for f in find_folders(config.workspace) if f.contract == "raw")
    checked = check_one(folder, Workspace(config.workspace))
    reopen(folder.path, "raw")
    return mend_segments(folder.path, checked.lost(Segment))


def check_mended(server: Server, config: DalleBlogConfig, asked: int) -> None:
    """The next scrape asks for `asked` images, and then all are there, each once."""
    server.hits.clear()
    finish(server, config, CAPTIONS)
    assert server.image_hits.total() == asked
    found = stored(config.workspace)
    assert len(found) == CAPTIONS * 32
    assert all(body == big(url.removeprefix(server.url)) for url, body in found.items())
    assert len(members(config.workspace)) == 2 * len(found)
    (folder,) = (f for f in find_folders(config.workspace) if f.contract == "raw")
    assert check_one(folder, Workspace(config.workspace)).state == "ok"
    assert finish(server, config, CAPTIONS).outcome == "unchanged"


def segments(config: DalleBlogConfig) -> list[str]:
    return sorted(path.name for path in (config.workspace / "raw/segments").glob("*.tar"))


def test_only_what_is_lost_is_asked_for_again(server: Server, config: DalleBlogConfig) -> None:
    names = segments(config)
    others = {n: (config.workspace / "raw/segments" / n).read_bytes() for n in names[2:-1]}
    urls = [*hit_images(config.workspace, names[0], 3), *hit_images(config.workspace, names[1], 2)]
    mended = mend(config)
    assert (mended.lost, mended.versions_lost) == (5, 0)
    check_mended(server, config, asked=len(urls))
    assert {n: (config.workspace / "raw/segments" / n).read_bytes() for n in others} == others
    assert not {names[0], names[1]} & set(segments(config))


@pytest.mark.parametrize("at", [0, -1])
def test_the_first_and_the_open_segment_can_be_hit(
    server: Server, config: DalleBlogConfig, at: int
) -> None:
    hit_images(config.workspace, segments(config)[at], 2)
    assert mend(config).lost == 2
    check_mended(server, config, asked=2)


def test_a_segment_that_is_missing_loses_all_of_its_images(
    server: Server, config: DalleBlogConfig
) -> None:
    name = segments(config)[1]
    (config.workspace / "raw/segments" / name).unlink()
    mended = mend(config)
    assert mended.kept == 0
    check_mended(server, config, asked=mended.lost)


def test_a_store_of_which_all_images_are_lost_is_fetched_again(
    server: Server, quick: DalleBlogConfig
) -> None:
    big_server(server)
    finish(server, quick, 1)
    (segment,) = (quick.workspace / "raw/segments").glob("*.tar")
    segment.write_bytes(bytes(segment.stat().st_size))
    assert mend(quick) == Mended(lost=32, versions_lost=0, kept=0)
    finish(server, quick, 1)
    assert len(stored(quick.workspace)) == 32


def test_earlier_versions_are_kept_where_they_are_whole(
    server: Server, quick: DalleBlogConfig
) -> None:
    big_server(server)
    finish(server, quick, 2)
    behaviour = server.behaviour
    assert behaviour is not None

    async def changed(ask: Any) -> bytes | None:
        ask.path = ask.path.replace("c0_1.", "c0_100.")  # other bytes at one URL
        return await behaviour(ask)

    server.behaviour = changed
    finish(server, replace(quick, refresh=True), 2)
    versions = "SELECT count(*) FROM versions"
    ledger = Ledger(quick.workspace / "raw/ledger.sqlite")
    assert list(ledger.query(versions)) == [(1,)]
    ledger.close()
    hit_images(quick.workspace, "00000.tar", 3)
    assert mend(quick).lost == 3
    ledger = Ledger(quick.workspace / "raw/ledger.sqlite")
    assert list(ledger.query(versions)) == [(1,)]
    ledger.close()
    (folder,) = (f for f in find_folders(quick.workspace) if f.contract == "raw")
    assert check_one(folder, Workspace(quick.workspace)).faults == ()


def test_earlier_versions_that_are_lost_are_counted_apart_from_images(
    server: Server, quick: DalleBlogConfig
) -> None:
    big_server(server)
    finish(server, quick, 1)
    behaviour = server.behaviour
    assert behaviour is not None

    async def changed(ask: Any) -> bytes | None:
        ask.path = ask.path.replace("c0_1.", "c0_100.").replace("c0_2.", "c0_200.")
        return await behaviour(ask)

    server.behaviour = changed
    finish(server, replace(quick, refresh=True), 1)
    for segment in segments(quick):
        (quick.workspace / "raw/segments" / segment).unlink()
    assert mend(quick) == Mended(lost=32, versions_lost=2, kept=0)


class KilledError(BaseException):
    """Stands for a kill: nothing of ours catches it."""


def die(*_args: object, **_options: object) -> Any:
    raise KilledError


def before_anything_is_written(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(SegmentWriter, "write", die)


def before_the_ledger_follows(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(mending._Mending, "_commit", die)


def before_the_damaged_segment_goes(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Path, "unlink", die)


MOMENTS = [
    before_anything_is_written,
    before_the_ledger_follows,
    before_the_damaged_segment_goes,
]


@pytest.mark.parametrize("moment", MOMENTS, ids=lambda moment: str(moment.__name__))
@pytest.mark.parametrize("at", [0, -1])
def test_killed_at_any_moment_it_can_be_mended_again(
    server: Server,
    config: DalleBlogConfig,
    moment: Callable[[pytest.MonkeyPatch], None],
    at: int,
) -> None:
    hit_images(config.workspace, segments(config)[at], 3)
    with pytest.MonkeyPatch.context() as patch:
        moment(patch)
        with pytest.raises(KilledError):
            mend(config)
    mend(config)
    check_mended(server, config, asked=3)


@pytest.mark.parametrize("moment", MOMENTS, ids=lambda moment: str(moment.__name__))
def test_after_a_mending_that_was_killed_a_scrape_goes_on_as_it_can(
    server: Server, config: DalleBlogConfig, moment: Callable[[pytest.MonkeyPatch], None]
) -> None:
    hit_images(config.workspace, segments(config)[0], 3)
    with pytest.MonkeyPatch.context() as patch:
        moment(patch)
        with pytest.raises(KilledError):
            mend(config)
    finish(server, config, CAPTIONS)
    mend(config)
    sweep_segments(config.workspace / "raw")
    finish(server, config, CAPTIONS)
    found = stored(config.workspace)
    assert all(body == big(url.removeprefix(server.url)) for url, body in found.items())
    assert len(members(config.workspace)) == 2 * len(found) == 2 * CAPTIONS * 32

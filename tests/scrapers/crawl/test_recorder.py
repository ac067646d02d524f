"""What the ledger says after each answer to a job: new, changed, unchanged, failed, gone, withdrawn."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from pipeline.core.workspace import Workspace
from scrapers.crawl.jobs import Job, PlanOpener
from scrapers.crawl.recorder import Recorder, Tally
from scrapers.fetch.optouts.headers import NO_SIGNALS
from scrapers.fetch.response import Response
from scrapers.fetch.response_head import Headers
from scrapers.fetch.verdict import UNCHANGED, Verdict, judge_response
from scrapers.rawstore.batch_writer import Store
from scrapers.source import CaptionForm, CaptionPlan
from tests.helpers.crawls import png

URL = "http://h/samples/s/a_0.png"
FORM = CaptionForm(caption="a cube", url_template="http://h/samples/s/a_{rank}.png")
PLAN = CaptionPlan(section="s", forms=(FORM,), ranks=(0,), masked=False)
MISSING = judge_response(404, None, b"")
FAILED = judge_response(500, None, b"")
OPTED_OUT = Verdict("opted_out", "x_robots_noai", False, "neutral")


def answer(status: int, body: bytes = b"", *, etag: str | None = None) -> Response:
    return Response(status, body, URL, etag, None, None, NO_SIGNALS, Headers({}, []), 0.1)


def new_image(name: str, etag: str | None = None) -> tuple[Verdict, Response]:
    body = png(name)
    return judge_response(200, None, body), answer(200, body, etag=etag)


class World:
    """A raw store into which one image's outcomes are recorded, run after run."""

    def __init__(self, root: Path) -> None:
        self.workspace = Workspace(root).open(source="x")
        self.time = 1000

    def run(
        self, verdict: Verdict, came: Response | None, *, requests: int = 1, gone_after: int = 1
    ) -> Tally:
        """One run that asks for the image again and hears this."""

        async def record() -> Tally:
            store = Store(self.workspace, "x", segment_bytes=10**6)
            tally = Tally()
            self.time += 10
            recorder = Recorder(
                store,
                tally,
                clock=lambda: self.time,
                refresh_since=self.time,
                gone_after=gone_after,
            )
            opener = PlanOpener(ledger=store.reader, mode="refresh", refresh_since=self.time)
            opened = opener.open(PLAN)
            assert opened is not None
            (job,) = opened.jobs()
            assert isinstance(job, Job)
            job.requests = requests
            recorder.record(job, recorder.examine(job, verdict, came))
            await store.flush()
            store.close()
            return tally

        return asyncio.run(record())

    def item(self, columns: str) -> tuple[Any, ...]:
        """Columns of the image's row."""
        store = Store(self.workspace, "x", segment_bytes=10**6)
        (row,) = store.reader.query(f"SELECT {columns} FROM items")
        store.close()
        return row

    def versions(self) -> list[tuple[Any, ...]]:
        store = Store(self.workspace, "x", segment_bytes=10**6)
        rows = list(store.reader.query("SELECT version, etag FROM versions"))
        store.close()
        return rows


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "data")


def numbers(tally: Tally) -> Mapping[str, int]:
    """What is not 0 of a tally."""
    names = ("stored", "unchanged", "changed", "absent", "gone", "kept")
    return {name: getattr(tally, name) for name in names if getattr(tally, name)}


def test_new_bytes_are_stored_with_what_came_with_them(world: World) -> None:
    tally = world.run(*new_image("a", etag='"1"'), requests=3)
    assert numbers(tally) == {"stored": 1}
    assert tally.bytes == len(png("a"))
    row = world.item("state, status_code, reason, attempts, etag, bytes, key")
    assert row[:6] == ("done", 200, None, 3, '"1"', len(png("a")))
    assert not row[6].endswith("-v2")


def test_other_bytes_are_a_new_version_and_the_one_before_is_kept(world: World) -> None:
    world.run(*new_image("a", etag='"1"'))
    assert numbers(world.run(*new_image("b", etag='"2"'))) == {"stored": 1, "changed": 1}
    assert world.item("state, etag, attempts") == ("done", '"2"', 2)
    assert world.item("key")[0].endswith("-v2")
    assert world.versions() == [(1, '"1"')]
    world.run(*new_image("c"))
    assert world.item("key")[0].endswith("-v3")


@pytest.mark.parametrize("again", [(UNCHANGED, answer(304)), new_image("a")])
def test_the_same_bytes_are_not_stored_again(again: tuple[Verdict, Response], world: World) -> None:
    world.run(*new_image("a", etag='"1"'))
    before = world.item("sha256, segment, offset, key")
    assert numbers(world.run(*again)) == {"unchanged": 1}
    assert world.item("sha256, segment, offset, key") == before
    assert world.item("state, etag, attempts") == ("done", '"1"', 2)
    assert world.versions() == []


def test_bytes_that_come_at_last_are_a_first_version(world: World) -> None:
    tally = world.run(FAILED, answer(500), requests=4)
    assert (numbers(tally), dict(tally.failures)) == ({}, {"http_500": 1})
    assert world.item("state, status_code, reason, attempts") == ("failed", 500, "http_500", 4)
    assert numbers(world.run(*new_image("a"))) == {"stored": 1}
    assert world.item("state, attempts") == ("done", 5)
    assert not world.item("key")[0].endswith("-v2")
    assert world.versions() == []


@pytest.mark.parametrize("came", [answer(500, etag='"error page"'), None])
def test_a_failure_leaves_the_bytes_of_before_and_their_validators(
    came: Response | None, world: World
) -> None:
    world.run(*new_image("a", etag='"1"'))
    tally = world.run(FAILED, came)
    assert (numbers(tally), dict(tally.failures)) == ({"kept": 1}, {"http_500": 1})
    assert world.item("state, etag, attempts") == ("done", '"1"', 2)


@pytest.mark.parametrize("gone_after", [1, 2, 3])
def test_an_image_is_gone_after_as_many_refreshes_in_a_row_as_said_and_not_before(
    gone_after: int, world: World
) -> None:
    world.run(*new_image("a"))
    miss: Callable[[], Mapping[str, int]] = lambda: numbers(  # noqa: E731
        world.run(MISSING, answer(404), gone_after=gone_after)
    )
    for _ in range(gone_after - 1):
        assert miss() == {"absent": 1}
        assert world.item("state") == ("done",)
    assert miss() == {"gone": 1}
    assert world.item("state, reason") == ("missing", "gone")
    assert miss() == {}  # it is gone already


def test_an_image_that_is_there_again_has_missed_nothing(world: World) -> None:
    world.run(*new_image("a"))
    for _ in range(2):
        assert numbers(world.run(MISSING, answer(404), gone_after=2)) == {"absent": 1}
        world.run(UNCHANGED, answer(304), gone_after=2)


def test_an_image_that_is_withdrawn_keeps_its_bytes_and_says_why(world: World) -> None:
    world.run(*new_image("a"))
    world.run(OPTED_OUT, answer(200))
    assert world.item("state, reason, segment") == ("opted_out", "x_robots_noai", "00000.tar")

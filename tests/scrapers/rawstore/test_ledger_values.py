"""What a row of the ledger says after it was asked for again, and what is lost with a cut segment."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.core.errors import DamageError, StorageError
from scrapers.rawstore.ledger import Ledger
from scrapers.rawstore.ledger_rows import FormRow, Touch, UrlRow
from scrapers.rawstore.ledger_schema import STATE_NUMBER
from scrapers.rawstore.segments import SegmentState, check_segments, refuse_unknown

FORM = FormRow(1, "things-0123", 1, "things", "a thing", False, 8, "http://h/a_", ".png")


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    made = Ledger(tmp_path / "raw" / "ledger.sqlite", "x")
    made.commit(forms=[FORM])
    yield made
    made.close()


def row(rank: int = 0, **changes: object) -> UrlRow:
    values: dict[str, object] = {
        "form": 1, "rank": rank, "state": STATE_NUMBER["done"], "status_code": 200, "reason": None,
        "attempts": 1, "etag": "e", "last_modified": "m", "final_url": None, "sha256": b"1" * 32,
        "bytes": 100, "segment": 0, "offset": 512, "version": 1, "time": 1000,
    }  # fmt: skip
    return UrlRow(**{**values, **changes})  # type: ignore[arg-type]


def touch(**changes: object) -> Touch:
    values: dict[str, object] = {
        "state": STATE_NUMBER["done"], "status_code": 304, "reason": None, "attempts": 1,
        "time": 2000, "etag": None, "last_modified": None, "evidence": None, "form": 1, "rank": 0,
    }  # fmt: skip
    return Touch(**{**values, **changes})  # type: ignore[arg-type]


def item(ledger: Ledger, columns: str, rank: int = 0) -> tuple[object, ...]:
    (found,) = ledger.query(f"SELECT {columns} FROM items WHERE rank = ?", rank)
    return found


def test_attempts_add_up_whether_bytes_come_or_are_kept(ledger: Ledger) -> None:
    ledger.commit(rows=[row(state=STATE_NUMBER["failed"], attempts=4)])
    assert item(ledger, "state, attempts") == ("failed", 4)
    ledger.commit(rows=[row(attempts=3)])
    assert item(ledger, "state, attempts") == ("done", 7)
    ledger.commit(touched=[touch(attempts=2)])
    assert item(ledger, "state, attempts") == ("done", 9)


def test_attempts_add_up_also_where_many_rows_are_written_at_once(ledger: Ledger) -> None:
    for attempts in (2, 3):
        ledger.commit(rows=[row(rank, attempts=attempts) for rank in range(200)])
    assert list(ledger.query("SELECT DISTINCT attempts FROM items")) == [(5,)]


def test_the_first_time_stays_and_the_last_follows(ledger: Ledger) -> None:
    ledger.commit(rows=[row(time=60)])
    ledger.commit(rows=[row(time=120)])
    times = "1970-01-01T00:01:00Z", "1970-01-01T00:02:00Z"
    assert item(ledger, "first_time, last_time") == times
    ledger.commit(touched=[touch(time=180)])
    assert item(ledger, "first_time, last_time") == (times[0], "1970-01-01T00:03:00Z")


def test_validators_stay_where_an_answer_names_none(ledger: Ledger) -> None:
    ledger.commit(rows=[row()])
    ledger.commit(touched=[touch()])
    assert item(ledger, "etag, last_modified, status_code") == ("e", "m", 304)
    ledger.commit(touched=[touch(etag="f", last_modified="n")])
    assert item(ledger, "etag, last_modified") == ("f", "n")


def test_evidence_stays_as_long_as_the_url_is_opted_out(ledger: Ledger) -> None:
    out = STATE_NUMBER["opted_out"]
    ledger.commit(rows=[row(state=out, evidence='{"signal": "a"}')])
    ledger.commit(touched=[touch(state=out)])
    assert item(ledger, "evidence") == ('{"signal": "a"}',)
    ledger.commit(touched=[touch(state=out, evidence='{"signal": "b"}')])
    assert item(ledger, "evidence") == ('{"signal": "b"}',)
    ledger.commit(touched=[touch()])
    assert item(ledger, "evidence") == (None,)


def test_a_batch_is_written_whole_or_not_at_all(ledger: Ledger) -> None:
    other = FORM._replace(id=2)  # of the key that the first form has
    with pytest.raises(DamageError, match="UNIQUE constraint failed"):
        ledger.commit(forms=[FORM._replace(id=3, key="things-4567"), other], rows=[row()])
    assert list(ledger.query("SELECT id FROM forms")) == [(1,)]
    assert list(ledger.query("SELECT * FROM urls")) == []


# --- Lost bytes ----------------------------------------------------------------------------------

BODY = 700  # bytes of each image: two blocks, the second padded
ENDS = [512 + 1024, 512 + 1024 + 1024 + 1024]  # of the images with their padding


@pytest.mark.parametrize(
    ("size", "lost"),
    [
        (ENDS[0] - 1, {0, 1}),
        (ENDS[0] - 512 + BODY % 512, {0, 1}),  # the bytes are there, their padding is not
        (ENDS[0], {1}),
        (ENDS[0] + 1, {1}),
        (ENDS[1] - 1, {1}),
        (ENDS[1], set()),
        (ENDS[1] + 1, set()),
    ],
)
def test_a_segment_that_was_cut_loses_the_images_that_do_not_end_in_it(
    size: int, lost: set[int], ledger: Ledger
) -> None:
    places = (512, ENDS[0] + 1024)
    rows = [row(rank, offset=offset, bytes=BODY) for rank, offset in enumerate(places)]
    ledger.commit(rows=rows, segments=[SegmentState(0, ENDS[1], None)])
    assert ledger.forget_lost(0, size) == len(lost)
    for rank in range(2):
        gone = ("pending", "lost_bytes", None, None, None)
        there = ("done", None, "00000.tar", places[rank], BODY)
        found = item(ledger, "state, reason, segment, offset, bytes", rank)
        assert found == (gone if rank in lost else there)
    kept = [ENDS[rank] for rank in range(2) if rank not in lost]
    assert ledger.segment_states() == [SegmentState(0, max(kept, default=0), None)]


@pytest.mark.parametrize(("size", "short"), [(99, True), (100, False), (101, False)])
def test_a_segment_is_short_from_one_byte_less_than_the_ledger_says(
    size: int, short: bool, tmp_path: Path
) -> None:
    (tmp_path / "00000.tar").write_bytes(bytes(size))
    states = [SegmentState(0, 100, None), SegmentState(1, 7, None)]
    assert check_segments(tmp_path, states) == ({0: size} if short else {}) | {1: 0}


@pytest.mark.parametrize(("begun", "refused"), [(-1, True), (0, True), (1, False), (2, False)])
def test_a_segment_after_the_last_that_was_begun_is_refused(
    begun: int, refused: bool, tmp_path: Path
) -> None:
    for number in range(2):
        (tmp_path / f"{number:05d}.tar").write_bytes(b"")
    if not refused:
        refuse_unknown(tmp_path, begun)
        return
    with pytest.raises(StorageError, match=rf"such as {begun + 1:05d}\.tar"):
        refuse_unknown(tmp_path, begun)

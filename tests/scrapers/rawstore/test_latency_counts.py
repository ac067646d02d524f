"""Counts of latencies in the ledger: by minute and by host, committed with their rows or not at all."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from pipeline.core.errors import PipelineError
from pipeline.core.latencies import step_of
from scrapers.rawstore.ledger import Ledger
from scrapers.rawstore.ledger_rows import FormRow

FORM = FormRow(1, "things-0123", 1, "things", "a thing", False, 8, "http://h/a_", ".png")
FAST, SLOW = step_of(0.01), step_of(2.0)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    made = Ledger(tmp_path / "raw" / "ledger.sqlite", "x")
    yield made
    made.close()


def rows(ledger: Ledger, table: str) -> list[tuple[Any, ...]]:
    return list(ledger.query(f"SELECT * FROM {table}"))


def test_latencies_are_counted_by_minute_and_by_host_over_all_batches(ledger: Ledger) -> None:
    for _ in range(2):
        ledger.commit(
            answered=[
                ("http://a.test/1.png", 119, 0.01),
                ("http://a.test/1.png", 119, 2.0),
                ("https://A.test/2.png", 120, 0.01),
                ("http://b.test:8080", 121, 0.01),
            ]
        )
    assert rows(ledger, "latencies") == [(1, FAST, 2), (1, SLOW, 2), (2, FAST, 4)]
    assert rows(ledger, "host_latencies") == [
        ("a.test", FAST, 4),
        ("a.test", SLOW, 2),
        ("b.test:8080", FAST, 2),
    ]


def test_a_host_that_cannot_be_stored_does_not_prevent_the_others(ledger: Ledger) -> None:
    ledger.commit(answered=[("http://a\ud800.test/1.png", 0, 0.01)])
    ((_, step, number),) = rows(ledger, "host_latencies")
    assert (step, number) == (FAST, 1)


def test_a_batch_that_fails_leaves_no_counts(ledger: Ledger) -> None:
    ledger.commit(forms=[FORM])
    with pytest.raises(PipelineError):
        ledger.commit(forms=[FORM], answered=[("http://h/a_0.png", 0, 0.01)])
    assert rows(ledger, "latencies") == rows(ledger, "host_latencies") == []


def test_an_earlier_ledger_is_read_and_gets_the_tables_when_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "raw" / "ledger.sqlite"
    Ledger(path, "x").close()
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("DROP TABLE latencies")
        db.execute("DROP TABLE host_latencies")
    reader = Ledger(path)
    assert reader.is_of_this_version()
    reader.close()
    writer = Ledger(path, "x")
    writer.commit(answered=[("http://h/a_0.png", 0, 0.01)])
    assert rows(writer, "latencies") == [(0, FAST, 1)]
    writer.close()

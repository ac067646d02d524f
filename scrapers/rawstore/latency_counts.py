"""The latencies of a batch of rows → the counts in the ledger's tables `latencies` and `host_latencies`."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from pipeline.core.latencies import step_of
from scrapers.fetch.storable import storable

_ADD_BY_MINUTE = """
INSERT INTO latencies VALUES(?, ?, ?)
ON CONFLICT(minute, step) DO UPDATE SET requests = requests + excluded.requests
"""
_ADD_BY_HOST = """
INSERT INTO host_latencies VALUES(lower(?), ?, ?)
ON CONFLICT(host, step) DO UPDATE SET requests = requests + excluded.requests
"""


class Answered(NamedTuple):
    """The requests for a URL that got a response: their latencies, and the time of its row."""

    url: str
    time: int
    latencies_s: tuple[float, ...]


def add_latencies(db: sqlite3.Connection, answered: Iterable[Answered]) -> None:
    """Add them to the counts, within the transaction of their rows."""
    counts = Counter[tuple[str, int, int]]()
    for url, time, latencies_s in answered:
        end = url.find("/", url.find("://") + 3)
        origin = url if end < 0 else url[:end]
        for latency_s in latencies_s:
            counts[origin, time // 60, step_of(latency_s)] += 1
    by_minute, by_host = Counter[tuple[int, int]](), Counter[tuple[str, int]]()
    for (origin, minute, step), number in counts.items():
        by_minute[minute, step] += number
        by_host[storable(origin.partition("://")[2]), step] += number
    db.executemany(_ADD_BY_MINUTE, ((*key, number) for key, number in by_minute.items()))
    db.executemany(_ADD_BY_HOST, ((*key, number) for key, number in by_host.items()))

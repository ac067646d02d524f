"""The latencies of a batch of rows → the counts in the ledger's tables `latencies` and `host_latencies`."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterable

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


# A request that got a response: the URL, the time of its row, and the latency in seconds.
Answered = tuple[str, int, float]


def add_latencies(db: sqlite3.Connection, answered: Iterable[Answered]) -> None:
    """Add them to the counts, within the transaction of their rows."""
    counts = Counter(
        [(url.split("/", 3)[2], time // 60, step_of(took_s)) for url, time, took_s in answered]
    )
    by_minute, by_host = Counter[tuple[int, int]](), Counter[tuple[str, int]]()
    for (host, minute, step), number in counts.items():
        by_minute[minute, step] += number
        by_host[storable(host), step] += number
    db.executemany(_ADD_BY_MINUTE, ((*key, number) for key, number in by_minute.items()))
    db.executemany(_ADD_BY_HOST, ((*key, number) for key, number in by_host.items()))

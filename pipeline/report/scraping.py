"""The scrape over time, from the ledger: rate, bytes, errors by reason and by host.

The ledger has one time for each URL, that of its last request: an update moves what it asked for again to its
own time. It holds no latency of single requests, so the report has none.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipeline.core.errors import REPAIR, ContractError
from pipeline.report.page import Section, html_table
from pipeline.report.plots import STYLES, line_plot
from pipeline.report.view import View

_HOSTS = 20
_BUCKETS = 80
_DURATIONS_S = (
    1,
    2,
    5,
    10,
    30,
    60,
    120,
    300,
    600,
    1800,
    3600,
    7200,
    21_600,
    86_400,
    604_800,
    2_592_000,
)
_UNITS = ((86_400, "days"), (3600, "hours"), (60, "minutes"), (1, "seconds"))
_REASONS = STYLES - 1
_HOST_OF_URL = "substr(url, instr(url, '://') + 3)"

Series = dict[str, list[tuple[float, float]]]


def scrape_over_time(view: View) -> Iterator[Section]:
    """Plots by time and a table of hosts; nothing for images that were not requested (`scrape folder`)."""
    if not view.workspace.ledger.exists():
        return
    times = _query(
        view.workspace.ledger,
        "SELECT last_time, state, coalesce(reason, ''), count(*), "
        "coalesce(sum(bytes), 0) FROM items "
        "WHERE last_time IS NOT NULL AND substr(url, 1, 4) = 'http' GROUP BY 1, 2, 3",
    )
    if not times:
        return
    times = [(int(datetime.fromisoformat(row[0]).timestamp()), *row[1:]) for row in times]
    first, last = min(row[0] for row in times), max(row[0] for row in times)
    width = next((d for d in _DURATIONS_S if (last - first) / d < _BUCKETS), _DURATIONS_S[-1])
    unit_s, unit = next(
        (size, name) for size, name in _UNITS if last - first >= 2 * size or size == 1
    )
    plots = "".join(
        line_plot(series, x_label=f"{unit} since the first request", y_label=title)
        for title, series in _plots(times, first, last, width, unit_s)
    )
    day = datetime.fromtimestamp(first, UTC).strftime("%Y-%m-%d %H:%M UTC")
    yield Section(
        title="Over time",
        note=f"By the last request for each URL, in steps of {_duration(width)}; the first was at {day}. The "
        "ledger does not record how long a request took.",
        body=f'<div class="plots">{plots}</div>',
    )
    yield from _hosts(view.workspace.ledger)


def requests_made(ledger: Path) -> tuple[Any, ...]:
    """What changes whenever a URL was requested: the number of requests and the last one's time.

    Raises ContractError if the ledger can't be read.
    """
    if not ledger.exists():
        return ()
    return _query(ledger, "SELECT sum(attempts), max(last_time) FROM items")[0]


def _query(ledger: Path, statement: str) -> list[tuple[Any, ...]]:
    try:
        with closing(
            sqlite3.connect(f"{ledger.absolute().as_uri()}?mode=ro", uri=True)
        ) as connection:
            return connection.execute(statement).fetchall()
    except sqlite3.Error as error:
        raise ContractError(f"{ledger} can't be read ({error}). {REPAIR}") from error


def _duration(seconds: int) -> str:
    size, name = next((size, name) for size, name in _UNITS if seconds >= size)
    number = seconds // size
    return f"{number} {name if number > 1 else name[:-1]}"


def _plots(
    times: Sequence[tuple[Any, ...]], first: int, last: int, width: int, unit_s: int
) -> Iterator[tuple[str, Series]]:
    """Titles and series of the plots; a point stands for the bucket that begins at it."""
    starts = range(first, last + 1, width)

    def series(counts: Mapping[int, float], scale: float) -> list[tuple[float, float]]:
        return [
            ((at - first) / unit_s, counts.get(turn, 0) * scale) for turn, at in enumerate(starts)
        ]

    done, other, size = Counter[int](), Counter[int](), Counter[int]()
    reasons: dict[str, Counter[int]] = {}
    for second, state, reason, number, length in times:
        bucket = (second - first) // width
        (done if state == "done" else other)[bucket] += number
        size[bucket] += length
        if state != "done":
            reasons.setdefault(reason or state, Counter())[bucket] += number
    rates = {"images": series(done, 1 / width)}
    if other:
        rates["without an image"] = series(other, 1 / width)
    yield "URLs a second", rates
    yield "MB a second", {"stored": series(size, 1e-6 / width)}
    ranked = sorted(reasons, key=lambda reason: (-reasons[reason].total(), reason))
    drawn = {reason.replace("_", " "): reasons[reason] for reason in ranked[:_REASONS]}
    if len(ranked) > _REASONS:
        drawn["other reasons"] = sum((reasons[r] for r in ranked[_REASONS:]), Counter[int]())
    if drawn:
        yield (
            f"Errors by reason, URLs in {_duration(width)}",
            {name: series(counts, 1) for name, counts in drawn.items()},
        )


def _hosts(ledger: Path) -> Iterator[Section]:
    """The hosts with the most errors, then the largest."""
    rows = _query(
        ledger,
        f"SELECT lower(substr({_HOST_OF_URL}, 1, instr({_HOST_OF_URL} || '/', '/') - 1)) AS host, state, "
        "coalesce(reason, ''), count(*), coalesce(sum(bytes), 0), sum(attempts) FROM items "
        "WHERE attempts > 0 AND substr(url, 1, 4) = 'http' GROUP BY 1, 2, 3",
    )
    hosts: dict[str, dict[str, Any]] = {}
    for host, state, reason, number, size, attempts in rows:
        entry = hosts.setdefault(host, {"done": 0, "errors": Counter(), "bytes": 0, "requests": 0})
        entry["requests"] += attempts
        entry["bytes"] += size
        if state == "done":
            entry["done"] += number
        else:
            entry["errors"][reason or state] += number
    ranked = sorted(hosts, key=lambda h: (-hosts[h]["errors"].total(), -hosts[h]["done"], h))
    columns = ("host", "images", "errors", "requests", "MB", "reasons")
    table = [
        (
            host, entry["done"], entry["errors"].total(), entry["requests"], f"{entry['bytes'] / 1e6:,.1f}",
            ", ".join(f"{reason.replace('_', ' ')} {n:,}" for reason, n in entry["errors"].most_common(3)),
        )
        for host in ranked[:_HOSTS]
        for entry in (hosts[host],)
    ]  # fmt: skip
    if table:
        more = f" The first {_HOSTS} of {len(hosts):,}." if len(hosts) > _HOSTS else ""
        yield Section(
            title="Hosts",
            note=f"Those with the most errors first.{more}",
            body=html_table(columns, table),
        )

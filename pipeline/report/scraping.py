"""The scrape over time, from the ledger: rate, bytes, errors by reason, latency, and hosts.

The ledger has one time for each URL, that of its last request: an update moves what it asked for again to its
own time. Latencies are counts by minute and by host, of all requests that got a response; earlier ledgers
have none.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipeline.core.errors import REPAIR, ContractError
from pipeline.core.latencies import quantile_ms
from pipeline.report.page import Section, html_table
from pipeline.report.plots import STYLES, line_plot
from pipeline.report.view import View

_HOSTS = 20
_SLOWEST = 10
# Quantiles of fewer say little about a host.
_FEW_RESPONSES = 20
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
_QUANTILES = {"median": 0.5, "95th percentile": 0.95}
_HOST_OF_URL = "substr(url, instr(url, '://') + 3)"

Series = dict[str, list[tuple[float, float]]]


@dataclass(kw_only=True)
class _Host:
    """What a host answered: URLs with an image, others by reason, requests, and bytes of images."""

    images: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    requests: int = 0
    bytes: int = 0


def scrape_over_time(view: View) -> Iterator[Section]:
    """Plots by time and a table of hosts; nothing for images that were not requested (`scrape folder`)."""
    if not view.workspace.ledger.exists():
        return
    ahead = view.loaded.get(view.workspace.ledger)
    times, hosts = read_requests(view.workspace.ledger) if ahead is None else ahead.result()
    if not times:
        return
    first, last = min(row[0] for row in times), max(row[0] for row in times)
    width, unit_s, unit = _scale(last - first)
    plots = "".join(
        line_plot(series, x_label=f"{unit} since the first request", y_label=title)
        for title, series in _plots(times, first, last, width, unit_s)
    )
    yield Section(
        title="Over time",
        note=f"By the last request for each URL, in steps of {_duration(width)}; the first was at "
        f"{_moment(first)}.",
        body=f'<div class="plots">{plots}</div>',
    )
    yield from _latencies(view.workspace.ledger)
    if hosts:
        yield _host_table(hosts)


def requests_made(ledger: Path) -> tuple[Any, ...]:
    """What changes whenever a URL was requested: the number of requests and the last one's time.

    Raises ContractError if the ledger can't be read.
    """
    if not ledger.exists():
        return ()
    return next(_query(ledger, "SELECT sum(attempts), max(last_time) FROM items"))


def read_requests(ledger: Path) -> tuple[list[tuple[Any, ...]], dict[str, _Host]]:
    """(second of the last request, state, reason, URLs, bytes) of all URLs; and what each host answered.

    It takes seconds for a million URLs, so it may run in another thread, which puts its future into `loaded`
    of the view.
    """
    rows = _query(
        ledger,
        f"SELECT last_time, lower(substr({_HOST_OF_URL}, 1, instr({_HOST_OF_URL} || '/', '/') - 1)), state, "
        "coalesce(reason, ''), count(*), coalesce(sum(bytes), 0), sum(attempts) FROM items "
        "WHERE last_time IS NOT NULL AND substr(url, 1, 4) = 'http' GROUP BY 1, 2, 3, 4, attempts > 0",
    )
    times: dict[tuple[str, str, str], list[int]] = {}
    hosts: dict[str, _Host] = {}
    for time, name, state, reason, number, size, attempts in rows:
        sums = times.setdefault((time, state, reason), [0, 0])
        sums[0] += number
        sums[1] += size
        if not attempts:
            continue  # robots.txt forbids it, for example
        host = hosts.setdefault(name, _Host())
        host.requests += attempts
        host.bytes += size
        if state == "done":
            host.images += number
        else:
            host.errors[reason or state] += number
    return [
        (int(datetime.fromisoformat(time).timestamp()), state, reason, *sums)
        for (time, state, reason), sums in times.items()
    ], hosts


def _query(ledger: Path, statement: str) -> Iterator[tuple[Any, ...]]:
    try:
        with closing(
            sqlite3.connect(f"{ledger.absolute().as_uri()}?mode=ro", uri=True)
        ) as connection:
            yield from connection.execute(statement)
    except sqlite3.Error as error:
        raise ContractError(f"{ledger} can't be read ({error}). {REPAIR}") from error


def _scale(span: int) -> tuple[int, int, str]:
    """The width of a step, and a unit with its name, for a time axis; all in seconds."""
    width = next((d for d in _DURATIONS_S if span / d < _BUCKETS), _DURATIONS_S[-1])
    return width, *next((size, name) for size, name in _UNITS if span >= 2 * size or size == 1)


def _moment(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%d %H:%M UTC")


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


def _latencies(ledger: Path) -> Iterator[Section]:
    """The median and the 95th percentile, over all requests and over time; nothing for earlier ledgers."""
    rows = _read_latencies(ledger, "SELECT minute * 60, step, requests FROM latencies")
    if not rows:
        return
    first, last = min(row[0] for row in rows), max(row[0] for row in rows)
    width, unit_s, unit = _scale(last - first)
    width = max(60, width)
    total = Counter[int]()
    turns: dict[int, Counter[int]] = {}
    for second, step, number in rows:
        total[step] += number
        turns.setdefault((second - first) // width, Counter())[step] += number
    curves: Series = {
        name: [(turn * width / unit_s, quantile_ms(turns[turn], share)) for turn in sorted(turns)]
        for name, share in _QUANTILES.items()
    }
    x_label = f"{unit} since {_moment(first)}"
    plot = line_plot(curves, x_label=x_label, y_label="Latency in milliseconds")
    median, high = _quantiles(total)
    requests = "request" if total.total() == 1 else "requests"
    yield Section(
        title="Latency",
        note=f"{total.total():,} {requests} got a response: median {median} ms, 95th percentile {high} ms. A "
        "latency is the time from sending a request until the head of its response has arrived; redirects "
        "are included, connecting and waiting for a host's pace are not. Plotted at the time when the URL "
        f"was recorded, in steps of {_duration(width)}. Values are accurate to 20 %: the ledger counts in "
        "steps of √2.",
        body=f'<div class="plots">{plot if len(turns) > 1 else ""}{_slowest_hosts(ledger)}</div>',
    )


def _slowest_hosts(ledger: Path) -> str:
    hosts: dict[str, Counter[int]] = {}
    for host, step, number in _read_latencies(
        ledger,
        "SELECT * FROM host_latencies WHERE host IN "
        f"(SELECT host FROM host_latencies GROUP BY host HAVING sum(requests) >= {_FEW_RESPONSES})",
    ):
        hosts.setdefault(host, Counter())[step] += number
    slowest = sorted(
        hosts,
        key=lambda h: (*(-quantile_ms(hosts[h], share) for share in _QUANTILES.values()), h),
    )
    if not slowest:
        return ""
    more = f": {_SLOWEST} of {len(slowest):,}" if len(slowest) > _SLOWEST else ""
    return html_table(
        ("host", "responses", "median ms", "95th percentile ms"),
        [(host, hosts[host].total(), *_quantiles(hosts[host])) for host in slowest[:_SLOWEST]],
        about=f"Hosts with {_FEW_RESPONSES} responses or more, the slowest first{more}",
    )


def _read_latencies(ledger: Path, statement: str) -> list[tuple[Any, ...]]:
    """The rows of a query of latencies; none from a ledger without such tables."""
    found = next(_query(ledger, "SELECT 1 FROM sqlite_master WHERE name = 'host_latencies'"), None)
    return list(_query(ledger, statement)) if found else []


def _quantiles(counts: Mapping[int, int]) -> tuple[str, ...]:
    """The median and the 95th percentile in milliseconds, with three digits."""
    return tuple(f"{float(f'{quantile_ms(counts, q):.3g}'):,.15g}" for q in _QUANTILES.values())


def _host_table(hosts: Mapping[str, _Host]) -> Section:
    """The hosts with the most errors, then the largest."""
    ranked = sorted(hosts, key=lambda h: (-hosts[h].errors.total(), -hosts[h].images, h))
    columns = ("host", "images", "errors", "requests", "MB", "reasons")
    table = [
        (
            name, host.images, host.errors.total(), host.requests, f"{host.bytes / 1e6:,.1f}",
            ", ".join(f"{reason.replace('_', ' ')} {n:,}" for reason, n in host.errors.most_common(3)),
        )
        for name in ranked[:_HOSTS]
        for host in (hosts[name],)
    ]  # fmt: skip
    more = f" The first {_HOSTS} of {len(hosts):,}." if len(hosts) > _HOSTS else ""
    return Section(
        title="Hosts",
        note=f"Those with the most errors first.{more}",
        body=html_table(columns, table),
    )

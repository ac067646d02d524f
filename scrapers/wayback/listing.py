"""List everything in a folder of an index, page by page, and check that nothing was left out.

A listing may be cut silently: at a limit of the server, or between rows that share URL and time, of which a
resume key names the first. So the rows around each key are queried once more, and the last row of all is
queried separately: if the listing ends before it, it is queried again in shorter spans of time.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from pipeline.core.errors import SourceError
from scrapers.wayback.captures import name_of
from scrapers.wayback.query import (
    ALL_TIME,
    ROWS_PER_PAGE,
    Endpoints,
    IndexPage,
    IndexRow,
    Span,
    index_query,
    last_row_query,
)

# Queries the index at a URL; `once` for optional queries. Raises SourceError.
AskIndex = Callable[..., Awaitable[IndexPage]]

# No capture on the web is older.
_FIRST = datetime(1991, 8, 6, tzinfo=UTC)
_FORMAT = "%Y%m%d%H%M%S"
# How often a listing is halved; a server that keeps cutting is not queried forever.
_MAX_HALVED = 500


@dataclass(frozen=True, kw_only=True)
class Cursor:
    """The progress of a listing: `spans` are still to be read, the first one from `key` on.

    `last` is the row before that key; `halved` counts how often a span was halved.
    """

    spans: tuple[Span, ...] = (ALL_TIME,)
    key: str | None = None
    last: str = ""
    halved: int = 0

    def dump(self) -> str:
        """As text."""
        return json.dumps(vars(self))

    @classmethod
    def load(cls, text: str) -> Cursor:
        """From the text that `dump` made."""
        fields: dict[str, Any] = json.loads(text)
        spans = tuple(Span(*span) for span in fields["spans"])
        return cls(**{**fields, "spans": spans})


@dataclass(frozen=True, kw_only=True)
class Step:
    """Rows of a listing, where it continues (None at its end), and what is uncertain about it."""

    rows: list[IndexRow]
    cursor: Cursor | None
    doubt: str | None = None


@dataclass(frozen=True, kw_only=True)
class Listing:
    """The listing of everything that begins with `prefix`.

    `lacks` tells whether a row is missing from what was stored; rows that are never stored are.
    """

    at: Endpoints
    prefix: str
    ask: AskIndex
    lacks: Callable[[IndexRow], bool]

    async def read(self, cursor: Cursor) -> Step:
        """Read the page at `cursor`. Raises SourceError."""
        span = cursor.spans[0]
        query = index_query(self.at, self.prefix, prefix=True, span=span, resume_key=cursor.key)
        page = await self.ask(query)
        last = _mark(page.rows[-1]) if page.rows else cursor.last
        if page.resume_key is not None:
            rows = page.rows + await self._border(page.rows)
            return Step(rows=rows, cursor=replace(cursor, key=page.resume_key, last=last))
        doubt = await self._find_cut(span, page, last)
        if doubt is None:
            return Step(rows=page.rows, cursor=_go_on(cursor, cursor.spans[1:]))
        halves = _halves(span, page.rows)
        if halves and doubt != _UNCHECKED and cursor.halved < _MAX_HALVED:
            further = _go_on(cursor, (*halves, *cursor.spans[1:]), halved=1)
            return Step(rows=page.rows, cursor=further)
        return Step(rows=page.rows, cursor=_go_on(cursor, cursor.spans[1:]), doubt=doubt)

    async def _border(self, rows: list[IndexRow]) -> list[IndexRow]:
        """The rows that share URL and time with the last one: the key may skip them."""
        if not rows:
            return []
        span = Span(rows[-1].timestamp, rows[-1].timestamp)
        page = await self.ask(index_query(self.at, rows[-1].original, prefix=False, span=span))
        return page.rows

    async def _find_cut(self, span: Span, page: IndexPage, last: str) -> str | None:
        """Evidence that a listing ends early; None if it is complete."""
        if self.at.dialect == "pywb" and len(page.rows) >= ROWS_PER_PAGE["pywb"]:
            return _CUT
        try:
            tail = await self.ask(last_row_query(self.at, self.prefix, span), once=True)
        except SourceError:
            return _UNCHECKED
        # In reverse, pywb lists the last one first, and perhaps more.
        rows = tail.rows[:1] if self.at.dialect == "pywb" else tail.rows[-1:]
        cut = [row for row in rows if _mark(row) > last and row not in page.rows]
        return _CUT if any(map(self.lacks, cut)) else None


_CUT = "the index ends its list early"
_UNCHECKED = "the index doesn't say whether its list is complete"


def _go_on(cursor: Cursor, spans: tuple[Span, ...], *, halved: int = 0) -> Cursor | None:
    return Cursor(spans=spans, halved=cursor.halved + halved) if spans else None


def _mark(row: IndexRow) -> str:
    """The identity of a row in two responses."""
    return f"{name_of(row.original).lower()} {row.timestamp}"


def _halves(span: Span, rows: list[IndexRow]) -> tuple[Span, ...]:
    """A span in two, at about half of the rows; nothing for a second, which has no halves."""
    end = _time(span.end) if span.end else datetime.now(UTC) + timedelta(days=1)
    start = _time(span.start) if span.start else _FIRST
    if end <= start:
        return ()
    times = sorted(row.timestamp for row in rows)
    middle = _time(times[len(times) // 2]) if times else start + (end - start) / 2
    middle = max(start, min(middle, end - timedelta(seconds=1)))
    after = middle + timedelta(seconds=1)
    return Span(span.start, middle.strftime(_FORMAT)), Span(after.strftime(_FORMAT), span.end)


def _time(timestamp: str) -> datetime:
    return datetime.strptime(timestamp, _FORMAT).replace(tzinfo=UTC)

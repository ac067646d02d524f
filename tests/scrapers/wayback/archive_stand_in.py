"""A web archive with its two endpoints, index and replay, for a `Server` of `tests.helpers.crawls`."""

from __future__ import annotations

import base64
import calendar
import hashlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from email.utils import formatdate
from functools import cached_property
from urllib.parse import parse_qs, quote_plus, unquote, urlsplit

from tests.helpers.crawls import Ask, answer

FIELDS = ("urlkey", "timestamp", "original", "mimetype", "statuscode", "digest")
Trouble = Callable[[Ask], bytes | None]


def digest_of(body: bytes) -> str:
    return base64.b32encode(hashlib.sha1(body).digest()).decode()


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """A capture: what a crawler got for a URL at a time."""

    timestamp: str
    original: str
    body: bytes
    mimetype: str = "image/png"
    statuscode: str = "200"
    digest: str = ""
    headers: tuple[tuple[str, str], ...] = ()

    @cached_property
    def urlkey(self) -> str:
        """The key as archives make it: host backwards, all in lower case, no escapes."""
        parts = urlsplit(self.original.lower())
        host = ",".join(reversed((parts.hostname or "").split(".")))
        return f"{host}){unquote(parts.path)}"

    @cached_property
    def row(self) -> dict[str, str]:
        digest = self.digest or digest_of(self.body)
        values = (self.urlkey, self.timestamp, self.original, self.mimetype, self.statuscode)
        return dict(zip(FIELDS, (*values, digest), strict=True))


@dataclass
class ArchiveStandIn:
    """Behaves as a `Server`: answers from `captures`, unless `trouble` has another answer.

    `lost` are timestamps that the index names and the replay has no bytes of. `checks` are questions that
    list nothing: the probe, the last row, the rows around a resume key. `scan_limit`: the index looks at so
    many rows and ends; `skips`: a resume key leads past all rows of its URL and time. `says_memento`: replays
    come with their time.
    """

    captures: list[Recorded] = field(default_factory=list)
    rows_per_page: int = 150_000
    trouble: Trouble = lambda ask: None
    lost: set[str] = field(default_factory=set)
    scan_limit: int = 10**9
    skips: bool = False
    says_memento: bool = True
    checks: list[dict[str, str]] = field(default_factory=list)
    index_asks: list[dict[str, str]] = field(default_factory=list)
    replay_asks: list[str] = field(default_factory=list)

    def record(self, timestamp: str, original: str, body: bytes, **more: str) -> None:
        self.captures.append(
            Recorded(timestamp=timestamp, original=original, body=body, **more)  # type: ignore[arg-type]
        )

    async def __call__(self, ask: Ask) -> bytes | None:
        parts = urlsplit(ask.path)
        is_index = parts.path == "/cdx/search/cdx"
        if is_index:
            values = parse_qs(parts.query, keep_blank_values=True)
            query = {name: found[0] for name, found in values.items()}
            is_check = query["limit"] in ("1", "-1") or (
                "from" in query and query["from"] == query.get("to")
            )
            (self.checks if is_check else self.index_asks).append(query)
        elif parts.path.startswith("/web/"):
            self.replay_asks.append(ask.path)
        troubled = self.trouble(ask)
        if troubled is not None:
            return troubled
        return self.index(query) if is_index else self.replay(ask.path)

    # --- Index ------------------------------------------------------------------------------------

    def index(self, query: dict[str, str]) -> bytes:
        rows = list(self._rows(query))
        first = 0
        if query["limit"] == "-1":
            query, rows = {**query, "limit": "1"}, rows[-1:]
        else:
            rows = rows[: self.scan_limit]
        if "resumeKey" in query:
            keys = [_resume_key(row) for row in rows]
            if query["resumeKey"] not in keys:
                return answer(b"no such resume key", 400)
            first = keys.index(query["resumeKey"]) + 1
            border = rows[first - 1]["urlkey"], rows[first - 1]["timestamp"]
            while self.skips and first < len(rows):
                if (rows[first]["urlkey"], rows[first]["timestamp"]) != border:
                    break
                first += 1
        size = min(int(query["limit"]), self.rows_per_page)
        page = rows[first : first + size]
        names = query.get("fl", ",".join(FIELDS)).split(",")
        table = [[row[name] for name in names] for row in page]
        if table:
            table.insert(0, names)
        if first + size < len(rows) and "showResumeKey" in query:
            table += [[], [quote_plus(_resume_key(page[-1]))]]
        return answer(json.dumps(table).encode(), Content_Type="application/json")

    def _rows(self, query: dict[str, str]) -> Iterator[dict[str, str]]:
        wanted = Recorded(timestamp="", original=query["url"], body=b"").urlkey
        for row in sorted((c.row for c in self.captures), key=lambda r: tuple(r.values())):
            whole = query.get("matchType", "exact") == "exact"
            if not (row["urlkey"] == wanted if whole else row["urlkey"].startswith(wanted)):
                continue
            if not query.get("from", "") <= row["timestamp"] <= query.get("to", "9"):
                continue
            yield row

    # --- Replay -----------------------------------------------------------------------------------

    def replay(self, path: str) -> bytes:
        if not path.startswith("/web/"):
            return answer(b"<html>Not Found</html>", 404)
        _, _, timestamp, original = path.split("/", 3)
        assert timestamp.endswith("id_"), "asked for rewritten bytes"
        timestamp = timestamp.removesuffix("id_")
        key = Recorded(timestamp="", original=original, body=b"").urlkey
        found = [c for c in self.captures if c.urlkey == key and c.timestamp not in self.lost]
        if not found:
            return answer(b"never archived", 404)
        nearest = min(found, key=lambda c: abs(int(c.timestamp) - int(timestamp)))
        if nearest.timestamp != timestamp:
            return answer(b"", 302, Location=f"/web/{nearest.timestamp}id_/{nearest.original}")
        headers = dict(nearest.headers)
        if self.says_memento:
            when = calendar.timegm(time.strptime(nearest.timestamp, "%Y%m%d%H%M%S"))
            headers["Memento_Datetime"] = formatdate(when, usegmt=True)
        return answer(nearest.body, int(nearest.statuscode), None, **headers)


def _resume_key(row: dict[str, str]) -> str:
    return f"{row['urlkey']} {row['timestamp']}!{row['digest']}"

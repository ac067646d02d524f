"""A web archive with its two endpoints, index and replay, for a `Server` of conftest."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from urllib.parse import parse_qs, quote_plus, unquote, urlsplit

from tests.scrapers.conftest import Ask, answer

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

    `lost` are timestamps that the index names and the replay has no bytes of.
    """

    captures: list[Recorded] = field(default_factory=list)
    rows_per_page: int = 150_000
    trouble: Trouble = lambda ask: None
    lost: set[str] = field(default_factory=set)
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
            self.index_asks.append({name: found[0] for name, found in values.items()})
        else:
            self.replay_asks.append(ask.path)
        troubled = self.trouble(ask)
        if troubled is not None:
            return troubled
        return self.index(self.index_asks[-1]) if is_index else self.replay(ask.path)

    # --- Index ------------------------------------------------------------------------------------

    def index(self, query: dict[str, str]) -> bytes:
        rows = list(self._rows(query))
        first = 0
        if "resumeKey" in query:
            keys = [_resume_key(row) for row in rows]
            if query["resumeKey"] not in keys:
                return answer(b"no such resume key", 400)
            first = keys.index(query["resumeKey"]) + 1
        size = min(int(query["limit"]), self.rows_per_page)
        page = rows[first : first + size]
        names = query["fl"].split(",")
        table = [[row[name] for name in names] for row in page]
        if table:
            table.insert(0, names)
        if first + size < len(rows):
            table += [[], [quote_plus(_resume_key(page[-1]))]]
        return answer(json.dumps(table).encode(), Content_Type="application/json")

    def _rows(self, query: dict[str, str]) -> Iterator[dict[str, str]]:
        wanted = Recorded(timestamp="", original=query["url"], body=b"").urlkey
        _, _, digits = query.get("collapse", "").partition("timestamp:")
        before = None
        for row in sorted((c.row for c in self.captures), key=lambda r: tuple(r.values())):
            whole = query["matchType"] == "exact"
            if not (row["urlkey"] == wanted if whole else row["urlkey"].startswith(wanted)):
                continue
            if query.get("filter") == "statuscode:200" and row["statuscode"] != "200":
                continue
            if digits:
                same = (row["urlkey"], row["timestamp"][: int(digits)])
                if same == before:
                    continue
                before = same
            yield row

    # --- Replay -----------------------------------------------------------------------------------

    def replay(self, path: str) -> bytes:
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
        return answer(nearest.body, int(nearest.statuscode), None, **dict(nearest.headers))


def _resume_key(row: dict[str, str]) -> str:
    return f"{row['urlkey']} {row['timestamp']}!{row['digest']}"

"""The index of a web archive: endpoints, queries and responses, in two dialects. Pure.

cdx-server  the Internet Archive's, and others that run its software: a table in JSON, with a resume key for
            the rest (github.com/internetarchive/wayback, wayback-cdx-server/README.md)
pywb        one JSON object per line, other field names, no resume key (pywb's "CDXJ Server API")

Queries are not filtered: a filtered query may end early, at the number of rows that a server is willing to
look at.
"""

from __future__ import annotations

import json
import re
from typing import Any, Literal, NamedTuple
from urllib.parse import quote, quote_plus

Dialect = Literal["cdx-server", "pywb"]

# pywb has no resume key: the rest is queried by time.
ROWS_PER_PAGE: dict[Dialect, int] = {"cdx-server": 10_000, "pywb": 50_000}

# `urlkey` must be among them, or the resume key leads elsewhere (issue 121 of the CDX server).
_FIELDS: dict[Dialect, str] = {
    "cdx-server": "urlkey,timestamp,original,mimetype,statuscode,digest",
    "pywb": "urlkey,timestamp,url,mime,status,digest",
}
_PYWB_NAMES: dict[str, str] = {"url": "original", "mime": "mimetype", "status": "statuscode"}
_COLUMNS = _FIELDS["cdx-server"].split(",")
# A line of plain text: key, time and more.
_TEXT = re.compile(rb"\s*[^\s{\[]\S* \d{14} ")
_TIMESTAMP = re.compile(r"\d{14}")
_ENCODED = re.compile(r"[A-Za-z0-9.*_+%-]+")
# Content types of an index, as opposed to a page.
_INDEX_TYPES = (
    "application/json",
    "text/x-ndjson",
    "application/x-ndjson",
    "text/x-cdxj",
    "text/plain",
)


class Endpoints(NamedTuple):
    """Endpoints of an archive: `index_url` is the part before the `?`, `replay_url` before the time."""

    index_url: str
    replay_url: str
    dialect: Dialect


class Span(NamedTuple):
    """A span of time, both ends included, 14 digits each; empty for no end."""

    start: str = ""
    end: str = ""


ALL_TIME = Span()


class IndexRow(NamedTuple):
    """A row of the index. `digest` is the base32 of the body's SHA-1, None if it is not known.

    `statuscode` is `-` for a revisit: a capture whose bytes are recorded elsewhere.
    """

    timestamp: str
    original: str
    mimetype: str
    digest: str | None
    statuscode: str = "200"

    @property
    def is_good(self) -> bool:
        """Whether something with status 200 was recorded, as far as is known."""
        return self.statuscode in ("200", "-", "")


class IndexPage(NamedTuple):
    """A page of the index; `resume_key` requests the next one, None at the end."""

    rows: list[IndexRow]
    resume_key: str | None


# --- Endpoints ------------------------------------------------------------------------------------

# Index and replay, relative to an archive's URL: the Internet Archive's; a pywb collection's; one of
# Archive-It's; collections of older versions of pywb.
_LAYOUTS = (
    ("/cdx/search/cdx", "/web/"),
    ("/cdx", "/"),
    ("/timemap/cdx", "/"),
    ("-cdx", "/"),
    ("-index", "/"),
)
_KNOWN = {"https://web.archive.org", "http://web.archive.org"}


def known_endpoints(base: str) -> Endpoints | None:
    """The endpoints of an archive that need not be looked for."""
    index, replay = _LAYOUTS[0]
    return Endpoints(base + index, base + replay, "cdx-server") if base in _KNOWN else None


def places_to_look(base: str) -> list[tuple[str, str]]:
    """Where index and replay may be, the most likely first."""
    has_path = "/" in base.partition("://")[2]
    return [
        (base + index, base + replay) for index, replay in _LAYOUTS if has_path or index[0] == "/"
    ]


def probe_query(index: str, url: str) -> str:
    """A query that every index understands."""
    return f"{index}?url={quote(url, safe='')}&matchType=prefix&output=json&limit=1"


def dialect_of(body: bytes, content_type: str | None) -> Dialect:
    """The dialect of a response to the probe. Raises ValueError with a sentence if it is not an index's."""
    text = body.strip()
    if not text and (content_type or "").partition(";")[0].strip().lower() in _INDEX_TYPES:
        return "pywb"
    is_pywb = text.startswith(b"{") or re.match(rb"\S+ \d{14} \{", text) is not None
    dialect: Dialect = "pywb" if is_pywb else "cdx-server"
    parse_index(body, dialect)
    return dialect


# --- Queries --------------------------------------------------------------------------------------


def index_prefix(url_template: str) -> str:
    """The folder whose index is queried for a caption: the section's, under `samples/`."""
    head, mark, rest = url_template.partition("/samples/")
    section, slash, _ = rest.partition("/")
    return f"{head}{mark}{section}/" if slash else url_template.rpartition("/")[0] + "/"


def index_query(
    at: Endpoints,
    url: str,
    *,
    prefix: bool,
    span: Span = ALL_TIME,
    resume_key: str | None = None,
) -> str:
    """The URL of a page of the index: captures of `url`, or of everything that begins with it."""
    query = _common(at, url, prefix=prefix, span=span)
    query["limit"] = str(ROWS_PER_PAGE[at.dialect])
    if at.dialect == "cdx-server":
        query |= {"resolveRevisits": "true", "showResumeKey": "true"}
    if resume_key is not None:
        # It is percent-encoded already.
        query["resumeKey"] = (
            resume_key if _ENCODED.fullmatch(resume_key) else quote_plus(resume_key)
        )
    return _address(at, query)


def last_row_query(at: Endpoints, url: str, span: Span = ALL_TIME) -> str:
    """The URL of the last row of everything that begins with `url`."""
    query = _common(at, url, prefix=True, span=span)
    if at.dialect == "pywb":
        return _address(at, query | {"limit": "1", "sort": "reverse"})
    return _address(at, query | {"limit": "-1"})


def _common(at: Endpoints, url: str, *, prefix: bool, span: Span) -> dict[str, str]:
    query = {
        "url": quote(url, safe=""),
        "matchType": "prefix" if prefix else "exact",
        "output": "json",
        "fl": _FIELDS[at.dialect],
    }
    query |= {"gzip": "false"} if at.dialect == "cdx-server" else {"allowFuzzy": "false"}
    query |= {"from": span.start} if span.start else {}
    return query | ({"to": span.end} if span.end else {})


def _address(at: Endpoints, query: dict[str, str]) -> str:
    return f"{at.index_url}?" + "&".join(f"{name}={value}" for name, value in query.items())


# --- Responses ------------------------------------------------------------------------------------


def parse_index(body: bytes, dialect: Dialect) -> IndexPage:
    """Parse a page of the index. Raises ValueError with a sentence for anything else."""
    if _TEXT.match(body):
        return _parse_text(body)
    return _parse_lines(body) if dialect == "pywb" else _parse_table(body)


def _parse_text(body: bytes) -> IndexPage:
    """Parse lines of an index that always returns text: CDX, or CDXJ of pywb.

    After an empty line comes the resume key.
    """
    lines, _, rest = body.decode("utf-8", "replace").strip().partition("\n\n")
    rows = []
    for line in lines.splitlines():
        _, timestamp, fields = [*line.split(" ", 2), "", ""][:3]
        if fields.startswith("{"):
            rows += _parse_lines(
                b'{"timestamp": "%b", %b' % (timestamp.encode(), fields[1:].encode())
            ).rows
        else:
            rows.append(_index_row(dict(zip(_COLUMNS, line.split(" "), strict=False))))
    return IndexPage(rows, rest.strip() or None)


def _parse_lines(body: bytes) -> IndexPage:
    rows = []
    for line in body.splitlines():
        if not line.strip():
            continue
        fields: Any = _json(line)
        if not isinstance(fields, dict):
            raise ValueError("JSON, but not one capture per line")
        named = {_PYWB_NAMES.get(name) or name: str(value) for name, value in fields.items()}
        rows.append(_index_row({"statuscode": "-", **named}))
    return IndexPage(rows, None)


def _parse_table(body: bytes) -> IndexPage:
    table = _json(body)
    if not isinstance(table, list) or not all(_is_row(row) for row in table):
        raise ValueError("JSON, but no table of captures")
    resume_key = None
    if len(table) >= 2 and table[-2] == [] and len(table[-1]) == 1:
        resume_key = table[-1][0]
        table = table[:-2]
    if not table:
        return IndexPage([], resume_key)
    header, *rows = table
    if not {"timestamp", "original"} <= set(header):
        raise ValueError(f"a table with the columns {', '.join(header)[:100]}")
    return IndexPage([_index_row(dict(zip(header, row, strict=False))) for row in rows], resume_key)


def _json(text: bytes) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        start = text[:40].decode("utf-8", "replace").strip()
        raise ValueError(f"{len(text):,} bytes that are not JSON and begin {start!r}") from error


def _is_row(row: object) -> bool:
    return isinstance(row, list) and all(isinstance(field, str) for field in row)


def _index_row(fields: dict[str, str]) -> IndexRow:
    if not _TIMESTAMP.fullmatch(fields.get("timestamp", "")) or "original" not in fields:
        raise ValueError(f"a row that is no capture: {str(fields)[:100]}")
    digest = fields.get("digest", "").removeprefix("sha1:")
    known = len(digest) == 32 and digest.isalnum()
    return IndexRow(
        fields["timestamp"],
        fields["original"],
        fields.get("mimetype", ""),
        digest if known else None,
        fields.get("statuscode", "200"),
    )

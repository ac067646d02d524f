"""The head of a response: status, header fields, and the framing of its body (RFC 9112). Pure.

Tolerant where servers err and it doesn't matter (raw bytes, blanks, folded lines, two equal lengths), strict
where the end of a body would be unknown. The only limit is the length of the whole head; neither the length
of a line nor the number of fields has one of its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

MAX_HEAD_BYTES = 64 * 1024
_BODILESS = frozenset({204, 304})
# More digits than any length has; Python refuses to parse thousands of them.
_MAX_DIGITS = 15
_BLANKS = (" ", "\t")
_FOLD = re.compile(rb"\n[ \t]")


class BadHead(Exception):  # noqa: N818  (what was found, not what went wrong with us)
    """Not an HTTP/1 head; the text says why."""


class Headers:
    """Header fields by name, in any case; raw bytes that are not UTF-8 become surrogates."""

    __slots__ = ("_first", "_others")

    def __init__(self, first: dict[str, str], others: list[tuple[str, str]]) -> None:
        """Names are in lower case; `others` are repeated fields."""
        self._first = first
        self._others = others

    def get(self, name: str) -> str | None:
        """The first value, None if there is none."""
        return self._first.get(name.lower())

    def getall(self, name: str, default: Sequence[str] = ()) -> Sequence[str]:
        """All values, in order; `default` if there is none."""
        name = name.lower()
        if (first := self._first.get(name)) is None:
            return default
        if not self._others:
            return [first]
        return [first, *(value for found, value in self._others if found == name)]

    def names(self) -> Iterable[str]:
        """All names, in lower case."""
        return self._first

    def has_any(self, names: frozenset[str]) -> bool:
        """Whether one of `names`, which are in lower case, is present."""
        return not names.isdisjoint(self._first)

    def __contains__(self, name: str) -> bool:
        return name.lower() in self._first


class Head(NamedTuple):
    """`length` is None if the body ends with its last chunk, or with the connection.

    `codings` are transfer codings (RFC 9112, 6.1) other than `chunked`.
    """

    status: int
    headers: Headers
    length: int | None
    chunked: bool
    keep_alive: bool
    codings: tuple[str, ...] = ()


def end_of_head(data: bytes | bytearray, start: int = 0) -> int:
    """Where the body begins, -1 if the head is incomplete; lines may end in LF alone."""
    end = data.find(b"\n\r\n", start)
    bare = data.find(b"\n\n", start, end if end >= 0 else len(data))
    if bare >= 0:
        return bare + 2
    return end + 3 if end >= 0 else -1


def parse_head(data: bytes) -> Head:
    """Parse a head, including its empty line. Raises BadHead."""
    text = data.decode("utf-8", "surrogateescape")
    lines = text.split("\n")
    version, status = _status_line(lines[0])
    fields = _unfolded(lines) if _FOLD.search(data) else lines[1:]
    return _framed(status, version, _read_fields(fields))


def _read_fields(lines: list[str]) -> Headers:
    first: dict[str, str] = {}
    others = []
    for line in lines:
        raw_name, colon, value = line.partition(":")
        if not colon:
            continue
        name = raw_name.strip().lower()
        if name in first:
            others.append((name, value.strip()))
        else:
            first[name] = value.strip()
    return Headers(first, others)


def _unfolded(lines: list[str]) -> list[str]:
    """The fields; a line that begins with a blank continues the previous one (RFC 9112, 5.2)."""
    whole: list[str] = []
    for line in lines[1:]:
        if line[:1] in _BLANKS and line.strip() and whole:
            whole[-1] = f"{whole[-1].rstrip()} {line.strip()}"
        else:
            whole.append(line)
    return whole


def _status_line(line: str) -> tuple[str, int]:
    version, _, rest = line.strip().partition(" ")
    status = rest.lstrip()[:3]
    if not version.startswith("HTTP/1.") or not (len(status) == 3 and status.isdecimal()):
        raise BadHead(f"not an HTTP/1 status line: {line[:60]!r}")
    return version, int(status)


def _framed(status: int, version: str, headers: Headers) -> Head:
    connection = headers.get("connection")
    words = connection.lower() if connection else ""
    keep = "close" not in words and (version != "HTTP/1.0" or "keep-alive" in words)
    if status < 200 or status in _BODILESS:
        return Head(status, headers, 0, False, keep)
    if headers.get("transfer-encoding") is None:
        return Head(status, headers, _length(headers), False, keep)
    codings = _codings(headers)
    chunked = codings[-1:] == ["chunked"]
    # A length in addition may mean another end: what follows is not trusted.
    keep = keep and "content-length" not in headers
    return Head(status, headers, None, chunked, keep, tuple(codings[: -1 if chunked else None]))


def _codings(headers: Headers) -> list[str]:
    listed = ",".join(headers.getall("transfer-encoding")).lower().split(",")
    return [word for part in listed if (word := part.strip()) not in ("", "identity")]


def _length(headers: Headers) -> int | None:
    """The length that all fields agree on, None without any. Raises BadHead if there are several, or none."""
    digits = headers.get("content-length")
    if digits is None:
        return None
    found = headers.getall("content-length")
    if len(found) > 1 or "," in digits:
        values = {part.strip() for value in found for part in value.split(",")}
        digits = values.pop() if len(values) == 1 else ""
    if not (digits.isascii() and digits.isdigit() and len(digits) <= _MAX_DIGITS):
        raise BadHead(f"no single length of the body: Content-Length {', '.join(found)[:60]!r}")
    return int(digits)

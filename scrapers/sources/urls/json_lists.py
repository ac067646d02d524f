"""JSON and JSONL lists as batches, never read whole.

A JSON list is an array of objects; an object of arrays, one per column (SBU); or an object with such an array
of objects among its values (RedCaps' `annotations`). Of columns, one stream per wanted column is read, so
that memory stays flat whatever their order.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

import pyarrow as pa

from pipeline.core.errors import SourceError
from scrapers.sources.urls.faults import Faults
from scrapers.sources.urls.list_files import ListFile
from scrapers.sources.urls.streams import BLOCK_BYTES, TextStream, lines_of, open_bytes, reading

_ROWS = 8192
_LINES_AT_ONCE = 256
_SAMPLE = 100
_MAX_VALUE_CHARS = 64 * 2**20
_BLANKS = " \t\r\n"
_DECODER = json.JSONDecoder()
# What `json` raises for text that is not JSON, or nested too deeply.
_NOT_JSON = (ValueError, RecursionError)


@dataclass(frozen=True, kw_only=True)
class JsonList:
    """How a file is read; `columns` are those of the first rows, `place` the key of its array."""

    file: ListFile
    columns: tuple[str, ...]
    layout: Literal["lines", "rows", "columns"]
    place: str | None = None

    def batches(self, wanted: Sequence[str], faults: Faults) -> Iterator[pa.RecordBatch]:
        """The wanted columns, batch by batch. Raises SourceError if the file can't be read."""
        rows = self._rows(wanted, faults)
        while some := list(islice(rows, _ROWS)):
            yield pa.RecordBatch.from_arrays(
                [arrow_array([row.get(name) for row in some]) for name in wanted], list(wanted)
            )

    def _rows(self, wanted: Sequence[str], faults: Faults) -> Iterator[dict[str, Any]]:
        if self.layout == "lines":
            return _rows_of_lines(self.file, faults)
        if self.layout == "rows":
            return _rows_of_array(self.file, self.place, faults)
        return _rows_of_columns(self.file, wanted)


def open_json(file: ListFile, kind: str) -> JsonList | None:
    """How a JSON or JSONL file is read; None if it is empty. Raises SourceError for other JSON."""
    if kind == "jsonl":
        sample = list(islice(_rows_of_lines(file, Faults()), _SAMPLE))
        return JsonList(file=file, columns=_names(sample), layout="lines") if sample else None
    with open_bytes(file) as raw, reading(file):
        scan = _Scan(TextStream(raw, mends_cr=False), file.name)
        if scan.peek() == "":
            return None
        if scan.peek() == "[":
            return _as_rows(file, scan, None)
        if scan.peek() != "{":
            raise scan.error("neither a list nor an object")
        columns = []
        for key in scan.each_key():
            if scan.peek() == "[":
                scan.take("[")
                if scan.peek() == "{":
                    return _as_rows(file, scan, key, is_open=True)
                columns.append(key)
                scan.skip_array()
            else:
                scan.value()
    if not columns:
        raise SourceError(f"The list {file.name} is a JSON object without a list in it.")
    return JsonList(file=file, columns=tuple(columns), layout="columns")


def _as_rows(
    file: ListFile, scan: _Scan, place: str | None, *, is_open: bool = False
) -> JsonList | None:
    values = list(islice(scan.array(is_open=is_open), _SAMPLE))
    if not values:
        return None
    sample = [row for row in values if isinstance(row, dict)]
    if not sample:
        raise SourceError(f"The list {file.name} is a JSON list of other things than objects.")
    return JsonList(file=file, columns=_names(sample), layout="rows", place=place)


def _names(sample: Sequence[dict[str, Any]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for row in sample for name in row))


def _rows_of_lines(file: ListFile, faults: Faults) -> Iterator[dict[str, Any]]:
    with open_bytes(file) as raw, reading(file):
        lines = lines_of(TextStream(raw, mends_cr=False))
        first = 1
        while some := list(islice(lines, _LINES_AT_ONCE)):
            yield from _objects_in(some, first, file.name, faults)
            first += len(some)


def _objects_in(lines: list[bytes], first: int, file: str, faults: Faults) -> list[dict[str, Any]]:
    """The objects in lines, the first of which has the number `first`.

    They are parsed together, in a third of the time; around a line that is broken in ever smaller groups.
    """
    if len(lines) == 1:
        return _object_in(lines[0], first, file, faults)
    try:
        # A number between two lines: no object goes on after it.
        values: list[Any] = json.loads(b"[%b]" % b",0,".join(lines))
    except _NOT_JSON:
        values = []
    rows = values[::2]
    if len(values) == 2 * len(lines) - 1 and all(type(row) is dict for row in rows):
        return rows
    half = len(lines) // 2
    return [
        *_objects_in(lines[:half], first, file, faults),
        *_objects_in(lines[half:], first + half, file, faults),
    ]


def _object_in(line: bytes, number: int, file: str, faults: Faults) -> list[dict[str, Any]]:
    if not line.strip():
        return []
    try:
        row, reason = json.loads(line), "not a JSON object"
    except _NOT_JSON:
        row, reason = None, "not JSON"
    if isinstance(row, dict):
        return [row]
    faults.add(file, reason, line.decode("utf-8", "replace"), line=number)
    return []


def _rows_of_array(file: ListFile, place: str | None, faults: Faults) -> Iterator[dict[str, Any]]:
    with open_bytes(file) as raw, reading(file):
        scan = _Scan(TextStream(raw, mends_cr=False), file.name)
        if place is not None:
            scan.go_to(place)
        for row in scan.array():
            if isinstance(row, dict):
                yield row
            else:
                faults.add(file.name, "not a JSON object", json.dumps(row))


def _rows_of_columns(file: ListFile, wanted: Sequence[str]) -> Iterator[dict[str, Any]]:
    with ExitStack() as stack:
        stack.enter_context(reading(file))
        arrays = []
        for name in wanted:
            raw = stack.enter_context(open_bytes(file))
            scan = _Scan(TextStream(raw, mends_cr=False), file.name)
            scan.go_to(name)
            arrays.append(scan.array())
        try:
            for values in zip(*arrays, strict=True):
                yield dict(zip(wanted, values, strict=True))
        except ValueError as error:
            raise SourceError(
                f"The columns {', '.join(wanted)} of the list {file.name} have different lengths."
            ) from error


def arrow_array(values: list[Any]) -> pa.Array:
    """Python values as an Arrow array; those of mixed types as text."""
    try:
        return pa.array(values)
    except (pa.ArrowException, OverflowError, UnicodeEncodeError):
        return pa.array([_as_text(value) for value in values], pa.string())


def _as_text(value: Any) -> str | None:
    if value is None:
        return None
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text.encode("utf-8", "replace").decode()


class _Scan:
    """A cursor over JSON text that holds one value at a time."""

    def __init__(self, stream: TextStream, name: str) -> None:
        self._stream = stream
        self._name = name
        self._text = ""
        self._at = 0
        self._rest = b""

    def error(self, found: str) -> SourceError:
        return SourceError(f"The list {self._name} can't be read as JSON: it holds {found}.")

    def peek(self) -> str:
        """The next character that is not blank; empty at the end."""
        while True:
            while self._at < len(self._text) and self._text[self._at] in _BLANKS:
                self._at += 1
            if self._at < len(self._text) or not self._more():
                return self._text[self._at : self._at + 1]

    def take(self, char: str) -> None:
        if self.peek() != char:
            raise self.error(f"{self.peek() or 'the end'!r} where {char!r} was expected")
        self._at += 1

    def value(self) -> Any:
        """The next value, whole."""
        self.peek()
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self._at)
            except RecursionError:
                raise self.error("values that are nested too deeply") from None
            except ValueError as error:
                too_long = len(self._text) - self._at > _MAX_VALUE_CHARS
                if too_long or not self._more():
                    raise self.error(f"something that is not JSON ({error})") from error
                continue
            # A number may go on in the next block.
            if end == len(self._text) and not isinstance(value, (str, list, dict)) and self._more():
                continue
            self._at = end
            return value

    def array(self, *, is_open: bool = False) -> Iterator[Any]:
        """The values of the array that comes next."""
        if not is_open:
            self.take("[")
        if self.peek() == "]":
            self.take("]")
            return
        while True:
            yield self.value()
            if self.peek() == "]":
                self.take("]")
                return
            self.take(",")

    def skip_array(self) -> None:
        for _ in self.array(is_open=True):
            pass

    def each_key(self) -> Iterator[str]:
        """The keys of the object that comes next, the cursor at each one's value."""
        self.take("{")
        if self.peek() == "}":
            return
        while True:
            key = self.value()
            self.take(":")
            yield str(key)
            if self.peek() != ",":
                self.take("}")
                return
            self.take(",")

    def go_to(self, wanted: str) -> None:
        """Move to the value of a key of the object that comes next."""
        for key in self.each_key():
            if key == wanted:
                return
            if self.peek() == "[":
                self.take("[")
                self.skip_array()
            else:
                self.value()
        raise self.error(f"no {wanted!r}")

    def _more(self) -> bool:
        """Read on; what lies behind the cursor is dropped. False at the end."""
        block = self._stream.read(BLOCK_BYTES // 4)
        if not block and not self._rest:
            return False
        data = self._rest + block
        try:
            text, self._rest = data.decode(), b""
        except UnicodeDecodeError as error:
            if not block or error.start < len(data) - 4:
                raise self.error("bytes that are not UTF-8") from error
            text, self._rest = data[: error.start].decode(), data[error.start :]
        self._text = self._text[self._at :] + text
        self._at = 0
        return True

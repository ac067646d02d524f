"""CSV, TSV and txt as batches of text columns, read by pyarrow's streaming parser.

Every column is text: "NA" and "2020" stay what they are. A row with a wrong number of columns or with bytes
that are not UTF-8 is a fault of its own and ends nothing.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from scrapers.sources.urls.faults import Faults
from scrapers.sources.urls.list_files import ListFile
from scrapers.sources.urls.streams import BLOCK_BYTES, TextStream, open_bytes, reading

_DELIMITERS = (",", "\t", "|", ";")
# In no text that anyone writes: a txt line is one column.
_NO_DELIMITER = "\x1f"
_SAMPLE = 50


@dataclass(frozen=True, kw_only=True)
class Delimited:
    """How a file of rows is read. `columns` are all its columns; `has_header` skips the first line."""

    file: ListFile
    columns: tuple[str, ...]
    has_header: bool
    delimiter: str
    quoted: bool

    def batches(self, wanted: Sequence[str], faults: Faults) -> Iterator[pa.RecordBatch]:
        """The wanted columns as strings, batch by batch. Raises SourceError if the file can't be read."""
        with open_bytes(self.file) as raw, reading(self.file):
            stream = TextStream(raw, mends_cr=not self.quoted)
            if not stream.head.strip() or (self.has_header and b"\n" not in stream.head):
                return
            reader = pa_csv.open_csv(
                pa.PythonFile(stream, mode="r"),
                read_options=pa_csv.ReadOptions(
                    column_names=list(self.columns),
                    skip_rows=int(self.has_header),
                    block_size=BLOCK_BYTES,
                    use_threads=False,
                ),
                parse_options=self._parse_options(faults),
                convert_options=pa_csv.ConvertOptions(
                    column_types=dict.fromkeys(self.columns, pa.binary()),
                    include_columns=list(wanted),
                    strings_can_be_null=False,
                    check_utf8=False,
                ),
            )
            for batch in reader:
                texts = as_utf8(batch, self.file.name, faults)
                yield self._without_swallowed(texts, faults) if self.quoted else texts

    def _without_swallowed(self, batch: pa.RecordBatch, faults: Faults) -> pa.RecordBatch:
        """Without the rows in which a quote that is not closed has swallowed the rows after it."""
        pattern = rf"\n[^\n]*https?://[^\n]*{re.escape(self.delimiter)}|\n[^\n]*{re.escape(self.delimiter)}[^\n]*https?://"
        found = [pc.match_substring_regex(column, pattern) for column in batch.columns]
        swallowed = reduce(pc.or_, found)
        if not pc.any(swallowed).as_py():
            return batch
        for row in batch.filter(swallowed).to_pylist():
            text = " ".join(row.values())
            for _ in range(text.count("\n")):
                faults.add(self.file.name, "after a quote that is not closed", text)
        return batch.filter(pc.invert(swallowed))

    def _parse_options(self, faults: Faults) -> pa_csv.ParseOptions:
        def skip(row: Any) -> str:
            reason = f"expected {row.expected_columns} columns, found {row.actual_columns}"
            faults.add(self.file.name, reason, row.text or "", line=row.number)
            return "skip"

        return pa_csv.ParseOptions(
            delimiter=self.delimiter,
            quote_char='"' if self.quoted else False,
            newlines_in_values=self.quoted,
            invalid_row_handler=skip,
        )


def as_utf8(batch: pa.RecordBatch, file: str, faults: Faults) -> pa.RecordBatch:
    """A batch of bytes as text, without the rows that are not UTF-8."""
    try:
        return _cast(batch)
    except pa.ArrowInvalid:
        rows = list(zip(*(column.to_pylist() for column in batch.columns), strict=True))
        good = [all(map(_is_utf8, row)) for row in rows]
        for row, is_good in zip(rows, good, strict=True):
            if not is_good:
                faults.add(file, "not UTF-8", b" ".join(row).decode("utf-8", "backslashreplace"))
        return _cast(batch.filter(pa.array(good)))


def _cast(batch: pa.RecordBatch) -> pa.RecordBatch:
    columns = [column.cast(pa.string()) for column in batch.columns]
    return pa.RecordBatch.from_arrays(columns, names=batch.schema.names)


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def open_delimited(file: ListFile, kind: str, *, quoted: bool) -> Delimited | None:
    """How a CSV, TSV or txt file is read; None if it is empty.

    A file whose first line contains a URL has no header; its columns are named by what they seem to hold.
    """
    with open_bytes(file) as raw, reading(file):
        head = TextStream(raw, mends_cr=not quoted).head
    text = head.decode("utf-8", "replace").lstrip("\r\n")
    if not text.strip():
        return None
    line = text.partition("\n")[0]
    delimiter = {"tsv": "\t", "csv": _csv_delimiter(line)}.get(kind) or (
        "\t" if "\t" in line else _NO_DELIMITER
    )
    rows = _first_rows(text, delimiter, quoted=quoted)
    usual = Counter(len(row) for row in rows).most_common(1)[0][0]
    sample = next(row for row in rows if len(row) == usual)
    is_list_of_urls = kind == "txt" and usual == 1
    has_header = sample is rows[0] and not any(map(_looks_like_url, sample)) and not is_list_of_urls
    names = distinct(cell.strip() for cell in sample) if has_header else _names_of(sample)
    return Delimited(
        file=file,
        columns=("url",) if is_list_of_urls else names,
        has_header=has_header,
        delimiter=delimiter,
        quoted=quoted,
    )


def _names_of(cells: Sequence[str]) -> tuple[str, ...]:
    """Names for columns without a header: `url`, `caption` if there are two, `column_3` and so on."""
    names = [f"column_{number}" for number in range(1, len(cells) + 1)]
    place = next((n for n, cell in enumerate(cells) if _looks_like_url(cell)), None)
    if place is not None:
        names[place] = "url"
        if len(cells) == 2:
            names[1 - place] = "caption"
    return tuple(names)


def distinct(names: Any) -> tuple[str, ...]:
    """Names of columns with a number behind those that occur again."""
    made: list[str] = []
    for number, name in enumerate(names, 1):
        name = name or f"column_{number}"
        made.append(name if name not in made else f"{name}_{number}")
    return tuple(made)


def _csv_delimiter(line: str) -> str:
    """The delimiter of a CSV file: the one that splits its first line into most columns."""
    return max(_DELIMITERS, key=lambda mark: (line.count(mark), -_DELIMITERS.index(mark)))


def _first_rows(text: str, delimiter: str, *, quoted: bool) -> list[list[str]]:
    """The first rows, at least one; of the last only what is in `text`."""
    if not quoted:
        lines = text.split("\n", _SAMPLE)[:_SAMPLE]
        return [line.rstrip("\r").split(delimiter) for line in lines if line.strip()]
    rows = []
    try:
        for row in islice(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter), _SAMPLE):
            rows.append(row)  # noqa: PERF402  (those before an error count)
    except csv.Error:
        pass
    return [row for row in rows if row] or [text.partition("\n")[0].split(delimiter)]


def _looks_like_url(cell: str) -> bool:
    return cell.strip().strip('"').lower().startswith(("http://", "https://"))

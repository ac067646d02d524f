"""Batches of a list → the rows to fetch: filtered, checked and cut into shards column by column, in Arrow.

Only URLs in an unusual spelling are looked at one by one. Python objects of rows are made when a crawl takes
them.
"""

from __future__ import annotations

import json
import math
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from typing import Any
from urllib.parse import unquote_plus

import pyarrow as pa
import pyarrow.compute as pc

from scrapers.fetch.page_urls import resolve_url
from scrapers.source import CaptionForm, CaptionPlan
from scrapers.sources.urls.columns import OpenList
from scrapers.sources.urls.faults import Faults
from scrapers.sources.urls.where import as_text, is_text

# `resolve_url` leaves URLs like these as they are (but for dots in the path). Ports: 1024 to 59999.
_HOST = r"[a-z0-9-]{1,63}(\.[a-z0-9-]{1,63})+"
_PLAIN_URL = (
    rf"^https?://{_HOST}(:([1-9][0-9]{{3}}|[1-5][0-9]{{4}}))?"
    r"/[!$-;=@-\[\]^_a-z|~]*(\?[!$-;=?-z|~]*)?$"
)
_NOT_BLANK = r"[^\s\p{Z}]"
_HEX_CHARS = {"sha256": 64, "md5": 32}
_AT_ONCE = 1024
# What keys of images begin with: the same in each list, so that a URL in two of them is one image.
KEY_PREFIX = "images"


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Rows to fetch, in columns. `urls` are resolved; `expected` are hashes such as ``sha256:ab12…``."""

    section: str
    urls: pa.Array
    captions: tuple[pa.Array, ...]
    kept: pa.RecordBatch
    expected: pa.Array | None
    encoded: bool

    def __len__(self) -> int:
        return len(self.urls)

    def first(self, number: int) -> Rows:
        """The first of them."""
        return self._slice(0, number)

    def _slice(self, start: int, length: int) -> Rows:
        return Rows(
            section=self.section,
            urls=self.urls.slice(start, length),
            captions=tuple(column.slice(start, length) for column in self.captions),
            kept=self.kept.slice(start, length),
            expected=None if self.expected is None else self.expected.slice(start, length),
            encoded=self.encoded,
        )

    def plans(self) -> Iterator[CaptionPlan]:
        """A plan for each row, made one after another."""
        for start in range(0, len(self), _AT_ONCE):
            yield from self._slice(start, _AT_ONCE)._plans()

    def _plans(self) -> Iterator[CaptionPlan]:
        columns = [column.to_pylist() for column in self.captions]
        extras = self.kept.to_pylist() if self.kept.num_columns else [None] * len(self)
        hashes = [None] * len(self) if self.expected is None else self.expected.to_pylist()
        for number, url in enumerate(self.urls.to_pylist()):
            first, *further = _captions((column[number] for column in columns), self.encoded)
            yield CaptionPlan(
                section=self.section,
                forms=(CaptionForm(caption=first, url_template=url),),
                ranks=(0,),
                masked=False,
                captions=tuple(further),
                extra=_as_json(extras[number]),
                key_prefix=KEY_PREFIX,
                expected_hash=hashes[number],
            )


def select_rows(
    opened: OpenList,
    faults: Faults,
    skipped: Counter[str],
    *,
    shard: tuple[int, int] | None = None,
) -> Iterator[Rows]:
    """The rows of a list that are to be fetched, batch by batch.

    `faults` and `skipped` count all others: those that are broken, and those left out on purpose, by reason.
    """
    layout = opened.layout
    for batch in opened.table.batches(layout.wanted(), faults):
        if not batch.num_rows:
            continue
        for condition in layout.condition:
            batch = _keep(batch, condition.mask(_columns_of(batch)), skipped, "where")
        urls, batch = _checked_urls(batch, opened, faults)
        if shard is not None:
            in_shard = pa.array(_shard_mask(urls, shard), pa.bool_())
            urls = urls.filter(in_shard)
            batch = _keep(batch, in_shard, skipped, "other_shards")
        if layout.captions:
            has_caption = reduce(
                pc.or_, (_is_given(batch.column(name)) for name in layout.captions)
            )
            urls = urls.filter(has_caption)
            batch = _keep(batch, has_caption, skipped, "no_caption")
        expected = None
        if layout.hash is not None:
            expected, is_hash = _expected(batch, layout.hash)
            _note(batch, pc.invert(is_hash), opened, faults, f"no {layout.hash[0]}")
            urls, batch = urls.filter(is_hash), batch.filter(is_hash)
            expected = expected.filter(is_hash)
        yield Rows(
            section=opened.file.section,
            urls=urls,
            captions=tuple(_texts(batch.column(name)) for name in layout.captions),
            kept=batch.select(list(layout.keep)),
            expected=expected,
            encoded=layout.encoded,
        )


def _columns_of(batch: pa.RecordBatch) -> dict[str, pa.Array]:
    return dict(zip(batch.schema.names, batch.columns, strict=True))


def _keep(
    batch: pa.RecordBatch, mask: pa.Array, skipped: Counter[str], reason: str
) -> pa.RecordBatch:
    kept = batch.filter(mask)
    if left := batch.num_rows - kept.num_rows:
        skipped[reason] += left
    return kept


def _checked_urls(
    batch: pa.RecordBatch, opened: OpenList, faults: Faults
) -> tuple[pa.Array, pa.RecordBatch]:
    """The resolved URLs of a batch, and the batch without the rows that have none."""
    urls = as_text(batch.column(opened.layout.url))
    plain = pc.fill_null(pc.match_substring_regex(urls, _PLAIN_URL), False)
    has_dots = pc.or_(
        pc.match_substring(urls, "/."), pc.match_substring(urls, "%2e", ignore_case=True)
    )
    odd = pc.invert(pc.and_(plain, pc.fill_null(pc.invert(has_dots), False)))
    if not pc.any(odd).as_py():
        return urls, batch
    written = urls.filter(odd).to_pylist()
    resolved = pa.array([_resolved(text) for text in written], pa.string())
    urls = pc.replace_with_mask(urls, odd, resolved)
    good = pc.is_valid(urls)
    _note(batch, pc.invert(good), opened, faults, "not a URL")
    return urls.filter(good), batch.filter(good)


def _resolved(text: str | None) -> str | None:
    return None if text is None or not text.strip() else resolve_url(text, "")


def _note(
    batch: pa.RecordBatch, mask: pa.Array, opened: OpenList, faults: Faults, reason: str
) -> None:
    """Count the rows of the mask as broken."""
    names = list(dict.fromkeys((opened.layout.url, *opened.layout.captions[:1])))
    for row in batch.select(names).filter(mask).to_pylist():
        text = " | ".join("(nothing)" if value is None else str(value) for value in row.values())
        faults.add(opened.file.name, reason, text)


def _shard_mask(urls: pa.Array, shard: tuple[int, int]) -> list[bool]:
    """Which URLs are in a shard, by their CRC-32: the same on every machine and in every version."""
    number, count = shard
    crc32 = zlib.crc32
    return [crc32(url) % count == number for url in urls.cast(pa.binary()).to_pylist()]


def _is_given(column: pa.Array) -> pa.Array:
    """Whether a caption is there: no null, not blank."""
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        return pa.array([any(_flat(value)) for value in column.to_pylist()], pa.bool_())
    return pc.fill_null(pc.match_substring_regex(as_text(column), _NOT_BLANK), False)


def _texts(column: pa.Array) -> pa.Array:
    is_list = pa.types.is_list(column.type) or pa.types.is_large_list(column.type)
    return column if is_list or is_text(column.type) else as_text(column)


def _flat(value: Any) -> Iterator[str]:
    """The texts of a caption's value that aren't blank."""
    for text in value if isinstance(value, list) else (value,):
        if text is not None and (shown := str(text)).strip():
            yield shown


def _captions(values: Iterator[Any], encoded: bool) -> list[str]:
    """All captions of a row, each once; one empty caption if it has none."""
    texts = (text for value in values for text in _flat(value))
    found = dict.fromkeys(unquote_plus(text) if encoded else text for text in texts)
    return list(found) or [""]


def _expected(batch: pa.RecordBatch, given: tuple[str, str]) -> tuple[pa.Array, pa.Array]:
    """The hashes of a column as ``sha256:ab12…``, and which of them are hashes."""
    algorithm, name = given
    text = pc.utf8_lower(pc.utf8_trim_whitespace(as_text(batch.column(name))))
    pattern = f"^[0-9a-f]{{{_HEX_CHARS[algorithm]}}}$"
    is_hash = pc.fill_null(pc.match_substring_regex(text, pattern), False)
    return pc.binary_join_element_wise(pa.scalar(algorithm), text, ":"), is_hash


def _as_json(row: dict[str, Any] | None) -> str | None:
    """The kept values of a row as a JSON object, without those that are missing."""
    if row is None:
        return None
    found = {name: value for name, value in row.items() if not _is_missing(value)}
    return json.dumps(found, sort_keys=True, ensure_ascii=False, default=_plain) if found else None


def _is_missing(value: Any) -> bool:
    return value is None or value == "" or (isinstance(value, float) and not math.isfinite(value))


def _plain(value: Any) -> str:
    return value.hex() if isinstance(value, bytes) else str(value)

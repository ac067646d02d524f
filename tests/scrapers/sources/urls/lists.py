"""Lists as the tests write them, and what a source makes of them."""

from __future__ import annotations

import bz2
import gzip
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from scrapers.source import CaptionPlan, Discovery
from scrapers.sources.urls.config import UrlsConfig
from scrapers.sources.urls.source import UrlsSource

Row = tuple[str, tuple[str, ...]]


def compress(data: bytes, how: str) -> bytes:
    """The bytes as a .gz, .bz2 or .zst file."""
    if how == ".zst":
        sink = pa.BufferOutputStream()
        with pa.CompressedOutputStream(sink, "zstd") as stream:
            stream.write(data)
        return bytes(sink.getvalue())
    if how == ".gz":
        return gzip.compress(data)
    return bz2.compress(data) if how == ".bz2" else data


def write(path: Path, text: str | bytes) -> Path:
    """A list with exactly this content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def write_parquet(path: Path, columns: dict[str, Any], **options: Any) -> Path:
    """A Parquet list."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, **options)
    return path


def config_of(*inputs: Path | str, **options: Any) -> UrlsConfig:
    """The options of a run over these lists."""
    return UrlsConfig(source="urls", inputs=tuple(map(str, inputs)), **options)


def discover(*inputs: Path | str, **options: Any) -> Discovery:
    """What the source finds in these lists."""
    return UrlsSource(config_of(*inputs, **options)).discover(None)


def rows_of(plans: Iterable[CaptionPlan]) -> list[Row]:
    """URL and captions of each plan."""
    return [(plan.forms[0].url_template, (plan.forms[0].caption, *plan.captions)) for plan in plans]


def read(*inputs: Path | str, **options: Any) -> list[Row]:
    """URL and captions of each row of these lists; counted as they are listed."""
    found = discover(*inputs, **options)
    rows = rows_of(found.plans)
    assert len(rows) == found.num_urls
    return rows


def extras(*inputs: Path | str, **options: Any) -> list[Any]:
    """What is kept beside each row."""
    plans = discover(*inputs, **options).plans
    return [None if plan.extra is None else json.loads(plan.extra) for plan in plans]

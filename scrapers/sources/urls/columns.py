"""Which columns of a list hold the URL, the captions, and what is kept beside them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import pyarrow as pa

from pipeline.core.errors import ConfigError, SourceError
from pipeline.core.suggestions import name_choices
from scrapers.sources.urls.config import UrlsConfig
from scrapers.sources.urls.delimited import open_delimited
from scrapers.sources.urls.faults import Faults
from scrapers.sources.urls.json_lists import open_json
from scrapers.sources.urls.list_files import FORMATS, ListFile
from scrapers.sources.urls.parquet_lists import open_parquet
from scrapers.sources.urls.presets import PRESETS, Preset
from scrapers.sources.urls.where import Condition, find_column, parse_condition

# Lower case; the first that a list has is used.
URL_NAMES = ("url", "image_url", "image_urls", "downloadurl", "download_url", "img_url", "urls")
CAPTION_NAMES = (
    "caption", "text", "top_caption", "re_caption", "captions", "final_caption", "raw_caption", "title",
)  # fmt: skip


class Table(Protocol):
    """An opened list: its columns, and its rows in batches."""

    @property
    def columns(self) -> tuple[str, ...]: ...

    def batches(self, wanted: Sequence[str], faults: Faults) -> Iterator[pa.RecordBatch]:
        """The wanted columns, batch by batch."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The columns of a file that are used. `hash` is (algorithm, column); `encoded`: URL-encoded captions."""

    url: str
    captions: tuple[str, ...]
    keep: tuple[str, ...] = ()
    hash: tuple[str, str] | None = None
    condition: tuple[Condition, ...] = ()
    encoded: bool = False

    def wanted(self) -> list[str]:
        """Every column to read, once."""
        of_hash = () if self.hash is None else (self.hash[1],)
        used = (name for condition in self.condition for name in condition.columns)
        return list(dict.fromkeys((self.url, *self.captions, *self.keep, *of_hash, *used)))


@dataclass(frozen=True, kw_only=True)
class OpenList:
    """A file of a list with the columns that are used."""

    file: ListFile
    table: Table
    layout: Layout


def open_list(file: ListFile, config: UrlsConfig) -> OpenList | None:
    """Open a file and choose its columns; None if it is empty.

    Raises SourceError if it can't be read, ConfigError if a column isn't there or none can be guessed.
    """
    preset = None if config.preset is None else PRESETS[config.preset]
    table = _open_table(file, config, preset)
    if table is None:
        return None
    return OpenList(file=file, table=table, layout=_choose(file, table.columns, config, preset))


def _open_table(file: ListFile, config: UrlsConfig, preset: Preset | None) -> Table | None:
    kind = config.list_format or file.format or (preset.format if preset else None)
    if kind is None:
        raise ConfigError(
            f"The format of {file.name} can't be read from its name: expected {', '.join(FORMATS)}, also "
            "with .gz, .bz2 or .zst. Give --list-format, or --preset."
        )
    if kind == "parquet":
        return open_parquet(file)
    if kind in ("json", "jsonl"):
        return open_json(file, kind)
    quoted = kind == "csv"
    if preset is not None and preset.quoted is not None:
        quoted = preset.quoted
    table = open_delimited(file, kind, quoted=quoted)
    if table is None or preset is None or not preset.names:
        return table
    if table.has_header and find_column(preset.url, table.columns) is not None:
        return table
    return replace(table, columns=preset.names_for(len(table.columns)), has_header=False)


def _choose(
    file: ListFile, columns: tuple[str, ...], config: UrlsConfig, preset: Preset | None
) -> Layout:
    def find(flag: str, name: str) -> str:
        found = find_column(name, columns)
        if found is None:
            raise ConfigError(
                f"{file.name} has no column {name!r} for {flag}. {name_choices(name, columns)}"
            )
        return found

    url = find("--url-column", config.url_column) if config.url_column else None
    captions = tuple(find("--caption-column", name) for name in config.caption_column)
    kept = tuple(find("--keep-columns", name) for name in config.keep_columns)
    if preset is not None:
        url = url or find(f"--preset {config.preset}", preset.url)
        captions = captions or _there(preset.captions, columns)
        kept = kept or _there(preset.keep, columns)
        if not captions:
            find(f"--preset {config.preset}", preset.captions[0])
    url = url or _guess_url(file, columns)
    captions = captions or _guess_captions(columns, url)
    used = (url, *captions)
    return Layout(
        url=url,
        captions=tuple(dict.fromkeys(captions)),
        keep=tuple(name for name in dict.fromkeys(kept) if name not in used),
        hash=config.hash_column
        and (config.hash_column[0], find("--verify-hash", config.hash_column[1])),
        condition=_conditions(columns, config, preset),
        encoded=preset is not None and preset.encoded,
    )


def _conditions(
    columns: tuple[str, ...], config: UrlsConfig, preset: Preset | None
) -> tuple[Condition, ...]:
    given = [] if config.where is None else [parse_condition(config.where, columns)]
    if preset is not None and preset.where is not None:
        with contextlib.suppress(ConfigError):  # the file was published without the column
            given.append(parse_condition(preset.where, columns))
    return tuple(given)


def _there(names: Sequence[str], columns: Sequence[str]) -> tuple[str, ...]:
    found = (find_column(name, columns) for name in names)
    return tuple(name for name in found if name is not None)


def _guess_url(file: ListFile, columns: Sequence[str]) -> str:
    found = next(iter(_there(URL_NAMES, columns)), None)
    if found is None:
        raise ConfigError(
            f"{file.name} has no column that looks like a URL. Give --url-column; the columns are "
            f"{', '.join(columns)}."
        )
    return found


def _guess_captions(columns: Sequence[str], url: str) -> tuple[str, ...]:
    return tuple(name for name in _there(CAPTION_NAMES, columns) if name != url)[:1]


def no_rows(files: Sequence[ListFile], why: str = "no row is in it") -> SourceError:
    """The error for lists in which there is nothing to fetch."""
    names = ", ".join(file.name for file in files[:3])
    more = f" and {len(files) - 3} more" if len(files) > 3 else ""
    return SourceError(f"There is nothing to fetch from {names}{more}: {why}.")

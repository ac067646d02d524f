"""The source `img2dataset`: one row for each URL that img2dataset has tried."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.core.errors import ConfigError, SourceError
from scrapers.fetch.page_urls import resolve_url
from scrapers.source import Discovery, Failure, Item, StartPage
from scrapers.sources.img2dataset.failures import read_failure
from scrapers.sources.img2dataset.shards import Row, Shard, find_shards, read_rows
from scrapers.sources.remarks import Remarks

if TYPE_CHECKING:
    from scrapers.sources.img2dataset import Img2datasetConfig

_CAPTIONS = ("caption", "TEXT", "text", "txt")


class Img2datasetSource:
    """The rows of one output folder."""

    name = "img2dataset"
    start_url: str | None = None

    def __init__(self, config: Img2datasetConfig) -> None:
        """Raises ConfigError unless there is one folder."""
        if len(config.inputs) != 1 or not Path(config.inputs[0]).is_dir():
            found = ", ".join(config.inputs) or "nothing"
            raise ConfigError(
                f"The source img2dataset reads one output folder, found {found}. "
                "Give its path: pipeline scrape img2dataset PATH."
            )
        self._folder = Path(config.inputs[0]).resolve()
        self._config = config

    def discover(self, _page: StartPage | None) -> Discovery:
        """See `LocalSource.discover`."""
        return Discovery.of(lambda: self.items_on_disk(Remarks()), limit=self._config.limit)

    def items_on_disk(self, remarks: Remarks) -> Iterator[Item]:
        """See `LocalSource.items_on_disk`."""
        found = False
        for shard in find_shards(self._folder, remarks):
            for item in self._items_of(shard, remarks):
                found = True
                yield item
        if not found:
            why = (
                " ".join(remarks.sentences()) or "There is no NNNNN.parquet with NNNNN_stats.json."
            )
            raise SourceError(f"{self._folder} has no row with a caption. {why}")

    def _items_of(self, shard: Shard, remarks: Remarks) -> Iterator[Item]:
        import pyarrow as pa

        try:
            for row in read_rows(shard, remarks):
                item = self._item(shard, row, remarks)
                if item is not None:
                    yield item
        except (OSError, ValueError, pa.ArrowException) as error:
            remarks.note("Shards that can't be read", f"{shard.table.name} ({error})")

    def _item(self, shard: Shard, row: Row, remarks: Remarks) -> Item | None:
        columns = row.columns
        key = f"{shard.name}/{columns.get('key')}"
        name, captions = self._captions_of(columns)
        if not captions:
            remarks.note("Rows without a caption", key)
            return None
        given = str(columns.get("url") or "")
        url = resolve_url(given, "")
        return Item(
            url=url or given,
            captions=captions,
            group=self._folder.name or self.name,
            extra={k: v for k, v in columns.items() if k not in (name, "url") and v is not None},
            name=None if url is not None else key,
            place=row.place,
            body=row.body,
            failure=_failure_of(row, is_url=url is not None),
        )

    def _captions_of(self, columns: Mapping[str, Any]) -> tuple[str, tuple[str, ...]]:
        """The column with the captions, and the captions."""
        wanted = self._config.captions_from
        name = wanted or next((each for each in _CAPTIONS if each in columns), "caption")
        if name not in columns:
            raise SourceError(
                f"{self._folder} has no column {name!r} for the captions but {', '.join(columns)}. "
                "Give one of them with --captions-from."
            )
        value = columns[name]
        listed = value if isinstance(value, list) else [value]
        return name, tuple(text for each in listed if each and (text := str(each).strip()))


def _failure_of(row: Row, *, is_url: bool) -> Failure | None:
    """Why a row has no image."""
    if row.columns.get("status") != "success":
        found = read_failure(row.columns.get("error_message"))
        return found if is_url else Failure("failed", "bad_url", found.text)
    if row.place is None:
        return Failure("failed", "lost_in_shard", "the shard lacks the image")
    return None

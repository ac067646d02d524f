"""Lists of URLs downloaded by img2dataset: what the ledger lacks, in rounds beside the workspace.

    plans → round-0000/list.parquet → img2dataset → round-0000/images → rows of the ledger

A round is begun only when the one before is complete. Its images stay in its tars; the ledger points there.
"""

from __future__ import annotations

import json
import logging
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.core.engine import count_cores
from pipeline.core.progress import Progress
from pipeline.core.workspace import Workspace
from scrapers.bulk.download import IMAGES, LIST, BulkOptions, download, rows_done, write_list
from scrapers.config import USER_AGENT, ScrapeConfig
from scrapers.rawstore.keys import address_of
from scrapers.rawstore.ledger import Ledger
from scrapers.source import CaptionForm, CaptionPlan, Discovery, Failure, Item, StartPage
from scrapers.sources.img2dataset.failures import read_failure
from scrapers.sources.img2dataset.shards import find_shards, read_rows
from scrapers.sources.remarks import Remarks
from scrapers.sources.urls.config import UrlsConfig
from scrapers.sources.urls.rows import KEY_PREFIX
from scrapers.sources.urls.source import UrlsSource

logger = logging.getLogger(__name__)

# `caption` is what img2dataset writes beside an image; the other columns are for us.
_SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("url", "caption", "captions", "group", "extra")]
)
_REPEATS = "repeats.parquet"
_ROWS = 10_000


def open_urls(config: ScrapeConfig) -> UrlsSource | BulkUrlsSource:
    """The source `urls`: its images come from the web, or from img2dataset's output."""
    assert isinstance(config, UrlsConfig)
    return BulkUrlsSource(config) if config.engine == "img2dataset" else UrlsSource(config)


class BulkUrlsSource:
    """The rows of lists that img2dataset downloads. See `scrapers.source.PreparedSource`."""

    name = "urls"
    start_url: str | None = None

    def __init__(self, config: ScrapeConfig) -> None:
        """Raises ConfigError if there is no list at one of the paths."""
        assert isinstance(config, UrlsConfig)
        self._config = config
        self._lists = UrlsSource(config)
        root = Path(config.workspace).resolve()
        self._folder = root.with_name(f"{root.name}.img2dataset")

    def discover(self, page: StartPage | None) -> Discovery:
        """See `UrlsSource.discover`."""
        return self._lists.discover(page)

    def input_digests(self) -> Mapping[str, str]:
        """See `UrlsSource.input_digests`."""
        return self._lists.input_digests()

    def prepare(self, progress: Progress) -> None:
        """Download what neither the ledger nor a round has; an interrupted round is finished first.

        What failed is not downloaded again: `--retry-failed` requests it with our own crawler.

        Raises the errors of `scrapers.bulk.download.download`.
        """
        self._lists.reading = progress
        for folder in self._rounds():
            if rows_done(folder) < pq.read_metadata(folder / LIST).num_rows:
                download(folder, self._options(), progress)
        rounds = self._rounds()
        folder = self._folder / f"round-{len(rounds):04d}"
        with _Waiting(Workspace(self._config.workspace), folder, rounds) as waiting:
            plans = waiting.select(self._lists.discover(None).plans)
            _, count = write_list(plans, _SCHEMA, folder)
        if count:
            logger.warning(
                "img2dataset asks no robots.txt and keeps no pace per host: it requests %d URLs now.",
                count,
            )
            download(folder, self._options(), progress)

    def items_on_disk(self, remarks: Remarks) -> Iterator[Item]:
        """See `LocalSource.items_on_disk`."""
        for folder in self._rounds():
            if not (folder / IMAGES).is_dir():
                continue
            for shard in find_shards(folder / IMAGES, remarks):
                for row in read_rows(shard, remarks):
                    yield self._item(row.columns, row.place)
            if (folder / _REPEATS).exists():
                yield from _repeats(folder / _REPEATS)

    def _item(self, columns: Any, place: Any) -> Item:
        failure = None
        if columns.get("status") != "success":
            failure = read_failure(columns.get("error_message"))
        elif place is None:
            failure = Failure("failed", "lost_in_shard", "the shard lacks the image")
        hashed = columns.get("sha256")  # of the bytes as served
        return Item(
            **_of_list(columns),
            place=place,
            failure=failure,
            original_sha256=bytes.fromhex(hashed) if hashed else None,
        )

    def _rounds(self) -> list[Path]:
        return sorted(p for p in self._folder.glob("round-*") if (p / LIST).exists())

    def _options(self) -> BulkOptions:
        config = self._config
        assert config.img2dataset_python is not None
        contact = f" ({config.contact})" if config.contact else ""
        return BulkOptions(
            python=config.img2dataset_python,
            distributor=config.distributor,
            processes=count_cores(),
            threads=config.concurrency,
            attempts=config.attempts,
            timeout_s=config.timeout_s,
            agent=f"{USER_AGENT}{contact}",
            ignore_opt_out=config.ignore_opt_out,
            resize=config.resize_rule(),
        )


def _of_list(columns: Any) -> dict[str, Any]:
    """The arguments of an item that the round's list has."""
    return {
        "url": str(columns["url"]),
        "captions": tuple(json.loads(columns["captions"])),
        "group": str(columns["group"]),
        "extra": json.loads(columns["extra"]) if columns["extra"] else {},
    }


def _repeats(path: Path) -> Iterator[Item]:
    """Rows whose URL came before: only their captions count."""
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(_ROWS):
            for columns in batch.to_pylist():
                yield Item(**_of_list(columns), failure=Failure("pending", "repeat", ""))


class _Waiting:
    """Selects the plans whose URL is in no round and not decided by the ledger, each URL once."""

    def __init__(self, workspace: Workspace, folder: Path, rounds: Sequence[Path]) -> None:
        self._folder = folder
        self._ledger = Ledger(workspace.ledger) if workspace.ledger.exists() else None
        self._seen = sqlite3.connect("")  # a temporary file, so that memory stays small
        self._seen.execute("CREATE TABLE seen(key TEXT PRIMARY KEY) WITHOUT ROWID")
        self._repeats: pq.ParquetWriter | None = None
        for each in rounds:
            with pq.ParquetFile(each / LIST) as file:
                for batch in file.iter_batches(_ROWS, columns=["url"]):
                    self._note(batch["url"].to_pylist())

    def _note(self, urls: Sequence[str]) -> None:
        keys = ((_key_of(url),) for url in urls)
        self._seen.executemany("INSERT OR IGNORE INTO seen VALUES(?)", keys)

    def __enter__(self) -> _Waiting:
        return self

    def __exit__(self, *_: object) -> None:
        self._seen.close()
        for opened in (self._ledger, self._repeats):
            if opened is not None:
                opened.close()

    def select(self, plans: Iterable[CaptionPlan]) -> Iterator[dict[str, Any]]:
        """The rows for the list of a round; rows with a URL that came before are kept beside it."""
        repeated: list[dict[str, Any]] = []
        for plan in plans:
            key = _key_of(plan.forms[0].url_template)
            if self._is_decided(key):
                continue
            if self._seen.execute("INSERT OR IGNORE INTO seen VALUES(?)", (key,)).rowcount:
                yield _row_of(plan)
                continue
            repeated.append(_row_of(plan))
            if len(repeated) >= _ROWS:
                self._keep(repeated)
                repeated.clear()
        self._keep(repeated)

    def _is_decided(self, key: str) -> bool:
        if self._ledger is None or (form := self._ledger.form(key)) is None:
            return False
        known = self._ledger.known(form[0])
        return bool(known) and all(row.state != "pending" for row in known)

    def _keep(self, rows: list[dict[str, Any]]) -> None:
        if not rows:
            return
        if self._repeats is None:
            self._repeats = pq.ParquetWriter(self._folder / _REPEATS, _SCHEMA)
        self._repeats.write_batch(pa.RecordBatch.from_pylist(rows, schema=_SCHEMA))


def _key_of(url: str) -> str:
    """The key of a URL's image in the ledger."""
    return address_of(CaptionForm(caption="", url_template=url), KEY_PREFIX).key


def _row_of(plan: CaptionPlan) -> dict[str, Any]:
    form = plan.forms[0]
    return {
        "url": form.url_template,
        "caption": form.caption,
        "captions": json.dumps([form.caption, *plan.captions], ensure_ascii=False),
        "group": plan.section,
        "extra": plan.extra,
    }

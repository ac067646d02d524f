"""The ledger as Parquet, and the URLs that a crawl would request.

Reads the ledger or a source; writes the named file. Uses no network.
"""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import IO, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.core.contracts import LEDGER_ITEMS, Column, StageReport
from pipeline.core.outputs import write_output
from pipeline.core.plain_text import plain_line
from pipeline.core.storage import arrow_schema
from pipeline.core.workspace import Workspace
from scrapers.config import USER_AGENT, ScrapeConfig
from scrapers.crawl.jobs import OpenForm
from scrapers.fetch.page_urls import take_credentials
from scrapers.fetch.storable import storable
from scrapers.rawstore.keys import address_of
from scrapers.rawstore.ledger import Ledger
from scrapers.source import Discovery, Source, open_source
from scrapers.sources.differences import describe_differences, warn_of_losses
from scrapers.sources.start_page import kept_page, page_name, refuse_reserved_page

_log = logging.getLogger(__name__)

_ROWS = 20_000
URL_LIST: tuple[Column, ...] = (
    Column("section", "string", "Section of the page."),
    Column("caption", "string", "The caption in its first form."),
    Column("rank", "int64", "Rank of the image by CLIP, 0 is best; null if it has none."),
    Column("url", "string", "The URL."),
)


class ListedUrl(NamedTuple):
    """One URL that a crawl would request."""

    section: str
    caption: str
    rank: int | None
    url: str


def export(config: ScrapeConfig, *, source: Source | None = None) -> StageReport:
    """Do what `--export` or `--list-urls` ask for; lines go to standard output."""
    details = {}
    if config.export is not None:
        rows = export_ledger(Workspace(config.workspace), config.export)
    else:
        discovery = discover_kept(config, source=source)
        warn_of_losses(discovery.warnings)
        details = describe_differences(discovery.differences)
        if config.out is not None:
            rows = write_url_table(discovery, config.out)
        else:
            use_utf_8(sys.stdout)
            rows = write_url_lines(discovery, sys.stdout)
    written = config.export or config.out
    return StageReport(
        stage="scrape",
        outcome="done",
        counts={"urls": rows},
        outputs=(str(written),) if written else (),
        details=details,
    )


def export_ledger(workspace: Workspace, out: Path) -> int:
    """Write the ledger's view `items` as Parquet, sorted by section and key; returns the number of rows.

    Raises ContractError if there is no ledger, StorageError if `out` can't be written.
    """
    return write_table(read_items(workspace), LEDGER_ITEMS, out)


def read_items(
    workspace: Workspace, *, where: str = "", parameters: Sequence[object] = ()
) -> Iterator[tuple[object, ...]]:
    """The rows of the ledger's view `items` with the columns `LEDGER_ITEMS`, sorted by section and key.

    `where` is an SQL condition with `?` for each of `parameters`. Raises ContractError if there is no ledger.
    """
    ledger = Ledger(workspace.ledger)
    there = ledger.columns("items")  # earlier ledgers have fewer
    columns = ", ".join(
        f'"{column.name}"' if column.name in there else f'NULL AS "{column.name}"'
        for column in LEDGER_ITEMS
    )
    condition = f"WHERE {where}" if where else ""
    try:
        yield from ledger.query(
            f'SELECT {columns} FROM items {condition} ORDER BY "section", "key"', *parameters
        )
    finally:
        ledger.close()


def discover_kept(config: ScrapeConfig, *, source: Source | None = None) -> Discovery:
    """What the source has, without using the network.

    The page is read from the raw store of an earlier run; without one, the built-in captions are listed.
    """
    source = source or open_source(config)
    page = None
    if source.start_url is not None:
        page = kept_page(Workspace(config.workspace), source.start_url)
        if page is None:
            _log.warning(
                "%s has not been fetched yet: only the built-in captions are listed. Give a saved page with "
                "--page FILE to list what it shows.",
                take_credentials(source.start_url).url,
            )
    discovery = source.discover(page)
    if not config.ignore_opt_out:
        refuse_reserved_page(discovery.page_meta, page_name(source, discovery), USER_AGENT)
    return discovery


def list_urls(discovery: Discovery) -> Iterator[ListedUrl]:
    """Every URL by the first form of its caption, lazily."""
    for plan in discovery.plans:
        caption = storable(plan.forms[0].caption)
        form = OpenForm(caption, address_of(plan.forms[0], plan.key_prefix or plan.section))
        has_rank = form.address.suffix is not None
        for rank in plan.ranks if has_rank else plan.ranks[:1]:
            shown = rank if has_rank else plan.rank
            yield ListedUrl(storable(plan.section), caption, shown, form.url(rank))


def use_utf_8(stream: IO[str]) -> None:
    """Write UTF-8 whatever the terminal's encoding is: the readers are programs."""
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(encoding="utf-8", errors="backslashreplace")


def write_url_lines(discovery: Discovery, stream: IO[str]) -> int:
    """Write lines `section⇥caption⇥rank⇥url`; returns their number.

    Control characters are escaped, so that each record stays on one line and a terminal doesn't act on it.
    """
    number = 0
    for listed in list_urls(discovery):
        stream.write(
            "\t".join(plain_line("" if field is None else str(field)) for field in listed) + "\n"
        )
        number += 1
    return number


def write_url_table(discovery: Discovery, out: Path) -> int:
    """Write the same as Parquet; returns the number of rows."""
    return write_table(list_urls(discovery), URL_LIST, out)


def write_table(rows: Iterator[tuple[object, ...]], columns: tuple[Column, ...], out: Path) -> int:
    """Write rows as Parquet in batches, so that memory stays constant; returns their number."""
    schema = arrow_schema(columns)
    number = 0
    with (
        write_output(out, kind="parquet file", magic=b"PAR1") as output,
        pq.ParquetWriter(output.file, schema, compression="zstd") as writer,
    ):
        while batch := list(islice(rows, _ROWS)):
            number += len(batch)
            arrays = [
                pa.array(values, field.type)
                for values, field in zip(zip(*batch, strict=True), schema, strict=True)
            ]
            writer.write_batch(pa.record_batch(arrays, schema=schema))
    return number

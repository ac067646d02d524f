"""Lists of URLs: how fast they are read, filtered and planned, and in how much memory.

    python bench/sources.py [--rows 10000000] [--formats tsv parquet csv jsonl] [--folder PATH]

A list of so many rows is written first, with as many hosts as a published one: rows of 10,000 hosts, 1 % of
them broken. **plan** is the pass before the first request: every row is read, filtered by `--where`, its URL
checked, its host counted. **take** is the second pass, in which a crawl takes its plans one after another;
the first 200,000 are measured. Each runs in a process of its own; memory is its peak.
"""

from __future__ import annotations

import argparse
import json
import logging
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).parents[1]))

from scrapers.sources.urls.config import UrlsConfig
from scrapers.sources.urls.source import UrlsSource

ROWS_AT_ONCE = 100_000
TAKEN = 200_000
WHERE = "width >= 256 and punsafe < 0.9"
WORDS = "a photo of an old wooden table with two cups of tea and some books on it"

Row = tuple[str, str, int, float]


def rows(start: int, stop: int) -> Iterator[Row]:
    """Rows as in a published list: URL, caption, width, score."""
    for number in range(start, stop):
        host = f"h{number * 7919 % 10_000}.example.com"
        url = f"https://{host}/images/{number // 997:x}/{number:08d}.jpg"
        broken = number % 100 == 99
        yield (
            "not a url" if broken else url,
            f"{WORDS}, number {number}",
            200 + number % 1000,
            number % 97 / 97,
        )


def write_list(path: Path, count: int) -> None:
    """Write the list in the format that its suffix names."""
    kind = path.suffix[1:]
    if kind == "parquet":
        _write_parquet(path, count)
        return
    with path.open("w", encoding="utf-8") as file:
        if kind in ("tsv", "csv"):
            file.write(
                {"tsv": "url\tcaption\twidth\tpunsafe\n", "csv": "url,caption,width,punsafe\n"}[
                    kind
                ]
            )
        for url, caption, width, score in rows(0, count):
            if kind == "tsv":
                file.write(f"{url}\t{caption}\t{width}\t{score:.4f}\n")
            elif kind == "csv":
                file.write(f'{url},"{caption}",{width},{score:.4f}\n')
            else:
                row = {"url": url, "caption": caption, "width": width, "punsafe": score}
                file.write(json.dumps(row) + "\n")


def _write_parquet(path: Path, count: int) -> None:
    schema = pa.schema(
        [
            ("url", pa.string()),
            ("caption", pa.string()),
            ("width", pa.int32()),
            ("punsafe", pa.float32()),
        ]
    )
    with pq.ParquetWriter(path, schema, compression="snappy") as writer:
        for start in range(0, count, ROWS_AT_ONCE):
            columns = zip(*rows(start, min(start + ROWS_AT_ONCE, count)), strict=True)
            arrays = [pa.array(c, f.type) for c, f in zip(columns, schema, strict=True)]
            writer.write_batch(pa.record_batch(arrays, schema=schema), row_group_size=1_000_000)


def measure(path: Path) -> None:
    """Read the list as `pipeline scrape urls` does; prints one JSON line."""
    logging.disable(logging.WARNING)
    source = UrlsSource(UrlsConfig(source="urls", inputs=(str(path),), where=WHERE))
    started, cpu = time.perf_counter(), time.process_time()
    found = source.discover(None)
    planned_s, cpu_s = time.perf_counter() - started, time.process_time() - cpu
    started = time.perf_counter()
    taken = sum(1 for _ in islice(found.plans, TAKEN))
    taken_s = time.perf_counter() - started
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    line = {
        "planned_s": planned_s,
        "cpu_s": cpu_s,
        "urls": found.num_urls,
        "take_rate": taken / taken_s,
        "peak_mb": peak_mb,
    }
    print(json.dumps(line))


def main() -> None:
    """Write the lists and measure each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--formats", nargs="+", default=["tsv", "parquet", "csv", "jsonl"])
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure is not None:
        measure(given.measure)
        return
    print(f"{given.rows:,} rows, --where {WHERE!r}")
    head = ("format", "MB", "plan rows/s", "per CPU s", "take rows/s", "peak MB")
    print("{:8}  {:>7}  {:>12}  {:>10}  {:>12}  {:>8}  used".format(*head))
    for kind in given.formats:
        with tempfile.TemporaryDirectory(dir=given.folder) as folder:
            path = Path(folder) / f"list.{kind}"
            write_list(path, given.rows)
            command = [sys.executable, __file__, "--measure", str(path)]
            found = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
            print(
                f"{kind:8}  {path.stat().st_size / 1e6:7,.0f}  {given.rows / found['planned_s']:12,.0f}  "
                f"{given.rows / found['cpu_s']:10,.0f}  "
                f"{found['take_rate']:12,.0f}  {found['peak_mb']:8,.0f}  {found['urls']:,}",
                flush=True,
            )


if __name__ == "__main__":
    main()

"""How fast a folder is listed and indexed: files a second of CPU time, with and without the hash.

    python -m bench.folder [--pairs 100000] [--kb 17]

Each pair is an image and a text of one line. `listed` finds, pairs and reads the texts; `indexed` also reads
and hashes the images and writes the ledger; `again` finds everything unchanged. SHA-256 alone is beside them.
"""

from __future__ import annotations

import argparse
import hashlib
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from scrapers.options import build_config
from scrapers.scrape import scrape
from scrapers.sources.folder.source import FolderSource
from scrapers.sources.remarks import Remarks

_HEAD = b"\x89PNG\r\n\x1a\n"
_TAIL = b"\x00\x00\x00\x00IEND\xaeB`\x82"


def main() -> None:
    """Print a line for each measurement."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=100_000)
    parser.add_argument("--kb", type=int, default=17)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "photos"
        folder.mkdir()
        for number in range(given.pairs):
            body = number.to_bytes(8, "big") * (given.kb * 128)
            (folder / f"{number:08d}.png").write_bytes(_HEAD + body + _TAIL)
            (folder / f"{number:08d}.txt").write_text(f"caption {number}")
        values = {"source": "folder", "inputs": (str(folder),), "workspace": Path(name) / "w"}
        config = build_config(values)
        source = FolderSource(config)  # type: ignore[arg-type]
        _measure("listed", given.pairs, lambda: sum(1 for _ in source.items_on_disk(Remarks())))
        _measure("indexed", given.pairs, lambda: scrape(config))
        _measure("again", given.pairs, lambda: scrape(config))
        block = bytes(given.kb * 1000)
        _measure("sha256", given.pairs, lambda: [hashlib.sha256(block) for _ in range(given.pairs)])
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(f"peak memory {peak_mb} MB")


def _measure(what: str, pairs: int, work: Callable[[], object]) -> None:
    started, cpu = time.monotonic(), time.process_time()
    work()
    seconds, cpu_s = time.monotonic() - started, time.process_time() - cpu
    print(
        f"{what:8} {2 * pairs / cpu_s:9,.0f} files/s of CPU time, {2 * pairs / seconds:9,.0f} of the clock"
    )


if __name__ == "__main__":
    main()

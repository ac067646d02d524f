"""One crawl of a list of many hosts, a process of its own: every name is at an address of this machine.

python bench/many_hosts_ours.py LIST WORKSPACE ADDRESSES RATE SLOW

`ADDRESSES` is the number of addresses from 127.0.0.1 on that the names are spread over, `RATE` that of
`--rate` (0: none), `SLOW` the seconds that a name lookup takes.
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import sys
import zlib
from pathlib import Path

sys.path.insert(1, str(Path(__file__).parents[1]))

from aiohttp.abc import AbstractResolver, ResolveResult

from scrapers.config import ScrapeConfig
from scrapers.fetch.client import Client
from scrapers.scrape import scrape
from scrapers.sources.urls.config import UrlsConfig


class FakeResolver(AbstractResolver):
    """Every name has one of a few addresses of this machine."""

    def __init__(self, num_addresses: int, slow_s: float) -> None:
        self.num_addresses = num_addresses
        self.slow_s = slow_s

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """The address of a name, after a while."""
        del family
        if self.slow_s:
            await asyncio.sleep(self.slow_s)
        address = f"127.0.0.{zlib.crc32(host.encode()) % self.num_addresses + 1}"
        return [
            ResolveResult(
                hostname=host, host=address, port=port, family=socket.AF_INET, proto=0, flags=0
            )
        ]

    async def close(self) -> None:
        """Nothing to release."""


def main() -> None:
    """Crawl, and print the counts."""
    listed, folder, addresses, rate, slow = sys.argv[1:]
    logging.disable(logging.WARNING)

    def make_client(config: ScrapeConfig) -> Client:
        del config
        resolver = FakeResolver(int(addresses), float(slow))
        return Client(user_agent="dalle-pipeline/bench", resolver=resolver)

    config = UrlsConfig(
        source="urls", inputs=(listed,), workspace=Path(folder), rate=float(rate) or None
    )
    report = scrape(config, make_client=make_client)
    print(json.dumps(report.counts))


if __name__ == "__main__":
    main()

"""The announcement of a crawl of a real site, logged before its first image is requested.

Sites on this machine or network are not announced. The crawl doesn't wait for a reply:
whoever reads the announcement and presses Ctrl-C has lost nothing.
"""

from __future__ import annotations

import ipaddress
import logging

from pipeline.core.estimate import Estimate, memory_so_far
from pipeline.core.quantities import size
from pipeline.core.workspace import Workspace
from scrapers.config import ScrapeConfig
from scrapers.fetch.hosts import Hosts
from scrapers.fetch.redirects import is_public_address
from scrapers.fetch.request_url import parse_address
from scrapers.fetch.response import FetchError
from scrapers.rawstore.ledger import Ledger
from scrapers.source import Discovery

logger = logging.getLogger(__name__)

# Size of an image and duration of a request, while nothing is known yet.
_IMAGE_BYTES = 100_000
_ANSWER_S = 0.25
# What a crawl keeps in memory beside its URLs, and for each of them (docs/benchmarks.md, "Scrape").
_MEMORY_BYTES, _URL_MEMORY_BYTES = 30_000_000, 40
# With fewer stored images than this, their mean size is not used.
_ENOUGH_IMAGES = 32
# Suffixes that are never on the public internet (RFC 6761, RFC 8375, RFC 9476); nor are names without a dot.
_PRIVATE_SUFFIXES = (
    ".localhost", ".local", ".test", ".invalid", ".example", ".internal", ".lan", ".home.arpa", ".alt",
)  # fmt: skip


def estimate_crawl(config: ScrapeConfig, discovery: Discovery, ledger: Ledger) -> Estimate:
    """What the crawl takes, where the URLs that are not decided have the size of the stored images."""
    decided, image_bytes = _decided_and_size(ledger)
    left = max(0, discovery.num_urls - decided)
    return Estimate(
        stage="scrape",
        work=f"request up to {left:,} URLs",
        folder=Workspace(config.workspace).raw,
        disk_bytes=left * image_bytes,
        memory_bytes=memory_so_far() + _MEMORY_BYTES + discovery.num_urls * _URL_MEMORY_BYTES,
    )


async def announce(
    config: ScrapeConfig,
    discovery: Discovery,
    hosts: Hosts,
    ledger: Ledger,
    *,
    url: str | None = None,
) -> None:
    """Log how many requests a real site will get, at which pace and from whom.

    `url` is on the host that gets them, if that is not the one that the plans name. Of several hosts it is
    the one with most of the URLs.
    """
    share = 1.0
    if url is None and discovery.busiest is not None:
        origin, number = discovery.busiest
        url, share = f"{origin}/", number / discovery.num_urls
    url = url or _first_url(discovery)
    asked = f"http://{config.connect_to}/" if config.connect_to else url
    if url is None or asked is None or not is_public_name(_host_of(asked)):
        return
    host = hosts.of(url)
    await hosts.load(host)  # its robots.txt may ask for a slower pace
    if host.closed is not None:
        return
    decided, image_bytes = _decided_and_size(ledger)
    if share < 1.0:
        logger.info(
            "%s URLs on %s hosts are named; most of them are on %s.",
            f"{discovery.num_urls:,}",
            f"{discovery.num_hosts:,}",
            _host_of(url),
        )
    logger.info(
        describe(
            site=_host_of(url),
            num_urls=round(discovery.num_urls * share),
            num_decided=round(min(decided, discovery.num_urls) * share),
            image_bytes=image_bytes,
            interval_s=host.pace.interval_s,
            slots=hosts.max_slots,
            contact=config.contact,
        )
    )


def describe(
    *,
    site: str,
    num_urls: int,
    num_decided: int,
    image_bytes: float,
    interval_s: float,
    slots: int,
    contact: str | None,
) -> str:
    """The announcement. `interval_s` is the time between two requests, 0 if only `slots` limits them."""
    left = num_urls - num_decided
    known = f" ({num_decided:,} more are known already)" if num_decided else ""
    seconds = left * max(interval_s, _ANSWER_S / slots)
    pace = (
        f"at one request every {interval_s:g} s"
        if interval_s > _ANSWER_S / slots
        else f"with up to {slots} concurrent requests, if a response takes {_ANSWER_S:g} s"
    )
    who = (
        f"The contact {contact} is sent along."
        if contact
        else "No contact is sent: give --contact."
    )
    return (
        f"About to request up to {left:,} URLs from {site}{known}: about {size(left * image_bytes)}, about "
        f"{seconds / 3600:,.1f} hours {pace}. {who} Ctrl-C loses nothing: the same command resumes."
    )


def is_public_name(host: str) -> bool:
    """Whether a host is on the public internet, judging by its name or address; no DNS lookup."""
    host = host.rstrip(".").lower()
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return "." in host and not host.endswith(_PRIVATE_SUFFIXES)
    return is_public_address(host)


def _host_of(url: str) -> str:
    """The host of a URL as it is requested; empty if there is none."""
    try:
        return parse_address(url).host
    except FetchError:
        return ""


def _first_url(discovery: Discovery) -> str | None:
    """The URL of the first image."""
    plan = next(iter(discovery.plans), None)
    return None if plan is None else plan.forms[0].url(plan.ranks[0] if plan.ranks else 0)


def _decided_and_size(ledger: Ledger) -> tuple[int, float]:
    """The number of decided URLs, and the bytes of an image: of the stored ones, if they are enough."""
    counts = ledger.count_states()
    ((stored_bytes,),) = ledger.query("SELECT coalesce(sum(bytes), 0) FROM urls")
    known = counts["done"] >= _ENOUGH_IMAGES
    mean = int(str(stored_bytes)) / counts["done"] if known else _IMAGE_BYTES
    return counts.total() - counts["pending"], mean

"""The page that a source starts from: asked for once, kept beside the ledger, read from there later.

Writes `raw/page.html`, the bytes as they came, and `raw/page.json`, which says whence.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from pipeline.errors import ContractError, SourceError
from pipeline.parsing import parse_json_file, read_small_file
from pipeline.storage import sha256_bytes, write_bytes, write_json
from pipeline.workspace import Workspace
from scrapers.answer import Answer, FetchError
from scrapers.client import Client
from scrapers.config import ScrapeConfig
from scrapers.hosts import Hosts
from scrapers.optouts.page import page_refusal
from scrapers.politeness import parse_retry_after
from scrapers.source import Discovery, Source

MAX_PAGE_BYTES = 64 * 2**20
_MAX_WAIT_S = 60.0


@dataclass(frozen=True, kw_only=True)
class PageNote:
    """What `page.json` says of `page.html`."""

    url: str
    sha256: str


class PageRefusedError(SourceError):
    """A page that does not want to be used; an older copy of it is no way around that."""


def kept_page(workspace: Workspace, url: str) -> bytes | None:
    """The page of `url` as an earlier run got it, None if there is none."""
    try:
        note = parse_json_file(workspace.raw / "page.json", PageNote)
        body = read_small_file(workspace.raw / "page.html", max_bytes=MAX_PAGE_BYTES)
    except ContractError:
        return None
    return body if (note.url, note.sha256) == (url, sha256_bytes(body)) else None


def keep_page(workspace: Workspace, url: str, body: bytes, *, address: str | None = None) -> None:
    """Keep the page for later runs; `address` is where it came from, if not from its `url`."""
    write_bytes(workspace.raw / "page.html", body)
    note = {"url": url, "sha256": sha256_bytes(body)}
    write_json(
        workspace.raw / "page.json", note if address is None else {**note, "final_url": address}
    )


async def fetch_page(url: str, client: Client, hosts: Hosts, *, attempts: int) -> bytes:
    """Ask for the page, again while it seems worth it.

    Raises SourceError in a sentence if it can't be had.
    """
    if not await hosts.allows(url):
        host = hosts.of(url)
        why = (
            f"{host.origin} can't be reached, or gives no robots.txt"
            if host.closed is not None
            else f"{host.origin}/robots.txt does not allow {url}"
            if (refusal := hosts.refusal(url)) is None or refusal.signal == "robots.txt"
            else f"{url} is not to be used ({refusal})"
        )
        raise SourceError(
            f"{why}. Check the address and try again later, or use a saved page (--page FILE) or the "
            "built-in catalogue (--no-page)."
        )
    trouble = ""
    for attempt in range(1, attempts + 1):
        wait_s = hosts.backoff.delay_s(attempt, hosts.rng)
        try:
            answer = await client.get(url, max_bytes=MAX_PAGE_BYTES, allow_hop=hosts.allow_hop)
        except FetchError as error:
            trouble = f"{error.reason} ({error})"
            if not error.retry or error.reason == "too_large":
                break
        else:
            if answer.status == 200 and (answer.signals.refusal is None or hosts.ignore_opt_out):
                return answer.body
            trouble = _say(answer)
            if answer.status not in (408, 425, 429) and answer.status < 500:
                break
            wait_s = max(wait_s, min(parse_retry_after(answer.retry_after) or 0.0, _MAX_WAIT_S))
        if attempt < attempts:
            await asyncio.sleep(wait_s)
    raise SourceError(
        f"The page {url} can't be had: {trouble}. What was fetched before is untouched. Try again "
        "later, or use a saved page (--page FILE) or the built-in catalogue (--no-page)."
    )


def page_name(config: ScrapeConfig, source: Source) -> str:
    """What the page is called: its address, or its file."""
    return source.start_url or str(config.page or config.page_url or source.name)


def refuse_reserved_page(discovery: Discovery, url: str, agent: str) -> None:
    """Raise PageRefusedError for a page whose own <meta> refuse the use of its captions and images."""
    refusal = page_refusal(discovery.page_meta, agent=agent, url=url)
    if refusal is not None:
        raise PageRefusedError(
            f"The page {url} does not want its captions and images to be used: {refusal.text}. Nothing of it "
            "was kept; --ignore-opt-out would use it, --no-page uses the built-in catalogue alone."
        )


def _say(answer: Answer) -> str:
    if answer.status == 200:
        return f"it asks robots to stay away ({answer.signals.refusal}); --ignore-opt-out would fetch it"
    return f"status {answer.status}, expected 200"

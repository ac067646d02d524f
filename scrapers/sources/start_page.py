"""The start page of a source: fetched once, kept beside the ledger, read from there later.

Writes `raw/page.html`, the bytes as they came, and `raw/page.json`, their origin.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass

from pipeline.core.errors import ContractError, SourceError
from pipeline.core.parsing import parse_json_file, read_small_file
from pipeline.core.storage import sha256_bytes, write_bytes, write_json
from pipeline.core.workspace import Workspace
from scrapers.fetch.client import Client
from scrapers.fetch.hosts import Hosts
from scrapers.fetch.optouts.page import Meta, page_refusal
from scrapers.fetch.pace import parse_retry_after
from scrapers.fetch.page_urls import take_credentials
from scrapers.fetch.response import FetchError, Response
from scrapers.source import Discovery, Source, StartPage
from scrapers.sources.saved_page import MAX_PAGE_BYTES

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class PageNote:
    """The content of `page.json` about `page.html`: `base_url` is its final URL, if not `url`."""

    url: str
    sha256: str
    base_url: str | None = None
    content_type: str | None = None


class PageRefusedError(SourceError):
    """The page refuses to be used; using an older copy would be no way around that."""


def kept_page(workspace: Workspace, url: str) -> StartPage | None:
    """The page at `url` as an earlier run fetched it, None if there is none."""
    url = take_credentials(url).url
    try:
        note = parse_json_file(workspace.raw / "page.json", PageNote)
        body = read_small_file(workspace.raw / "page.html", max_bytes=MAX_PAGE_BYTES)
    except ContractError:
        return None
    if (note.url, note.sha256) != (url, sha256_bytes(body)):
        return None
    return StartPage(body=body, url=note.base_url or url, content_type=note.content_type)


def keep_page(
    workspace: Workspace, url: str, page: StartPage, *, address: str | None = None
) -> None:
    """Keep the page for later runs; `address` is where it came from, if not from its `url`."""
    url = take_credentials(url).url
    write_bytes(workspace.raw / "page.html", page.body)
    facts = {
        "url": url,
        "sha256": sha256_bytes(page.body),
        "final_url": address,
        "base_url": None if page.url == url else page.url,
        "content_type": page.content_type,
    }
    write_json(
        workspace.raw / "page.json", {n: fact for n, fact in facts.items() if fact is not None}
    )


async def fetch_page(url: str, client: Client, hosts: Hosts, *, attempts: int) -> StartPage:
    """Fetch the page, with retries. User and password of `url` are sent to its host only.

    Raises SourceError with a sentence if it can't be fetched.
    """
    with_credentials, url = url, take_credentials(url).url
    if not await hosts.allows(url):
        raise SourceError(
            f"{hosts.why_not(url)}. Check the URL and try again later, or use a saved page "
            "(--page FILE) or the built-in catalogue (--no-page)."
        )
    trouble = ""
    for attempt in range(1, attempts + 1):
        wait_s = hosts.backoff.delay_s(attempt, hosts.rng)
        try:
            response = await client.get(
                with_credentials, max_bytes=MAX_PAGE_BYTES, allow_hop=hosts.allow_hop
            )
        except FetchError as error:
            trouble = f"{error.reason} ({error})"
            if error.reason == "too_large":
                trouble = f"it is larger than the limit of {MAX_PAGE_BYTES:,} bytes"
            if not error.retry or error.reason == "too_large":
                break
        else:
            if response.status == 200 and (
                response.signals.refusal is None or hosts.ignore_opt_out
            ):
                return _page_of(response)
            trouble = _describe(response)
            if response.status not in (408, 425, 429) and response.status < 500:
                break
            asked_s = parse_retry_after(response.retry_after) or 0.0
            if asked_s > hosts.max_outage_s:
                trouble += f"; {hosts.too_long(asked_s)}"
                break
            wait_s = max(wait_s, asked_s)
        if attempt < attempts:
            logger.warning("%s: %s. Trying again in %.1f s.", url, trouble, wait_s)
            await asyncio.sleep(wait_s)
    raise SourceError(
        f"The page {url} can't be fetched: {trouble}. What was fetched before is untouched. Try again "
        "later, or use a saved page (--page FILE) or the built-in catalogue (--no-page)."
    )


def _page_of(response: Response) -> StartPage:
    url = take_credentials(response.final_url).url
    return StartPage(body=response.body, url=url, content_type=response.headers.get("content-type"))


def page_name(source: Source, discovery: Discovery | None = None) -> str:
    """The name of the page in messages: its URL without user and password, or its file."""
    if source.start_url is not None:
        return take_credentials(source.start_url).url
    return (discovery and discovery.page_name) or source.name


def refuse_reserved_page(meta: Meta, url: str, agent: str) -> None:
    """Raise PageRefusedError for a page whose <meta> elements refuse the use of its captions and images."""
    refusal = page_refusal(meta, agent=agent, url=url)
    if refusal is not None:
        raise PageRefusedError(
            f"The page {url} opts out of any use of its captions and images: {refusal.text}. None of it was "
            "kept. --ignore-opt-out would use it anyway; --no-page uses only the built-in catalogue."
        )


def _describe(response: Response) -> str:
    if response.status == 200:
        return f"it asks robots to stay away ({response.signals.refusal}); --ignore-opt-out would fetch it"
    return f"status {response.status}, expected 200"

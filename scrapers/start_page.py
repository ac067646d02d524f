"""The page that a source starts from: asked for once, kept beside the ledger, read from there later.

Writes `raw/page.html`, the bytes as they came, and `raw/page.json`, which says whence.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass

from pipeline.errors import ContractError, SourceError
from pipeline.parsing import parse_json_file, read_small_file
from pipeline.storage import sha256_bytes, write_bytes, write_json
from pipeline.workspace import Workspace
from scrapers.answer import Answer, FetchError
from scrapers.client import Client
from scrapers.hosts import Hosts
from scrapers.politeness import parse_retry_after

MAX_PAGE_BYTES = 64 * 2**20

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class PageNote:
    """What `page.json` says of `page.html`."""

    url: str
    sha256: str


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
        why = f"{host.origin}/robots.txt does not allow {url}" if host.closed is None else host.why
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
            if answer.status == 200 and (answer.opt_out is None or hosts.ignore_opt_out):
                return answer.body
            trouble = _say(answer)
            if answer.status not in (408, 425, 429) and answer.status < 500:
                break
            asked_s = parse_retry_after(answer.retry_after) or 0.0
            if asked_s > hosts.max_outage_s:
                trouble += f"; {hosts.too_long(asked_s)}"
                break
            wait_s = max(wait_s, asked_s)
        if attempt < attempts:
            logger.warning("%s: %s. It is asked for again in %.1f s.", url, trouble, wait_s)
            await asyncio.sleep(wait_s)
    raise SourceError(
        f"The page {url} can't be had: {trouble}. What was fetched before is untouched. Try again "
        "later, or use a saved page (--page FILE) or the built-in catalogue (--no-page)."
    )


def _say(answer: Answer) -> str:
    if answer.status == 200:
        return f"it asks robots to stay away ({answer.opt_out}); --ignore-opt-out would fetch it"
    return f"status {answer.status}, expected 200"

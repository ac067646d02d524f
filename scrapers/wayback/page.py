"""A web archive's copy of a source's page: the newest one that can be read."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from pipeline.core.errors import SourceError
from scrapers.fetch.response import Response
from scrapers.source import Discovery
from scrapers.sources.start_page import PageRefusedError
from scrapers.wayback.asking import Asker, ExcludedError
from scrapers.wayback.captures import replay_address
from scrapers.wayback.query import Endpoints, IndexPage, IndexRow, index_query
from scrapers.wayback.replay import Replay, is_own_page

# The newest capture, and the first of each year if that can't be read.
_MAX_CAPTURES = 12
# Pages of the index about the page.
_MAX_LISTS = 12
_KINDS = ("text/html", "application/xhtml", "warc/revisit")


@dataclass(frozen=True, kw_only=True)
class ArchivedPage:
    """Requests an archive's captures of a page; `ask_index` queries its index."""

    endpoints: Endpoints
    replay: Replay
    asker: Asker
    ask_index: Callable[[str], Awaitable[IndexPage]]

    async def fetch(
        self, url: str, read: Callable[[bytes], Discovery]
    ) -> tuple[bytes, Discovery, str]:
        """The newest capture that `read` understands: body, the result of `read`, its URL.

        Raises SourceError if there is none.
        """
        wanted = _captures_to_try(await self._list(url))
        trouble = "its index has no good capture of it."
        for row in wanted:
            try:
                response = await self._fetch_capture(row)
                return response.body, read(response.body), response.final_url
            except (PageRefusedError, ExcludedError):
                raise
            except SourceError as error:
                if self.asker.is_given_up:
                    raise
                trouble = f"none of {len(wanted)} captures could be read, the last: {error}"
        raise SourceError(
            f"The archive {self.asker.base} has no usable copy of the page {url}: {trouble} Use a saved page "
            "(--page FILE) or the built-in catalogue (--no-page)."
        )

    async def _list(self, url: str) -> list[IndexRow]:
        rows: list[IndexRow] = []
        key = None
        for _ in range(_MAX_LISTS):
            query = index_query(self.endpoints, url, prefix=False, resume_key=key)
            page = await self.ask_index(query)
            rows += page.rows
            key = page.resume_key
            if key is None:
                break
        return rows

    async def _fetch_capture(self, row: IndexRow) -> Response:
        address = replay_address(self.endpoints.replay_url, row)

        def read(response: Response) -> Response:
            if row.digest is not None and is_own_page(response, row.digest):
                raise ValueError("a page of the archive's own, not the recorded one")
            response = self.replay.read(response)
            refusal = response.signals.refusal or self.replay.own_refusal(response)
            if refusal is not None and not self.asker.hosts.ignore_opt_out:
                raise PageRefusedError(
                    f"{address} asks robots to stay away ({refusal}); --ignore-opt-out would use it."
                )
            return response

        return await self.asker.ask(
            address, read, allow_hop=self.replay.allow_redirect, quiet_s=self.replay.quiet_s
        )


def _captures_to_try(rows: list[IndexRow]) -> list[IndexRow]:
    """The newest capture, then the first of each year, newest first."""
    pages = [row for row in rows if row.is_good and row.mimetype.startswith(_KINDS)]
    pages.sort(key=lambda row: row.timestamp)
    first_of_year = {row.timestamp[:4]: row for row in reversed(pages)}
    wanted = [*pages[-1:], *sorted(first_of_year.values(), reverse=True)]
    return list(dict.fromkeys(wanted))[:_MAX_CAPTURES]

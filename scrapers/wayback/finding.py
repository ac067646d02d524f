"""Locate the index of a web archive: try each place where archives have one."""

from __future__ import annotations

from typing import Protocol

from pipeline.core.errors import SourceError
from scrapers.fetch.response import Response
from scrapers.wayback.asking import NoResponseError, Read, ReadResponse
from scrapers.wayback.query import Endpoints, dialect_of, places_to_look, probe_query


class AskPlace(Protocol):
    """Queries a URL where an index may be. Raises SourceError."""

    async def __call__(self, query: str, read: ReadResponse[Read], /) -> Read:
        """The result of `read`."""


async def look_for_index(base: str, url: str, ask: AskPlace) -> Endpoints:
    """The first place whose index has something that begins with `url`, else the first that is an index.

    Raises SourceError if none is, or if the archive is in trouble.
    """
    troubles = []
    empty = None
    for index_url, replay_url in places_to_look(base):

        def read(
            response: Response, index_url: str = index_url, replay_url: str = replay_url
        ) -> tuple[Endpoints, bool]:
            dialect = dialect_of(response.body, response.headers.get("content-type"))
            return Endpoints(index_url, replay_url, dialect), bool(response.body.strip())

        try:
            found, has_rows = await ask(probe_query(index_url, url), read)
            if has_rows:
                return found
            # pywb responds like this for collections that don't exist, too.
            empty = empty or found
        except NoResponseError as error:
            troubles.append(f"{index_url} returns {error.trouble.text}")
            if not error.trouble.is_elsewhere:
                raise
    if empty is not None:
        return empty
    raise SourceError(
        f"No index was found at {base}: {'; '.join(troubles)}. Give as --archive-url the part "
        "before /web/ or before the timestamp in the URLs of its captures, such as https://web.archive.org "
        "or https://wayback.archive-it.org/1068."
    )

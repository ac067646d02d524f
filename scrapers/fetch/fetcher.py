"""What fetches: one contract for the client's own connections (`lanes`) and for aiohttp's (`session`).

A fetcher asks one thing at one origin and gives the answer whole, or raises `FetchError`. It follows
no redirect and keeps no cookie: the client does both, in the same way over each.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from scrapers.fetch.request_url import WebAddress
from scrapers.fetch.response import FetchError
from scrapers.fetch.response_head import Headers

# The body of an answer that is no 200 is read up to this length: it may say why, and the connection is kept.
DRAINED_BYTES = 64 * 1024
CONNECT_S = 15.0


class Reply(NamedTuple):
    """An answer as it came; the body is whole if the status is 200, else empty if it is long.

    `codings` were put upon the body for the way and are still to be undone, the last one first.
    """

    status: int
    headers: Headers
    body: bytes
    codings: tuple[str, ...] = ()


class Endpoint(Protocol):
    """One origin and what all requests there have in common."""

    async def ask(
        self, target: str, fields: str, max_bytes: int, quiet_s: float | None = None
    ) -> Reply:
        """Ask for `target`; `fields` are more lines of the head. Raises FetchError.

        A body of which nothing more comes for `quiet_s` has ended early.

        A kept connection that had been closed when it was asked is no error: another one is tried.
        """


class Fetcher(Protocol):
    """Makes endpoints."""

    def endpoint(self, address: WebAddress, *, fields: str, public_only: bool) -> Endpoint:
        """The endpoint of an address' origin; `fields` are the lines of each of its requests.

        `public_only`: never connected to at a private address.
        """

    async def close(self) -> None:
        """End all connections."""


def too_large(found: str, max_bytes: int) -> FetchError:
    """The error for a body that is not taken."""
    return FetchError("too_large", f"{found}, at most {max_bytes} are taken", retry=True)


def ended_quietly(quiet_s: float | None) -> FetchError:
    """The error for a body that is shorter than was announced, on a connection that is held open."""
    return FetchError("truncated", f"no more of the body came for {quiet_s:g} s")

"""The interface of our own connections (`connections`) and of aiohttp's (`session`).

A fetcher makes one request at one origin and returns the whole response, or raises `FetchError`. It follows
no redirects and keeps no cookies: the client does both, the same way for each.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from scrapers.fetch.request_url import WebAddress
from scrapers.fetch.response import FetchError
from scrapers.fetch.response_head import Headers
from scrapers.fetch.sending import SendGate

# The body of a response other than 200 is read up to this length: it may explain, and the connection is kept.
DRAINED_BYTES = 64 * 1024
CONNECT_S = 15.0


class Reply(NamedTuple):
    """A raw response; the body is complete if the status is 200, otherwise empty if it is long.

    `latency_s` is the time from writing the request until the head was complete.
    `codings` are transfer codings that are still to be undone, the last one first.
    """

    status: int
    headers: Headers
    body: bytes
    latency_s: float
    codings: tuple[str, ...] = ()


class Endpoint(Protocol):
    """One origin, with what all its requests have in common."""

    async def ask(
        self,
        target: str,
        fields: str,
        max_bytes: int,
        *,
        quiet_s: float | None = None,
        gate: SendGate | None = None,
    ) -> Reply:
        """Request `target`; `fields` are more lines of the head. Raises FetchError.

        A body that stalls for `quiet_s` has ended early. The time that the request waits at its `gate`
        doesn't count.

        A kept connection that turns out to be closed is no error: another one is tried.
        """


class Fetcher(Protocol):
    """Creates endpoints."""

    def endpoint(self, address: WebAddress, *, fields: str, public_only: bool) -> Endpoint:
        """The endpoint of a URL's origin; `fields` are lines of each of its requests.

        `public_only`: never connect to a private address.
        """

    async def close(self) -> None:
        """Close all connections."""


def too_large(found: str, max_bytes: int) -> FetchError:
    """The error for a body that is too large."""
    return FetchError("too_large", f"{found}, more than the limit of {max_bytes}", retry=True)


def body_stalled(quiet_s: float | None) -> FetchError:
    """The error for a body that is shorter than announced, on a connection that stays open."""
    return FetchError("truncated", f"the body stalled for {quiet_s:g} s")

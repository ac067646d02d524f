"""The result of a request: a response, or the reason why there is none."""

from __future__ import annotations

from typing import NamedTuple

from scrapers.fetch.optouts.headers import HeaderSignals
from scrapers.fetch.optouts.signals import Refusal
from scrapers.fetch.response_head import Headers
from scrapers.fetch.verdict import HostSign


class Response(NamedTuple):
    """A response. `body` is decoded and within the limit; unless the status is 200, empty if it is long.

    `latency_s` is the time from writing the request until the head was complete, that of redirects added up.
    `final_url` is where the redirects ended, without user and password. Every text can be stored: raw bytes
    and control characters of a header are escaped, and what is too long is cut.
    """

    status: int
    body: bytes
    final_url: str
    etag: str | None
    last_modified: str | None
    retry_after: str | None
    signals: HeaderSignals
    # Unaltered.
    headers: Headers
    latency_s: float


class FetchError(Exception):
    """No response, or one that was refused.

    `reason` is a short word for the ledger, the text a sentence for a person; `retry` means that trying again
    may help (a refused body or redirect may be a temporary fault of the server); `sign` is what it means for
    the host's pace. `stale`: a kept connection turned out to be closed. `refusal` is the signal that forbids
    the target of a redirect.
    """

    def __init__(
        self,
        reason: str,
        detail: str = "",
        *,
        retry: bool = False,
        sign: HostSign = "neutral",
        stale: bool = False,
        refusal: Refusal | None = None,
    ) -> None:
        super().__init__(detail or reason)
        self.reason = reason
        self.retry = retry
        self.sign: HostSign = sign
        self.stale = stale
        self.refusal = refusal

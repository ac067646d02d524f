"""What a request brings: an answer, or the reason why there is none."""

from __future__ import annotations

from typing import NamedTuple

from scrapers.fetch.optouts.headers import HeaderSignals
from scrapers.fetch.optouts.signals import Refusal
from scrapers.fetch.response_head import Headers
from scrapers.fetch.verdict import HostSign


class Answer(NamedTuple):
    """What came back. `body` is decoded and within the limit; unless the status is 200, empty if it is long.

    `final_url` is where the redirects ended, without user and password. Every text can be kept: raw
    bytes and control characters of a header are escaped, and what is too long is cut.
    """

    status: int
    body: bytes
    final_url: str
    etag: str | None
    last_modified: str | None
    retry_after: str | None
    signals: HeaderSignals
    # As they came.
    headers: Headers


class FetchError(Exception):
    """No answer, or one that was refused.

    `reason` is a short word for the ledger, the text a sentence for a person; `retry` says that
    asking again may help (a refused body or redirect may be a passing mistake of the server's);
    `sign` what it says of the host. `stale`: a kept connection had been closed when it was asked.
    `refusal` is the signal that keeps us from where a redirect leads.
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

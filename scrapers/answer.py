"""What a request brings: an answer, or the reason why there is none."""

from __future__ import annotations

from typing import NamedTuple

from scrapers.optouts.headers import NO_SIGNALS, HeaderSignals
from scrapers.optouts.signals import Refusal
from scrapers.verdict import HostSign


class Answer(NamedTuple):
    """What came back. `body` is decoded and within the limit; empty unless the status is 200."""

    status: int
    body: bytes
    final_url: str
    etag: str | None
    last_modified: str | None
    retry_after: str | None
    signals: HeaderSignals = NO_SIGNALS


class FetchError(Exception):
    """No answer, or one that was refused.

    `reason` is a short word for the ledger; `retry` says that asking again may help (a refused body
    or redirect may be a passing mistake of the server's); `sign` what it says of the host; `refusal`
    the signal that keeps us from where a redirect leads.
    """

    def __init__(
        self,
        reason: str,
        detail: str = "",
        *,
        retry: bool = False,
        sign: HostSign = "neutral",
        refusal: Refusal | None = None,
    ) -> None:
        super().__init__(detail or reason)
        self.reason = reason
        self.retry = retry
        self.sign: HostSign = sign
        self.refusal = refusal

"""What a request brings: an answer, or the reason why there is none."""

from __future__ import annotations

from typing import NamedTuple

from scrapers.verdict import HostSign


class Answer(NamedTuple):
    """What came back. `body` is decoded and within the limit; empty unless the status is 200."""

    status: int
    body: bytes
    final_url: str
    etag: str | None
    last_modified: str | None
    retry_after: str | None
    opt_out: str | None


class FetchError(Exception):
    """No answer, or one that was refused.

    `reason` is a short word for the ledger; `retry` says that asking again may help (a refused body
    or redirect may be a passing mistake of the server's); `sign` what it says of the host.
    """

    def __init__(
        self, reason: str, detail: str = "", *, retry: bool = False, sign: HostSign = "neutral"
    ) -> None:
        super().__init__(detail or reason)
        self.reason = reason
        self.retry = retry
        self.sign: HostSign = sign

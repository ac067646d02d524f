"""Stored images that the user's list of opt-outs has named since: their rows become opted out."""

from __future__ import annotations

import time
from collections.abc import Iterator

from scrapers.fetch.optouts.listed import OptOutList
from scrapers.fetch.optouts.signals import Refusal
from scrapers.rawstore.ledger import Ledger
from scrapers.rawstore.ledger_rows import Touch
from scrapers.rawstore.ledger_schema import STATE_NUMBER

_STORED = """
SELECT u.form, u.rank, u.status_code, u.sha256, u.original_sha256, u.final_url,
  CASE WHEN f.suffix IS NULL THEN f.prefix ELSE f.prefix || u.rank || f.suffix END
FROM urls u JOIN forms f ON f.id = u.form WHERE u.state = ?
"""


def find_withdrawn(ledger: Ledger, listed: OptOutList, now: int) -> Iterator[Touch]:
    """The row changes for each stored image that the list names by its bytes or by its URL.

    The bytes stay in their segment, but only the ledger refers to them: no later stage sees them.
    """
    if not listed:
        return
    when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now))
    rows = ledger.query(_STORED, STATE_NUMBER["done"])
    for form, rank, status, sha256, original, final_url, url in rows:
        refusal = _refusal_of(listed, (sha256, original), (url, final_url))
        if refusal is not None:
            yield Touch(
                state=STATE_NUMBER["opted_out"],
                status_code=status,  # type: ignore[arg-type]
                reason=refusal.reason,
                attempts=0,
                time=now,
                etag=None,
                last_modified=None,
                evidence=refusal.evidence(when),
                form=form,  # type: ignore[arg-type]
                rank=rank,  # type: ignore[arg-type]
            )


def _refusal_of(
    listed: OptOutList, hashes: tuple[object, ...], urls: tuple[object, ...]
) -> Refusal | None:
    for sha256 in hashes:
        if isinstance(sha256, bytes) and (found := listed.bytes_refusal(sha256)) is not None:
            return found
    refusals = (listed.url_refusal(url) for url in urls if isinstance(url, str))
    return next((found for found in refusals if found is not None), None)

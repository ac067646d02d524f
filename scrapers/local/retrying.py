"""The images that another tool could not fetch, as plans for a crawl: read from the ledger, lazily."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit

from scrapers.crawl.announcing import is_public_name
from scrapers.crawl.jobs import FAILED_STATES
from scrapers.local.rows import KEY_PREFIX
from scrapers.rawstore.ledger import Ledger
from scrapers.rawstore.ledger_schema import STATE_NUMBER
from scrapers.source import CaptionForm, CaptionPlan

_ROWS_AT_ONCE = 1000
_STATES = ", ".join(str(STATE_NUMBER[state]) for state in sorted({*FAILED_STATES, "pending"}))
_FAILED = f"""
SELECT f.id, f.section, f.caption, f.prefix, f.rank, f.extra
FROM forms f CROSS JOIN urls u ON u.form = f.id
WHERE f.id > ? AND u.state IN ({_STATES}) AND f.suffix IS NULL
  AND (f.prefix LIKE 'http://%' OR f.prefix LIKE 'https://%')
ORDER BY f.id LIMIT {_ROWS_AT_ONCE}
"""


def failed_plans(ledger: Ledger) -> Iterator[CaptionPlan]:
    """A plan for each failed row with a URL of the web."""
    last: object = 0
    while rows := list(ledger.query(_FAILED, last)):
        last = rows[-1][0]
        for _, section, caption, url, rank, extra in rows:
            yield CaptionPlan(
                section=str(section),
                forms=(CaptionForm(caption=str(caption), url_template=str(url)),),
                ranks=(0,),
                masked=False,
                rank=rank,  # type: ignore[arg-type]
                extra=extra,  # type: ignore[arg-type]
                key_prefix=KEY_PREFIX,
            )


def count_failed(ledger: Ledger) -> tuple[int, bool]:
    """How many plans `failed_plans` yields, and whether one of their hosts is on the public internet."""
    number, is_public = 0, False
    for plan in failed_plans(ledger):
        number += 1
        host = urlsplit(plan.forms[0].url_template).hostname or ""
        is_public = is_public or is_public_name(host)
    return number, is_public

"""The summary of the ledger at the end of a run: counts, tables, and the hash of its content."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from typing import Any, Protocol

from pipeline.core.contracts import URL_STATES
from scrapers.rawstore.ledger import Ledger
from scrapers.rawstore.ledger_schema import STATE_NUMBER

UNFINISHED_STATES = ("pending", "failed", "truncated", "not_an_image")

_CONTENT = """
SELECT f.key, f.prefix, f.suffix, f.section, f.caption, f.masked, u.rank, u.version, u.state, u.sha256
FROM forms f CROSS JOIN urls u ON u.form = f.id ORDER BY f.key, u.rank
"""
_BESIDE = """
SELECT f.key AS key, 'caption' AS name, c.caption AS value FROM captions c JOIN forms f ON f.id = c.form
UNION ALL SELECT key, 'rank', rank FROM forms WHERE rank IS NOT NULL
UNION ALL SELECT key, 'extra', extra FROM forms WHERE extra IS NOT NULL ORDER BY 1, 2, 3
"""
_BY_SECTION = """
SELECT f.section, u.state, count(*), coalesce(sum(u.bytes), 0)
FROM forms f CROSS JOIN urls u ON u.form = f.id GROUP BY f.id, u.state
"""
_BY_PLAN = """
SELECT plan, section, max(num_ranks), coalesce(max(found), 0) FROM (
  SELECT f.plan AS plan, f.section AS section, f.num_ranks AS num_ranks,
    (SELECT count(*) FROM urls u WHERE u.form = f.id AND u.state = ?) AS found
  FROM forms f) GROUP BY plan
"""
_REASONS = """
SELECT reason, count(*) FROM urls WHERE reason IS NOT NULL AND (state = ?1) = ?2
GROUP BY reason ORDER BY reason
"""


class Queried(Protocol):
    """What queries of a ledger need."""

    def query(self, sql: str, *values: object) -> Iterator[tuple[object, ...]]:
        """The rows of a query."""


def content_digest(ledger: Queried) -> str:
    """SHA-256 of everything that was fetched, independent of the order in which it came.

    One line per URL, sorted by key: key, URL, section, caption, rank, masked, state and the hash of its
    bytes. Then one line for each further caption, rank and extra of a form that has any.
    """
    digest = hashlib.sha256()
    for key, prefix, suffix, section, caption, masked, rank, version, state, sha256 in ledger.query(
        _CONTENT
    ):
        url = prefix if suffix is None else f"{prefix}{rank}{suffix}"
        name = sha256.hex() if isinstance(sha256, bytes) else "-"
        word = URL_STATES[state]  # type: ignore[call-overload]
        line = (
            f"{key}\t{version}\t{url}\t{section}\t{caption!r}\t{rank}\t{masked}\t{word}\t{name}\n"
        )
        digest.update(line.encode("utf-8", "surrogatepass"))
    # Ledgers of version 1 have no such table.
    if list(ledger.query("SELECT 1 FROM sqlite_master WHERE name = 'captions'")):
        for beside in ledger.query(_BESIDE):
            digest.update(f"{beside!r}\n".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def describe_ledger(ledger: Ledger) -> dict[str, Any]:
    """The `details` of a raw store's manifest."""
    table = section_table(ledger)
    return {
        "content": content_digest(ledger),
        "sections": table,
        "completeness": completeness(table),
        "reasons": reasons(ledger),
        **({"flaws": found} if (found := flaws(ledger)) else {}),
    }


def section_table(ledger: Ledger) -> dict[str, dict[str, int]]:
    """Per section: URLs by state (those that occur), `bytes`, and captions by completeness.

    `complete`, `partial` and `absent` count captions with all of their images, fewer, and none.
    """
    table: dict[str, Counter[str]] = {}
    for section, state, number, size in ledger.query(_BY_SECTION):
        counts = table.setdefault(str(section), Counter())
        counts[URL_STATES[state]] += number  # type: ignore[call-overload, operator]
        counts["bytes"] += size  # type: ignore[operator]
    for _, section, wanted, found in ledger.query(_BY_PLAN, STATE_NUMBER["done"]):
        word = "complete" if found == wanted else "partial" if found else "absent"
        table.setdefault(str(section), Counter())[word] += 1
    return {section: dict(sorted(table[section].items())) for section in sorted(table)}


def completeness(table: dict[str, dict[str, int]]) -> dict[str, int]:
    """Captions with all of their images, fewer, and none, over all sections."""
    words = ("complete", "partial", "absent")
    return {word: sum(counts.get(word, 0) for counts in table.values()) for word in words}


def reasons(ledger: Ledger) -> dict[str, int]:
    """URLs that are not done, by reason."""
    return _count_reasons(ledger, done=False)


def flaws(ledger: Ledger) -> dict[str, int]:
    """URLs that are done but odd, or were not kept unaltered, by reason."""
    return _count_reasons(ledger, done=True)


def _count_reasons(ledger: Ledger, *, done: bool) -> dict[str, int]:
    rows = ledger.query(_REASONS, STATE_NUMBER["done"], done)
    return {str(reason): int(number) for reason, number in rows}  # type: ignore[call-overload]


def counts_of(ledger: Ledger, left: int) -> dict[str, int]:
    """URLs by state, and `urls`; `left` were planned and not requested."""
    states: dict[str, Any] = dict(ledger.count_states())
    states["pending"] += left
    return {"urls": sum(states.values()), **states}


def is_unfinished(counts: dict[str, int]) -> bool:
    """Whether some URL failed or is pending."""
    return any(counts.get(state, 0) for state in UNFINISHED_STATES)

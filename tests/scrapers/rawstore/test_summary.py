"""What the ledger says at the end of a run, by values: counts, completeness, reasons, content."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.core.contracts import URL_STATES
from pipeline.core.stages import CONTRACTS
from scrapers.rawstore.ledger import Ledger
from scrapers.rawstore.ledger_rows import FormRow, UrlRow
from scrapers.rawstore.ledger_schema import STATE_NUMBER
from scrapers.rawstore.summary import (
    completeness,
    content_digest,
    counts_of,
    flaws,
    is_unfinished,
    reasons,
    section_table,
)

RANKS = 2


def form(number: int, section: str, *, plan: int | None = None) -> FormRow:
    return FormRow(
        number,
        f"k{number}",
        plan or number,
        section,
        "c",
        False,
        RANKS,
        f"http://h/{number}_",
        ".png",
    )


def row(form: int, rank: int, state: str, reason: str | None = None) -> UrlRow:
    sha256, size = (bytes([rank]) * 32, 10) if state == "done" else (None, None)
    return UrlRow(
        form, rank, STATE_NUMBER[state], 200, reason, 1, None, None, None, sha256, size, None, None, 1, 9
    )  # fmt: skip


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    """A caption that is complete, one with half of its images, one with none, in two sections."""
    made = Ledger(tmp_path / "ledger.sqlite", "x")
    made.commit(
        forms=[form(1, "a"), form(2, "a"), form(3, "b"), form(4, "b", plan=3)],
        rows=[
            row(1, 0, "done"),
            row(1, 1, "done", "odd_end"),
            row(2, 0, "done", "odd_end"),
            row(2, 1, "failed", "http_500"),
            row(3, 0, "missing", "http_404"),
            row(3, 1, "missing", "http_404"),
            row(4, 0, "pending"),
        ],
    )
    yield made
    made.close()


def test_captions_are_complete_partial_or_absent(ledger: Ledger) -> None:
    table = section_table(ledger)
    assert table == {
        "a": {"bytes": 30, "complete": 1, "done": 3, "failed": 1, "partial": 1},
        "b": {"absent": 1, "bytes": 0, "missing": 2, "pending": 1},
    }
    assert completeness(table) == {"complete": 1, "partial": 1, "absent": 1}


@pytest.mark.parametrize("left", [0, 5])
def test_urls_are_the_sum_of_their_states_and_what_is_left_is_pending(
    left: int, ledger: Ledger
) -> None:
    counts = counts_of(ledger, left)
    by_state = {"done": 3, "failed": 1, "missing": 2, "pending": 1 + left}
    assert counts == {"urls": 7 + left, **dict.fromkeys(URL_STATES, 0), **by_state}
    law = CONTRACTS["raw"].count_law
    assert law is not None
    assert counts[law.total] == sum(counts[part] for part in law.parts)


def test_reasons_are_of_what_is_not_done_and_flaws_of_what_is(ledger: Ledger) -> None:
    assert reasons(ledger) == {"http_404": 2, "http_500": 1}
    assert flaws(ledger) == {"odd_end": 2}


@pytest.mark.parametrize("state", URL_STATES)
def test_a_crawl_is_unfinished_while_something_may_still_come(state: str) -> None:
    waits = state in ("pending", "failed", "truncated", "not_an_image")
    assert is_unfinished({"urls": 1, state: 1}) is waits
    assert is_unfinished({"urls": 1, state: 0}) is False


def test_the_content_is_the_same_in_any_order_and_another_if_any_row_is(tmp_path: Path) -> None:
    forms = [form(1, "a"), form(2, "b")]
    rows = [row(1, 0, "done"), row(1, 1, "missing"), row(2, 0, "done")]

    def digest(name: str, forms: list[FormRow], rows: list[UrlRow]) -> str:
        made = Ledger(tmp_path / f"{name}.sqlite", "x")
        made.commit(forms=forms, rows=rows)
        found = content_digest(made)
        made.close()
        return found

    first = digest("first", forms, rows)
    assert digest("turned", forms[::-1], rows[::-1]) == first
    others = [
        (forms, rows[:2]),
        (forms, [*rows[:2], rows[2]._replace(sha256=b"x" * 32)]),
        (forms, [*rows[:2], rows[2]._replace(state=STATE_NUMBER["failed"])]),
        (forms, [*rows[:2], rows[2]._replace(version=2)]),
        (forms, [*rows[:2], rows[2]._replace(rank=1)]),
        ([forms[0], forms[1]._replace(caption="d")], rows),
        ([forms[0], forms[1]._replace(section="c")], rows),
        ([forms[0], forms[1]._replace(masked=True)], rows),
        ([forms[0], forms[1]._replace(prefix="http://g/2_")], rows),
    ]
    found = [digest(f"other{n}", *other) for n, other in enumerate(others)]
    assert len({first, *found}) == len(others) + 1
    # What says nothing of the content changes nothing.
    odd = [rows[0]._replace(attempts=9, time=99, etag="x", reason="odd"), *rows[1:]]
    assert digest("odd", forms, odd) == first

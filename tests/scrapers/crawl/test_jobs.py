"""Which URLs of a plan are asked for, by the state of each in the ledger and by the mode of the run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.core.contracts import URL_STATES, UrlState
from scrapers.crawl.jobs import Mode, PlanOpener
from scrapers.rawstore.keys import address_of
from scrapers.rawstore.ledger import Ledger
from scrapers.rawstore.ledger_rows import FormRow, UrlRow
from scrapers.rawstore.ledger_schema import STATE_NUMBER
from scrapers.source import CaptionForm, CaptionPlan

FORM = CaptionForm(caption="a cube", url_template="http://h/samples/s/a_{rank}.png")
PLAN = CaptionPlan(section="s", forms=(FORM,), ranks=tuple(range(4)), masked=False)
NOW = 1000
FAILED = {"failed", "truncated", "not_an_image"}


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    made = Ledger(tmp_path / "ledger.sqlite", "x")
    yield made
    made.close()


def know(
    ledger: Ledger,
    *states: UrlState,
    time: int = NOW,
    reason: str | None = None,
    url: str | None = None,
) -> None:
    """Rows of the plan's first ranks; those that are done have bytes, from `url` if one is given."""
    address = address_of(FORM, "s")
    form = FormRow(1, address.key, 1, "s", "a cube", False, 4, address.prefix, address.suffix)
    rows = [
        UrlRow(
            1,
            rank,
            STATE_NUMBER[state],
            200,
            reason,
            1,
            None,
            None,
            url,
            b"1" * 32 if state == "done" else None,
            None,
            None,
            None,
            1,
            time,
        )
        for rank, state in enumerate(states)
    ]
    ledger.commit(forms=[form], rows=rows)


def asked(ledger: Ledger, mode: Mode, *, refresh_since: int = 0) -> list[int]:
    """The ranks that are asked for at once."""
    opened = PlanOpener(ledger=ledger, mode=mode, refresh_since=refresh_since).open(PLAN)
    assert opened is not None
    return [job.rank for job in opened.jobs()]


def test_what_is_not_in_the_ledger_is_asked_for(ledger: Ledger) -> None:
    assert asked(ledger, "continue") == [0]
    know(ledger, "done")
    assert asked(ledger, "continue") == [1, 2, 3]
    assert asked(ledger, "retry_failed") == []


@pytest.mark.parametrize("state", URL_STATES)
@pytest.mark.parametrize("mode", ["continue", "retry_failed", "refresh"])
def test_every_state_is_asked_again_just_by_the_modes_that_say_so(
    mode: Mode, state: UrlState, ledger: Ledger
) -> None:
    know(ledger, "done", "done", "done", state)
    again = {
        "continue": state == "pending",
        "retry_failed": state in FAILED or state == "pending",
        "refresh": True,
    }[mode]
    opened = PlanOpener(ledger=ledger, mode=mode, refresh_since=NOW).open(PLAN)
    assert opened is not None
    due = [rank for rank in range(4) if (0, rank) not in opened.seen]
    assert due == ([0, 1, 2, 3] if mode == "refresh" else [3] if again else [])
    assert set(opened.again) == {(0, rank) for rank in due}
    # Without a failure nothing of the caption is asked for.
    assert opened.ranks == (() if mode == "retry_failed" and state not in FAILED else PLAN.ranks)


@pytest.mark.parametrize(("since", "again"), [(NOW - 1, False), (NOW, True), (NOW + 1, True)])
def test_a_refresh_asks_for_what_was_not_asked_for_since_it_began(
    since: int, again: bool, ledger: Ledger
) -> None:
    know(ledger, "done", "done", "done", "done")
    assert asked(ledger, "refresh", refresh_since=since) == ([0] if again else [])


@pytest.mark.parametrize(("again", "due"), [(True, [0, 1]), (False, []), (None, [1])])
def test_rows_of_another_place_are_decided_apart(
    again: bool | None, due: list[int], ledger: Ledger
) -> None:
    know(ledger, "done", "pending", "done", "done")
    elsewhere = {0: again, 1: again, 2: False, 3: False}
    opener = PlanOpener(ledger=ledger, mode="continue", elsewhere=lambda row: elsewhere[row.rank])
    opened = opener.open(PLAN)
    assert opened is not None
    assert [rank for _, rank in opened.again] == due


def test_a_url_without_a_rank_is_one_image_whatever_the_ranks(ledger: Ledger) -> None:
    form = CaptionForm(caption="a cube", url_template="http://h/one.png")
    opened = PlanOpener(ledger=ledger, mode="continue").open(
        CaptionPlan(section="s", forms=(form,), ranks=(0, 1, 2), masked=False)
    )
    assert opened is not None
    assert opened.ranks == (0,)
    assert [job.url for job in opened.jobs()] == ["http://h/one.png"]


def test_a_caption_that_another_plan_names_is_asked_for_once(ledger: Ledger) -> None:
    opener = PlanOpener(ledger=ledger, mode="continue")
    first = opener.open(PLAN)
    assert first is not None
    assert (opener.open(PLAN), opener.repeated) == (None, 1)
    opener.close([form.address.key for form in first.forms])
    assert opener.open(PLAN) is not None
    assert opener.repeated == 1

"""Which URLs are requested from an archive, from the site after it, and which need no request."""

from __future__ import annotations

from typing import Any

import pytest

from scrapers.crawl.image_fetcher import Attempt
from scrapers.crawl.jobs import OpenForm, OpenPlan
from scrapers.fetch.verdict import Verdict
from scrapers.rawstore.keys import Address
from scrapers.rawstore.ledger_rows import Known
from scrapers.wayback.captures import LOST, NOT_ARCHIVED, Capture
from scrapers.wayback.jobs import ArchivedPlan, CaptureJob, ask_archive_again, ask_site_again

CAPTURE_URL = "https://web.archive.org/web/20210105000000id_/http://h/a"
NEW, OLD = (
    Capture(f"https://archive/web/{year}id_/http://h/a", "http://h/a", None, False)
    for year in (2022, 2021)
)


def row(**values: Any) -> Known:
    found: dict[str, Any] = {
        "form": 1, "rank": 0, "state": "done", "status_code": 200, "etag": None, "last_modified": None,
        "sha256": b"1" * 32, "version": 1, "last_time": 0, "reason": None, "final_url": None,
    }  # fmt: skip
    return Known(**{**found, **values})


@pytest.mark.parametrize(
    ("known", "site", "archive"),
    [
        (row(), None, False),
        (row(final_url=CAPTURE_URL), False, None),
        (row(final_url="http://h/moved"), None, False),
        (row(state="missing", sha256=None, reason="not_archived"), True, None),
        (row(state="missing", sha256=None, reason="archive_lost"), True, None),
        (row(state="missing", sha256=None, reason="http_404"), None, True),
        (row(state="failed", sha256=None, reason="timeout"), None, None),
    ],
)
def test_site_and_archive_ask_for_what_the_other_lacked(
    known: Known, site: bool | None, archive: bool | None
) -> None:
    assert ask_site_again(known) is site
    assert ask_archive_again(known) is archive


def plan(captures: dict[int, tuple[Capture, ...]]) -> ArchivedPlan:
    form = OpenForm("a cube", Address("http://h/a_", ".png", "s-0123456789abcdef"))
    return ArchivedPlan("s", False, (0, 1, 2), [form], captures=captures)


def test_a_site_answers_nothing_without_a_request() -> None:
    form = OpenForm("a cube", Address("http://h/a_", ".png", "s-0123456789abcdef"))
    assert OpenPlan("s", False, (0, 1), [form]).answered() == []


def test_what_is_not_archived_is_answered_without_a_request() -> None:
    opened = plan({1: (NEW, OLD)})
    (job,) = opened.jobs()
    assert (job.rank, job.url, job.address) == (1, "http://h/a_1.png", NEW.address)
    found = [(job.rank, job.address, verdict) for job, verdict in opened.answered()]
    assert found == [
        (0, "http://h/a_0.png", NOT_ARCHIVED),
        (2, "http://h/a_2.png", NOT_ARCHIVED),
    ]


def test_an_older_capture_begins_anew_and_the_trouble_is_kept_without_its_body() -> None:
    (job,) = plan({0: (NEW, OLD)}).jobs()
    assert isinstance(job, CaptureJob)
    job.failures = 2
    cut = Verdict("truncated", "ends_early", False, "neutral")
    job.move_to((OLD,), Attempt(cut, None))
    assert (job.address, job.captures, job.failures) == (OLD.address, (OLD,), 0)
    assert job.trouble == Attempt(cut, None)
    # That one is missing doesn't outweigh it.
    job.move_to((OLD,), Attempt(LOST, None))
    assert job.trouble == Attempt(cut, None)

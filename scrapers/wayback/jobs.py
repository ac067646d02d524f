"""Plans for a crawl of a web archive: which images it has, by its index, so that no probes are needed.

Reads the ledger and the index; requests and writes nothing. A ledger may hold images from the live site and
from an archive: each is asked for what the other didn't have, and images are refreshed from where they came.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from scrapers.crawl.image_fetcher import Attempt
from scrapers.crawl.jobs import AskAgain, Job, OpenPlan, PlanOpener
from scrapers.fetch.verdict import Verdict
from scrapers.rawstore.ledger_rows import Known
from scrapers.source import CaptionPlan
from scrapers.wayback.captures import (
    ARCHIVE_REASONS,
    NOT_ARCHIVED,
    NOT_LISTED,
    Capture,
    came_from_archive,
)
from scrapers.wayback.index import CaptureIndex


class CaptureJob(Job):
    """A URL to fetch from an archive: `captures` are those left to try, the one at `address` first.

    `trouble` is the latest attempt at an earlier one that was there and no good.
    """

    __slots__ = ("captures", "trouble")

    def __init__(
        self,
        plan: OpenPlan,
        form: int,
        rank: int,
        url: str,
        known: Known | None,
        captures: tuple[Capture, ...],
    ) -> None:
        super().__init__(plan, form, rank, url, known)
        self.captures = captures
        self.address = captures[0].address
        self.trouble: Attempt | None = None

    def move_to(self, older: tuple[Capture, ...], attempt: Attempt) -> None:
        """Go on with older captures after an attempt at the first."""
        verdict, response = attempt
        if verdict.state != "missing":
            kept = None if response is None else response._replace(body=b"")
            self.trouble = Attempt(verdict, kept)
        self.captures = older
        self.address = older[0].address
        self.failures = 0


@dataclass(slots=True)
class ArchivedPlan(OpenPlan):
    """A plan with the captures of `form`, by rank.

    `lack` is the verdict for ranks without a capture.
    """

    form: int = 0
    captures: dict[int, tuple[Capture, ...]] = field(default_factory=dict)
    lack: Verdict = NOT_ARCHIVED

    def jobs(self) -> list[Job]:
        """All that is archived and not known yet."""
        return [
            CaptureJob(*self._parts(rank), captures)
            for rank in self._unseen()
            if (captures := self.captures.get(rank))
        ]

    def answered(self) -> list[tuple[Job, Verdict]]:
        """All that is not archived and not known yet."""
        return [
            (Job(*self._parts(rank)), self.lack)
            for rank in self._unseen()
            if not self.captures.get(rank)
        ]

    def _unseen(self) -> list[int]:
        return [rank for rank in self.ranks if (self.form, rank) not in self.seen]

    def _parts(self, rank: int) -> tuple[OpenPlan, int, int, str, Known | None]:
        place = (self.form, rank)
        return self, *place, self.forms[self.form].url(rank), self.again.get(place)


def ask_site_again(row: Known) -> bool | None:
    """For the site: request what only an archive lacked; don't compare what came from one."""
    if row.state == "missing" and row.reason in ARCHIVE_REASONS:
        return True
    return False if row.sha256 is not None and came_from_archive(row) else None


def ask_archive_again(row: Known) -> bool | None:
    """For an archive: request what only the site lacked; don't compare what came from there."""
    if row.state == "missing" and row.reason not in ARCHIVE_REASONS:
        return True
    return False if row.sha256 is not None and not came_from_archive(row) else None


@dataclass(kw_only=True)
class ArchiveOpener(PlanOpener):
    """Opens plans with what the archive has of them.

    `replay` is the prefix of the URLs of captures; the index is not reliable for the `doubtful` folders.
    """

    index: CaptureIndex
    replay: str
    doubtful: tuple[str, ...] = ()
    elsewhere: AskAgain = ask_archive_again

    def open(self, plan: CaptionPlan) -> OpenPlan | None:
        """The plan with what is known of it; None if other plans cover it."""
        opened = super().open(plan)
        if opened is None:
            return None
        held = [
            {rank: found for rank in opened.ranks if (found := self._captures(form.url(rank)))}
            for form in opened.forms
        ]
        best = max(range(len(held)), key=lambda number: _weight(opened, number, held[number]))
        archived = ArchivedPlan(
            opened.section,
            opened.masked,
            opened.ranks,
            opened.forms,
            rank=opened.rank,
            extra=opened.extra,
            expected_hash=opened.expected_hash,
            seen=opened.seen,
            again=opened.again,
            form=best,
            captures=held[best],
            lack=NOT_LISTED if self._is_doubtful(opened, best) else NOT_ARCHIVED,
        )
        for place, row in list(archived.again.items()):
            self._leave_or_ask(archived, place, row)
        archived.decided = len(archived.seen)
        return archived

    def _is_doubtful(self, plan: OpenPlan, form: int) -> bool:
        return bool(self.doubtful) and plan.forms[form].url(0).startswith(self.doubtful)

    def _captures(self, url: str) -> tuple[Capture, ...]:
        return self.index.captures(url, replay=self.replay)

    def _leave_or_ask(self, plan: ArchivedPlan, place: tuple[int, int], row: Known) -> None:
        """Don't request a row again if the archive can't have anything new."""
        found = plan.captures.get(place[1], ()) if place[0] == plan.form else ()
        if row.state == "done":
            found = _news(found, row.final_url)
            plan.captures[place[1]] = found
            leave = [capture.address for capture in found] == [row.final_url]
        else:
            leave = not found and row.state != "pending"
        if leave:
            del plan.again[place]
            self._note_seen(plan, place, row)


def _news(captures: tuple[Capture, ...], address: str | None) -> tuple[Capture, ...]:
    """The captures newer than the one at `address`, which we have, that differ from it; then that one."""
    places = [number for number, capture in enumerate(captures) if capture.address == address]
    if not places:
        return captures
    ours = captures[places[0]]
    newer = captures[: places[0]]
    return *(c for c in newer if c.digest is None or c.digest != ours.digest), ours


def _weight(plan: OpenPlan, form: int, held: dict[int, tuple[Capture, ...]]) -> tuple[bool, int]:
    """The weight of a form: whether images of it are stored, then how many the archive has."""
    stored = any(at == form and seen == "exists" for (at, _), seen in plan.seen.items())
    again = any(at == form and row.sha256 is not None for (at, _), row in plan.again.items())
    return stored or again, len(held)

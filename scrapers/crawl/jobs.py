"""Open plans: what the ledger knows of a plan, and the jobs that are left of it.

Reads the ledger; requests and writes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal

from scrapers.crawl.expected_hash import differs_from_stored
from scrapers.crawl.probe import next_asks
from scrapers.fetch.request_url import with_credentials
from scrapers.fetch.storable import storable
from scrapers.fetch.verdict import Evidence, Verdict, evidence_of
from scrapers.rawstore.keys import Address, address_of
from scrapers.rawstore.ledger import Ledger
from scrapers.rawstore.ledger_rows import FormRow, Known
from scrapers.source import CaptionPlan

Mode = Literal["continue", "retry_failed", "refresh"]
FAILED_STATES = frozenset({"failed", "truncated", "not_an_image"})
# Whether to request a URL again whose row was written by a crawl of another place; None if it was not.
AskAgain = Callable[[Known], bool | None]


@dataclass(slots=True)
class OpenForm:
    """A form of an open plan; `id` is 0 until its first URL is written.

    `captions` are all that the ledger or a plan of this run has for its URLs.
    """

    caption: str
    address: Address
    id: int = 0
    captions: set[str] = field(default_factory=set)

    def url(self, rank: int) -> str:
        """The URL of one image."""
        address = self.address
        prefix, suffix = address.prefix, address.suffix
        return prefix if suffix is None else f"{prefix}{rank}{suffix}"


@dataclass(slots=True)
class OpenPlan:
    """A caption whose images are being requested."""

    section: str
    masked: bool
    ranks: tuple[int, ...]
    forms: list[OpenForm]
    seen: dict[tuple[int, int], Evidence] = field(default_factory=dict)
    # Rows to request again, with their validators.
    again: dict[tuple[int, int], Known] = field(default_factory=dict)
    outstanding: int = 0
    decided: int = 0
    # Of an image whose URL contains no rank.
    rank: int | None = None
    extra: str | None = None
    # What the source says of the bytes, such as `sha256:ab12…`.
    expected_hash: str | None = None

    def jobs(self) -> list[Job]:
        """The jobs to start now; none if the caption is finished."""
        return [
            Job(self, form, rank, self.forms[form].url(rank), self.again.get((form, rank)))
            for form, rank in next_asks(len(self.forms), self.ranks, self.seen)
        ]

    def answered(self) -> list[tuple[Job, Verdict]]:
        """Jobs that need no request, with their verdicts."""
        return []

    def form_row(self, form: OpenForm, number: int) -> FormRow:
        """The ledger's row of a form that gets the id `number`."""
        first = self.forms[0]
        return FormRow(
            id=number,
            key=form.address.key,
            plan=first.id or number,
            section=self.section,
            caption=form.caption,
            masked=self.masked,
            num_ranks=len(self.ranks),
            prefix=form.address.prefix,
            suffix=form.address.suffix,
            rank=self.rank,
            extra=self.extra,
        )


class Job:
    """One URL to request; `address` is the URL of the request."""

    __slots__ = (
        "address",
        "failures",
        "form",
        "known",
        "latencies_s",
        "plan",
        "rank",
        "requests",
        "url",
    )

    def __init__(self, plan: OpenPlan, form: int, rank: int, url: str, known: Known | None) -> None:
        self.plan = plan
        self.form = form
        self.rank = rank
        self.url = url
        userinfo = plan.forms[form].address.userinfo
        self.address = with_credentials(url, userinfo) if userinfo else url
        self.known = known
        self.failures = 0
        self.requests = 0
        # Of the requests that got a response.
        self.latencies_s: tuple[float, ...] = ()

    @property
    def has_bytes(self) -> bool:
        """Whether bytes of it are stored."""
        return self.known is not None and self.known.sha256 is not None


def _is_own(_row: Known) -> bool | None:
    return None


@dataclass(kw_only=True)
class PlanOpener:
    """Opens plans one after another, each with what the ledger knows of it.

    A URL belongs to the plan that named it first: `in_use` holds the forms of plans whose rows are not
    committed yet, by key, so that no URL is requested twice. Of later plans with the same URL only the
    captions count: `new_captions` are (form id, caption) to write for forms that have an id. `elsewhere`
    decides about rows that a crawl of another place has written.
    """

    ledger: Ledger
    mode: Mode
    refresh_since: int = 0
    elsewhere: AskAgain = _is_own
    repeated: int = 0
    in_use: dict[str, OpenForm] = field(default_factory=dict)
    new_captions: list[tuple[int, str]] = field(default_factory=list)
    # A bit for each form of an earlier run, set when a plan names it.
    _named: bytearray = field(init=False)
    _first_new: int = field(init=False)

    def __post_init__(self) -> None:
        self._first_new = self.ledger.next_form_id()
        self._named = bytearray(self._first_new // 8 + 1)

    def open(self, plan: CaptionPlan) -> OpenPlan | None:
        """The plan with what is known of it; None if other plans cover it."""
        forms = self._own_forms(plan)
        if not forms:
            self.repeated += 1
            return None
        # A URL without a rank is one image, whatever ranks the source names.
        ranks = plan.ranks if forms[0].address.suffix is not None else plan.ranks[:1]
        opened = OpenPlan(
            storable(plan.section),
            plan.masked,
            ranks,
            forms,
            rank=plan.rank,
            extra=plan.extra,
            expected_hash=plan.expected_hash,
        )
        failed = 0
        for number, form in enumerate(forms):
            if (known := self.ledger.form(form.address.key)) is not None:
                form.id, caption = known
                self._note_named(form.id)
                if {caption} != form.captions:
                    wanted, form.captions = form.captions, {caption}
                    form.captions |= self.ledger.further_captions(form.id)
                    self._add_captions(form, wanted)
                failed += self._note_known(opened, number, self.ledger.known(form.id))
        if self.mode == "retry_failed" and not failed:
            opened.ranks = ()
        opened.decided = len(opened.seen)
        self.in_use.update((form.address.key, form) for form in forms)
        return opened

    def count_unnamed(self) -> int:
        """The forms of earlier runs that no plan of this run named."""
        ((forms,),) = self.ledger.query("SELECT count(*) FROM forms WHERE id < ?", self._first_new)
        return int(str(forms)) - int.from_bytes(self._named).bit_count()

    def _note_named(self, form: int) -> None:
        if form < self._first_new:
            self._named[form // 8] |= 1 << form % 8

    def close(self, keys: Iterable[str]) -> None:
        """The rows of a plan are on disk."""
        for key in keys:
            self.in_use.pop(key, None)

    def take_captions(self) -> list[tuple[int, str]]:
        """The `new_captions` since the last call."""
        taken, self.new_captions = self.new_captions, []
        return taken

    def _add_captions(self, form: OpenForm, captions: Iterable[str]) -> None:
        """Add captions of a URL that is known; a form without an id is written with them."""
        news = set(captions) - form.captions
        form.captions |= news
        if form.id:
            self.new_captions += [(form.id, caption) for caption in sorted(news)]

    def _own_forms(self, plan: CaptionPlan) -> list[OpenForm]:
        forms: dict[str, OpenForm] = {}
        for form in plan.forms:
            address = address_of(form, plan.key_prefix or plan.section)
            captions = {storable(caption) for caption in (form.caption, *plan.captions)}
            if (used := self.in_use.get(address.key)) is not None:
                self._add_captions(used, captions)
            elif address.key not in forms:
                opened = OpenForm(storable(form.caption), address, captions=captions)
                forms[address.key] = opened
        return list(forms.values())

    def _note_known(self, opened: OpenPlan, number: int, rows: list[Known]) -> int:
        failed = 0
        for row in rows:
            place = (number, row.rank)
            failed += row.state in FAILED_STATES
            is_other = row.state == "done" and differs_from_stored(
                opened.expected_hash, row.sha256_as_it_came
            )
            if is_other or self._asks_again(row):
                opened.again[place] = row
            else:
                self._note_seen(opened, place, row)
        return failed

    def _note_seen(self, opened: OpenPlan, place: tuple[int, int], row: Known) -> None:
        opened.seen[place] = evidence_of(row.state, row.status_code)

    def _asks_again(self, row: Known) -> bool:
        again = self.elsewhere(row)
        return self._is_due(row) if again is None else again

    def _is_due(self, row: Known) -> bool:
        if row.state == "pending":
            return True
        if self.mode == "refresh":
            return row.last_time <= self.refresh_since
        return self.mode == "retry_failed" and row.state in FAILED_STATES

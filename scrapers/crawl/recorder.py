"""From a response to the rows of the ledger and the bytes in the segments."""

from __future__ import annotations

import dataclasses
import hashlib
import json.encoder
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

from pipeline.core.contracts import UrlState
from scrapers.crawl.expected_hash import differs, differs_from_stored, mismatch
from scrapers.crawl.jobs import Job
from scrapers.fetch.optouts.signals import Refusal
from scrapers.fetch.request_url import encodable_url
from scrapers.fetch.response import Response
from scrapers.fetch.sniff import ImageFormat, sniff
from scrapers.fetch.storable import MAX_URL_CHARS, storable_header
from scrapers.fetch.verdict import Verdict, evidence_of, opt_out
from scrapers.rawstore.batch_writer import Store
from scrapers.rawstore.keys import image_key
from scrapers.rawstore.ledger_rows import Touch, UrlRow
from scrapers.rawstore.ledger_schema import STATE_NUMBER

WallClock = Callable[[], float]
# (bytes, their SHA-256, their format) → who refuses them.
FindRefusal = Callable[[bytes, bytes, ImageFormat | None], Refusal | None]
_quote = json.encoder.encode_basestring
# The reason of an image that could not be resized, and is stored as it came.
NOT_RESIZED = "not_resized"


@dataclass
class Tally:
    """What one run did."""

    requests: int = 0
    bytes: int = 0
    stored: int = 0
    unchanged: int = 0
    changed: int = 0
    # Missed by a refresh, but not by enough of them yet.
    absent: int = 0
    gone: int = 0
    # Further captions of URLs that are known already.
    captions: int = 0
    # Of those stored, the ones that were resized.
    resized: int = 0
    # Stored earlier, and listed by the user's opt-outs since.
    withdrawn: int = 0
    retries: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    # Requested again without success; the earlier bytes are kept.
    kept: int = 0

    def add(self, other: Tally) -> None:
        """Add what another part of the run did."""
        for each in dataclasses.fields(self):
            setattr(self, each.name, getattr(self, each.name) + getattr(other, each.name))


class Resized(Protocol):
    """An image that was to be resized (see `scrapers.resizing.image.Resized`, which needs Pillow)."""

    @property
    def body(self) -> bytes | None:
        """The new bytes; None if the image stays as it came."""

    @property
    def failure(self) -> str | None:
        """Why it could not be resized."""


class Arrival(NamedTuple):
    """A final verdict, the response, the SHA-256 of a complete image, and whether its bytes are new."""

    verdict: Verdict
    response: Response | None
    digest: bytes | None
    is_new: bool


def accept_all(_body: bytes, _sha256: bytes, _format: ImageFormat | None) -> Refusal | None:
    """Accept any bytes."""
    return None


class Recorder:
    """Writes the outcome of each job into the store."""

    def __init__(
        self,
        store: Store,
        tally: Tally,
        *,
        clock: WallClock = time.time,
        refresh_since: int = 0,
        gone_after: int = 1,
        heed: FindRefusal = accept_all,
        refused: Path | None = None,
    ) -> None:
        """`refresh_since` is when the refresh began, 0 for none: no row gets an earlier time.

        `heed` finds opt-outs in the bytes of an image; `refused` is a folder for the bytes of what is no
        image.
        """
        self._store = store
        self._tally = tally
        self._clock = clock
        self._refresh_since = refresh_since
        self._gone_after = gone_after
        self._heed = heed
        self._refused = refused
        self._absences = store.ledger.absences() if refresh_since else {}

    def examine(self, job: Job, verdict: Verdict, response: Response | None) -> Arrival:
        """The final verdict of a job, after a look at the bytes that came."""
        digest = None
        if verdict.state == "done" and response is not None and response.status != 304:
            digest = hashlib.sha256(response.body).digest()
            refusal = self._heed(response.body, digest, verdict.format)
            verdict = verdict if refusal is None else opt_out(refusal)
        verdict = self._compare_hash(job, verdict, response, digest)
        is_new = (
            verdict.state == "done"
            and digest is not None
            and (job.known is None or job.known.sha256_as_it_came != digest)
        )
        return Arrival(verdict, response, digest, is_new)

    def record(self, job: Job, arrival: Arrival, resized: Resized | None = None) -> None:
        """Record the outcome of a job: store its bytes, if they are new, and its row.

        `resized` has the bytes to store instead of those that came, or why they could not be resized.
        """
        known = job.known
        verdict, response, digest, is_new = arrival
        if verdict.state == "done" and response is not None:
            self._note_presence(job)
            if is_new:
                assert digest is not None
                self._store_bytes(job, arrival, _image_of(verdict, response.body, digest, resized))
            else:
                self._touch(job, verdict, response, self._flaw(job, verdict, digest))
                self._tally.unchanged += 1
            return
        self._keep_refused(job, verdict, response)
        if known is not None and known.sha256 is not None:
            self._keep(job, verdict, response)
        else:
            self._count_failure(verdict.state, verdict.reason)
            self._write_row(job, verdict, response, _kept_texts(job, response, stored=False))

    def _compare_hash(
        self, job: Job, verdict: Verdict, response: Response | None, digest: bytes | None
    ) -> Verdict:
        """The verdict, or that of a mismatch if the source says that the image has another hash."""
        expected = job.plan.expected_hash
        if expected is None or verdict.state != "done" or response is None:
            return verdict
        if digest is not None:
            is_other = differs(expected, response.body, digest)
        else:
            is_other = differs_from_stored(
                expected, job.known.sha256_as_it_came if job.known else None
            )
        return mismatch(expected) if is_other else verdict

    def _flaw(self, job: Job, verdict: Verdict, digest: bytes | None) -> str | None:
        """The reason to record with the stored bytes, which are unchanged; `digest` if they came again."""
        known = job.known
        assert known is not None
        # What came again was resized at first: what is odd about it is not so about the stored bytes.
        if digest is None or known.original_sha256 is not None or known.reason == NOT_RESIZED:
            return known.reason if known.state == "done" else None
        return verdict.reason

    def _keep_refused(self, job: Job, verdict: Verdict, response: Response | None) -> None:
        """Keep the bytes of what is no complete image, for a person to look at."""
        if self._refused is None or response is None or not response.body:
            return
        if verdict.state in ("not_an_image", "truncated"):
            self._refused.mkdir(parents=True, exist_ok=True)
            key = image_key(job.plan.forms[job.form].address.key, job.rank, 1)
            (self._refused / f"{key}.{verdict.format or 'bin'}").write_bytes(response.body)

    def _keep(self, job: Job, verdict: Verdict, response: Response | None) -> None:
        """Keep the earlier bytes: mark what is gone or withdrawn, ignore a mere failure."""
        assert job.known is not None
        if verdict.state == "missing" and not self._is_gone(job):
            self._tally.absent += 1
            self._touch(job, verdict._replace(state=job.known.state), response, job.known.reason)
            return
        is_other = verdict.state == "hash_mismatch" and differs_from_stored(
            job.plan.expected_hash, job.known.sha256_as_it_came
        )
        if is_other or verdict.state in ("missing", "opted_out"):
            gone = verdict.state == "missing"
            self._tally.gone += gone and job.known.state != "missing"
            self._touch(job, verdict, response, "gone" if gone else verdict.reason)
            return
        self._tally.kept += 1
        self._tally.failures[verdict.reason or verdict.state] += 1
        self._touch(job, verdict._replace(state=job.known.state), response, job.known.reason)

    def _is_gone(self, job: Job) -> bool:
        """Whether enough consecutive refreshes have missed an image that was there."""
        assert job.known is not None
        place = job.known.form, job.known.rank
        absences = self._absences.get(place, 0) + 1
        self._store.add_absence(*place, absences)
        return job.known.state == "missing" or absences >= self._gone_after

    def _note_presence(self, job: Job) -> None:
        if job.known is not None and (job.known.form, job.known.rank) in self._absences:
            self._store.add_absence(job.known.form, job.known.rank, 0)

    def _now(self) -> int:
        return max(int(self._clock()), self._refresh_since + 1 if self._refresh_since else 0)

    def _store_bytes(self, job: Job, arrival: Arrival, image: _Image) -> None:
        verdict, response = arrival.verdict, arrival.response
        known, version = job.known, 1
        if known is not None:
            version = known.version + (known.sha256 is not None)
        form = job.plan.forms[job.form]
        key = image_key(form.address.key, job.rank, version)
        texts = _kept_texts(job, response, stored=True)
        place = self._store.segments.place(
            key,
            image.format or "bin",
            image.body,
            _sidecar(job, texts, image),
            sha256=image.sha256,
        )
        if version > 1:
            self._store.batch.changed.append((form.id, job.rank))
            self._tally.changed += 1
        self._tally.stored += 1
        self._tally.resized += image.original_sha256 is not None
        self._tally.bytes += len(image.body)
        self._store.add_bytes(len(image.body))
        verdict = verdict._replace(reason=image.flaw)
        self._write_row(job, verdict, response, texts, _Stored(image, place, version))

    def _write_row(
        self,
        job: Job,
        verdict: Verdict,
        response: Response | None,
        texts: _Headers,
        stored: _Stored | None = None,
    ) -> None:
        segment, offset = (None, None) if stored is None else stored.place
        image = None if stored is None else stored.image
        row = UrlRow(
            self._form_id(job),
            job.rank,
            STATE_NUMBER[verdict.state],
            response.status if response else None,
            verdict.reason or texts.flaw,
            job.requests,
            texts.etag,
            texts.last_modified,
            texts.final_url,
            None if image is None else image.sha256,
            None if image is None else len(image.body),
            segment,
            offset,
            1 if stored is None else stored.version,
            self._now(),
            self._evidence(verdict),
            None if image is None else image.original_sha256,
        )
        self._store.add_row(row)
        self._note_latencies(job, row.time)
        self._note_seen(job, verdict.state, row.status_code)

    def _touch(
        self, job: Job, verdict: Verdict, response: Response | None, reason: str | None
    ) -> None:
        """Requested again; the stored bytes are the earlier ones."""
        assert job.known is not None
        state = verdict.state
        # The validators of an error page don't belong to the bytes.
        fresh = response if response and response.status in (200, 304) and state == "done" else None
        texts = _Headers() if fresh is None else _kept_texts(job, fresh, stored=True)
        touch = Touch(
            STATE_NUMBER[state],
            response.status if response else job.known.status_code,
            reason or texts.flaw,
            job.requests,
            self._now(),
            texts.etag,
            texts.last_modified,
            self._evidence(verdict),
            job.known.form,
            job.rank,
        )
        self._store.add_touch(touch)
        self._note_latencies(job, touch.time)
        self._note_seen(job, state, None)

    def _note_latencies(self, job: Job, time: int) -> None:
        for latency_s in job.latencies_s:
            self._store.add_latency((job.url, time, latency_s))

    def _evidence(self, verdict: Verdict) -> str | None:
        if verdict.refusal is None:
            return None
        when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self._now()))
        return verdict.refusal.evidence(when)

    def _form_id(self, job: Job) -> int:
        form = job.plan.forms[job.form]
        if not form.id:
            number = self._store.new_form_id()
            self._store.add_form(job.plan.form_row(form, number))
            for caption in sorted(form.captions - {form.caption}):
                self._store.add_caption(number, caption)
            form.id = number
        return form.id

    def _note_seen(self, job: Job, state: UrlState, status: int | None) -> None:
        job.plan.seen[(job.form, job.rank)] = evidence_of(state, status)

    def _count_failure(self, state: UrlState, reason: str | None) -> None:
        self._tally.failures[reason or state] += 1


def _image_of(verdict: Verdict, body: bytes, digest: bytes, resized: Resized | None) -> _Image:
    """What is stored of an image that came as `body`."""
    if resized is None or (resized.body is None and resized.failure is None):
        return _Image(body, digest, verdict.format, verdict.reason)
    if resized.body is None:
        return _Image(body, digest, verdict.format, NOT_RESIZED)
    sha256 = hashlib.sha256(resized.body).digest()
    return _Image(resized.body, sha256, sniff(resized.body).format, None, original_sha256=digest)


class _Image(NamedTuple):
    """The bytes of an image to store, and what is odd about them."""

    body: bytes
    sha256: bytes
    format: ImageFormat | None
    flaw: str | None
    original_sha256: bytes | None = None


class _Stored(NamedTuple):
    """An image and its place in the segments."""

    image: _Image
    place: tuple[int, int]
    version: int


class _Headers(NamedTuple):
    """The headers of a response in a storable form; `flaw` names one that had to be altered."""

    etag: str | None = None
    last_modified: str | None = None
    final_url: str | None = None
    flaw: str | None = None


def _kept_texts(job: Job, response: Response | None, *, stored: bool) -> _Headers:
    """`stored`: its bytes are kept, and with them their validators."""
    if response is None:
        return _Headers()
    final_url, flaw = None, None
    if response.final_url != job.url:
        final_url = encodable_url(response.final_url)
        if len(final_url) > MAX_URL_CHARS:
            final_url, flaw = None, "bad_final_url"
    if not stored:
        return _Headers(final_url=final_url, flaw=flaw)
    etag, good_etag = storable_header(response.etag)
    modified, good_modified = storable_header(response.last_modified)
    if not good_modified:
        flaw = "bad_last_modified"
    return _Headers(etag, modified, final_url, flaw if good_etag else "bad_etag")


def _sidecar(job: Job, texts: _Headers, image: _Image) -> str:
    """An image's record, as `json.dumps(…, sort_keys=True)` would write it, in a quarter of the time."""
    plan = job.plan
    form = plan.forms[job.form]
    rank = plan.rank if form.address.suffix is None else job.rank
    original = image.original_sha256
    came = "" if original is None else f'"original_sha256": "{original.hex()}", '
    return (
        f'{{"caption": {_quote(form.caption)}, "etag": {_quote_or_null(texts.etag)}'
        f', "final_url": {_quote(texts.final_url or job.url)}'
        f', "last_modified": {_quote_or_null(texts.last_modified)}'
        f', "masked": {"true" if plan.masked else "false"}, {came}"rank": {"null" if rank is None else rank}'
        f', "section": {_quote(plan.section)}, "sha256": "{image.sha256.hex()}", "url": {_quote(job.url)}}}'
    )


def _quote_or_null(text: str | None) -> str:
    return "null" if text is None else _quote(text)

"""Fetches images from their own site: one request for one job, and its verdict."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.core.contracts import UrlState
from scrapers.crawl.image_fetcher import Attempt
from scrapers.crawl.jobs import Job
from scrapers.fetch.host import Host
from scrapers.fetch.hosts import Hosts
from scrapers.fetch.optouts.signals import Refusal
from scrapers.fetch.response import FetchError, Response
from scrapers.fetch.sniff import sniff
from scrapers.fetch.storable import ALTERED
from scrapers.fetch.verdict import Verdict, judge_response, opt_out

_STATES_OF_REASON: dict[str, UrlState] = {
    "truncated": "truncated",
    "robots": "opted_out",
    # It is unknown whether the URL may be requested: the next run tries again.
    "robots_unreachable": "pending",
}


@dataclass(kw_only=True)
class SiteFetcher:
    """See `scrapers.crawl.image_fetcher.ImageFetcher`; makes at most `attempts` requests for a job."""

    hosts: Hosts
    attempts: int

    async def fetch(self, job: Job, host: Host) -> Attempt:
        """Request a job's URL, with validators if its bytes are known."""
        hosts = self.hosts
        try:
            response = await hosts.client.get(
                job.address,
                headers=_validators(job) if job.has_bytes else None,
                allow_hop=hosts.allow_hop,
                public_only=host.public_only,
                is_whole=is_whole_image,
            )
        except FetchError as error:
            return failed_attempt(error)
        return Attempt(judge(job, host, response, heed=not hosts.ignore_opt_out), response)

    def conclude(self, job: Job, attempt: Attempt) -> Attempt | None:
        """Try again what may still work."""
        return None if attempt.verdict.retry and job.failures < self.attempts else attempt


def failed_attempt(error: FetchError) -> Attempt:
    """An attempt without a response that can be used."""
    if error.refusal is not None:
        return Attempt(opt_out(error.refusal), None)
    state = _STATES_OF_REASON.get(error.reason, "failed")
    return Attempt(Verdict(state, error.reason, error.retry, error.sign, detail=str(error)), None)


def judge(job: Job, host: Host, response: Response, *, heed: bool) -> Verdict:
    """The verdict on a response; `heed` opt-outs in its headers and in the host's TDMRep file."""
    refusal = _refusal_of(job, host, response) if heed else None
    return judge_response(response.status, refusal, response.body, stored=job.has_bytes)


def is_whole_image(body: bytes) -> bool:
    """Whether a body is a complete image."""
    return sniff(body).whole


def _refusal_of(job: Job, host: Host, response: Response) -> Refusal | None:
    """The refusal in the headers; their tdm-reservation overrides the file, its absence doesn't."""
    signals = response.signals
    if signals.refusal is not None or signals.tdm_reservation == 0:
        return signals.refusal
    rule = host.reserving(job.address)
    return None if rule is None else rule.refusal


def _validators(job: Job) -> dict[str, str] | None:
    """Headers of a conditional request."""
    assert job.known is not None
    if job.known.reason in ALTERED:
        return None  # Altered values would not match.
    headers = {}
    if job.known.etag:
        headers["If-None-Match"] = job.known.etag
    if job.known.last_modified:
        headers["If-Modified-Since"] = job.known.last_modified
    return headers or None

"""One request for one job, and its verdict."""

from __future__ import annotations

from pipeline.core.contracts import UrlState
from scrapers.crawl.jobs import Job
from scrapers.fetch.client import Client, HopCheck
from scrapers.fetch.optouts.signals import Refusal
from scrapers.fetch.response import FetchError, Response
from scrapers.fetch.sniff import sniff
from scrapers.fetch.storable import ALTERED
from scrapers.fetch.verdict import Verdict, judge_response, opt_out
from scrapers.wayback.replay import Replay

_STATES_OF_REASON: dict[str, UrlState] = {
    "truncated": "truncated",
    "robots": "opted_out",
    # It is unknown whether the URL may be requested: the next run tries again.
    "robots_unreachable": "pending",
}


async def ask_once(
    client: Client,
    job: Job,
    *,
    allow_hop: HopCheck,
    ignore_opt_out: bool,
    public_only: bool,
    reserved: Refusal | None = None,
    replay: Replay | None = None,
) -> tuple[Verdict, Response | None]:
    """Request a job's URL, with validators if its bytes are known; never raises a network error.

    `reserved` is the refusal of the host's TDMRep file, which the response's headers may override. `replay`
    interprets the responses of an archive.
    """
    stored = job.known is not None and job.known.sha256 is not None
    try:
        response = await client.get(
            job.address,
            headers=_validators(job) if stored and not job.captures else None,
            allow_hop=allow_hop if replay is None else replay.allow_redirect,
            public_only=public_only,
            is_whole=_is_whole_image,
            quiet_s=None if replay is None else replay.quiet_s,
        )
    except FetchError as error:
        if error.refusal is not None:
            return opt_out(error.refusal), None
        state = _STATES_OF_REASON.get(error.reason, "failed")
        return Verdict(state, error.reason, error.retry, error.sign, detail=str(error)), None
    if replay is not None:
        response = replay.read(response)
    refusal = None if ignore_opt_out else _refusal_of(response, reserved)
    verdict = judge_response(response.status, refusal, response.body, stored=stored)
    if replay is not None and job.captures:
        verdict = replay.judge(job.captures[0], verdict, response, heed=not ignore_opt_out)
    return verdict, response


def _is_whole_image(body: bytes) -> bool:
    return sniff(body).whole


def _refusal_of(response: Response, reserved: Refusal | None) -> Refusal | None:
    """The refusal in the headers; their tdm-reservation overrides the file, its absence doesn't."""
    signals = response.signals
    if signals.refusal is not None or signals.tdm_reservation == 0:
        return signals.refusal
    return reserved


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

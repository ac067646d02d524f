"""One request for one job, and what to make of what came."""

from __future__ import annotations

from pipeline.contracts import UrlState
from scrapers.answer import Answer, FetchError
from scrapers.client import Client, HopCheck
from scrapers.plans import Job
from scrapers.sniff import sniff
from scrapers.storable import ALTERED
from scrapers.verdict import Verdict, judge_answer
from scrapers.wayback_captures import judge_capture

_STATES_OF_REASON: dict[str, UrlState] = {
    "truncated": "truncated",
    "robots": "opted_out",
    # Whether it may be asked for is not known: the next run asks again.
    "robots_unreachable": "pending",
}


async def ask_once(
    client: Client, job: Job, *, allow_hop: HopCheck, ignore_opt_out: bool, public_only: bool
) -> tuple[Verdict, Answer | None]:
    """Ask for a job's URL, with validators if its bytes are known; raises nothing of the network."""
    stored = job.known is not None and job.known.sha256 is not None
    try:
        answer = await client.get(
            job.address,
            headers=_validators(job) if stored and not job.captures else None,
            allow_hop=allow_hop,
            public_only=public_only,
            is_whole=_is_whole_image,
        )
    except FetchError as error:
        state = _STATES_OF_REASON.get(error.reason, "failed")
        return Verdict(state, error.reason, error.retry, error.sign, detail=str(error)), None
    opt_out = None if ignore_opt_out else answer.opt_out
    verdict = judge_answer(answer.status, opt_out, answer.body, stored=stored)
    if job.captures:
        verdict = judge_capture(job.captures[0], verdict, answer)
    return verdict, answer


def _is_whole_image(body: bytes) -> bool:
    return sniff(body).whole


def _validators(job: Job) -> dict[str, str] | None:
    """Headers that ask only for what has changed since."""
    assert job.known is not None
    if job.known.reason in ALTERED:
        return None  # They were not kept as they came.
    headers = {}
    if job.known.etag:
        headers["If-None-Match"] = job.known.etag
    if job.known.last_modified:
        headers["If-Modified-Since"] = job.known.last_modified
    return headers or None

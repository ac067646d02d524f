"""The interface between a crawl and what it fetches images from: their site, or an archive of it."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from scrapers.crawl.jobs import Job
from scrapers.fetch.host import Host
from scrapers.fetch.response import Response
from scrapers.fetch.verdict import Verdict


class Attempt(NamedTuple):
    """One request for a job: its verdict, and the response if there was one."""

    verdict: Verdict
    response: Response | None


class ImageFetcher(Protocol):
    """Fetches the images of jobs and decides when to stop trying. The crawl decides when it may ask."""

    async def fetch(self, job: Job, host: Host) -> Attempt:
        """Make one request at `job.address`, whose host is `host`; never raises a network error."""

    def conclude(self, job: Job, attempt: Attempt) -> Attempt | None:
        """What to record of a job after its latest attempt; None to make another one.

        May change `job.address`.
        """

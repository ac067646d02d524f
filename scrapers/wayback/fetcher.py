"""Fetches images from a web archive: the newest capture of each, or an older one if that is no good."""

from __future__ import annotations

from dataclasses import dataclass

from scrapers.crawl.image_fetcher import Attempt
from scrapers.crawl.jobs import Job
from scrapers.crawl.site_fetcher import failed_attempt, is_whole_image, judge
from scrapers.fetch.host import Host
from scrapers.fetch.hosts import Hosts
from scrapers.fetch.response import FetchError
from scrapers.wayback.captures import older_captures
from scrapers.wayback.jobs import CaptureJob
from scrapers.wayback.replay import Replay

# Attempts at a capture with a 5xx, which must not hold up the others.
_BROKEN_CAPTURE = 3


@dataclass(kw_only=True)
class ArchiveFetcher:
    """See `scrapers.crawl.image_fetcher.ImageFetcher`; makes at most `attempts` requests for a capture."""

    hosts: Hosts
    replay: Replay
    attempts: int

    async def fetch(self, job: Job, host: Host) -> Attempt:
        """Request the newest capture of a job that is left to try."""
        assert isinstance(job, CaptureJob)
        heed = not self.hosts.ignore_opt_out
        try:
            response = await self.hosts.client.get(
                job.address,
                allow_hop=self.replay.allow_redirect,
                public_only=host.public_only,
                is_whole=is_whole_image,
                quiet_s=self.replay.quiet_s,
            )
        except FetchError as error:
            return failed_attempt(error)
        response = self.replay.read(response)
        verdict = judge(job, host, response, heed=heed)
        return Attempt(self.replay.judge(job.captures[0], verdict, response, heed=heed), response)

    def conclude(self, job: Job, attempt: Attempt) -> Attempt | None:
        """Try a capture again, then an older one; trouble with one outweighs that the last is missing."""
        assert isinstance(job, CaptureJob)
        if attempt.verdict.retry and job.failures < self._attempts_at(attempt):
            return None
        if older := older_captures(job.captures, attempt.verdict):
            job.move_to(older, attempt)
            return None
        missing = attempt.verdict.state == "missing"
        return job.trouble if missing and job.trouble is not None else attempt

    def _attempts_at(self, attempt: Attempt) -> int:
        broken = attempt.response is not None and attempt.response.status >= 500
        return min(_BROKEN_CAPTURE, self.attempts) if broken else self.attempts

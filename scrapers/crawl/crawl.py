"""The crawl itself: plans in, requests out, responses into the store; one event loop, bounded queues.

    plans (lazy) → open plans → jobs ready per host → requests in flight → outcomes → store
                        ↑ fan-out after a probe ↓          ↓ retry after a delay

`window` decides how far to read ahead, and keeps the plans of hosts that have enough jobs; `turns` limit
the requests in flight at all hosts together. So memory and connections depend neither on the number of URLs
nor on that of hosts.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from pipeline.core.progress import Progress, no_progress
from scrapers.config import ScrapeConfig
from scrapers.crawl.dispatcher import Dispatcher
from scrapers.crawl.image_fetcher import Attempt, ImageFetcher
from scrapers.crawl.jobs import Job, OpenPlan, PlanOpener
from scrapers.crawl.recorder import Arrival, Recorder, Resized, Tally, WallClock
from scrapers.crawl.window import Window
from scrapers.fetch.host import Host
from scrapers.fetch.hosts import Hosts
from scrapers.fetch.optouts.embedded import refusal_finder
from scrapers.fetch.pace import parse_retry_after
from scrapers.fetch.response import Response
from scrapers.fetch.verdict import Verdict
from scrapers.rawstore.batch_writer import Store
from scrapers.source import CaptionPlan

if TYPE_CHECKING:
    from scrapers.resizing.workers import Resizer

logger = logging.getLogger(__name__)

_PLANS_AT_ONCE = 64
_PROGRESS_EVERY_S = 0.5
_RENEW_EVERY_S = 60.0


class Crawl:
    """One run over the plans of a source. Create it inside the event loop that runs it."""

    def __init__(
        self,
        config: ScrapeConfig,
        *,
        hosts: Hosts,
        store: Store,
        opener: PlanOpener,
        fetcher: ImageFetcher | None,
        num_urls: int,
        num_hosts: int = 1,
        progress: Progress = no_progress,
        clock: WallClock = time.time,
        resizer: Resizer | None = None,
    ) -> None:
        """Without a `fetcher` nothing can be requested: `leave` the plans."""
        self.tally = Tally()
        # URLs that a closed host left for another run, and those of them that have no row yet.
        self.left = self.left_new = 0
        self.hosts = hosts
        self._backoff = hosts.backoff
        self._rng = hosts.rng
        self._now = hosts.monotonic
        self._store = store
        self._opener = opener
        self._fetcher = fetcher
        self._progress = progress
        self._resizer = resizer
        self._resizing: set[asyncio.Task[None]] = set()
        self._recorder = Recorder(
            store,
            self.tally,
            clock=clock,
            refresh_since=opener.refresh_since,
            gone_after=config.gone_after,
            heed=refusal_finder(hosts.listed, ignore_opt_out=config.ignore_opt_out),
            refused=store.folder.parent / "refused" if config.keep_refused else None,
        )
        self._plans: Iterator[CaptionPlan] = iter(())
        self._filling = False
        self._exhausted = False
        self._window = Window(hosts, num_hosts=num_hosts, concurrency=config.concurrency)
        self._dispatcher = Dispatcher(
            hosts,
            self._window,
            self.tally,
            spawn=self._spawn,
            work=self._work,
            settle=self._settle,
            drop=self._drop,
            taken=self._supply,
        )
        self._unparking: set[Host] = set()
        self._num_open = 0
        self._num_done = 0
        self._total = num_urls
        self._came: list[tuple[Job, Attempt]] = []
        self._came_bytes = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._ended = asyncio.Event()
        self._error: BaseException | None = None
        self._stopped = False
        store.failed = self.fail
        # Bytes that arrived and are not on disk yet count towards the budget.
        budget = hosts.client.budget
        budget.elsewhere = self._bytes_that_wait
        store.written = budget.wake

    async def run(self, plans: Iterable[CaptionPlan]) -> None:
        """Request everything that the plans name and is not known; return when it is on disk.

        Raises StorageError if writing fails. After `stop` it returns early, with everything that arrived
        flushed.
        """
        self._plans = iter(plans)
        reporting = asyncio.get_running_loop().create_task(self._report_progress())
        self._spawn(self._renew_robots())
        try:
            self._fill()
            await self._ended.wait()
        finally:
            reporting.cancel()
            await self._cancel_requests()
        if self._error is None:
            self._settle_all()
            while self._resizing:
                await asyncio.wait(self._resizing)
            await self._store.flush()
        if self._error is not None:
            raise self._error
        self._progress(self._num_done, self._total, dict(self.tally.failures))

    def leave(self, plans: Iterable[CaptionPlan]) -> None:
        """Leave what is not known of these plans for another run."""
        for plan in plans:
            opened = self._open_plan(plan)
            if opened is not None and len(opened.seen) < len(opened.ranks):
                self._leave(opened)

    def stop(self) -> None:
        """Start no more requests; `run` flushes and returns."""
        self._stopped = self._dispatcher.stopped = True
        self._ended.set()

    @property
    def stopped(self) -> bool:
        """Whether `stop` was called before the end."""
        return self._stopped

    @property
    def wrote(self) -> bool:
        """Whether this run changed the raw store, other than the times of requests."""
        tally = self.tally
        changes = tally.stored, tally.gone, tally.captions, tally.withdrawn, tally.failures
        return any(changes)

    def fail(self, error: BaseException) -> None:
        """End the run with this error."""
        self._error = self._error or error
        self.stop()

    def _bytes_that_wait(self) -> int:
        resizing = 0 if self._resizer is None else self._resizer.waiting_bytes
        return self._store.pending_bytes() + self._came_bytes + resizing

    async def _cancel_requests(self) -> None:
        tasks = [*self._tasks, *(host.loading for host in self.hosts.all() if host.loading)]
        for host in self.hosts.all():
            if host.timer is not None:
                host.timer.cancel()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _report_progress(self) -> None:
        while True:
            notes: dict[str, int | float | str] = dict(self.tally.failures)
            if (waiting := self.hosts.waiting(self._window.supplied)) is not None:
                notes["waiting for"] = waiting
            self._progress(self._num_done, self._total, notes)
            await asyncio.sleep(_PROGRESS_EVERY_S)

    async def _renew_robots(self) -> None:
        while True:
            await asyncio.sleep(_RENEW_EVERY_S)
            await self.hosts.renew_robots()

    # --- Plans ------------------------------------------------------------------------------------

    def _fill(self) -> None:
        """Open plans until enough jobs wait."""
        self._filling = False
        for _ in range(_PLANS_AT_ONCE):
            if self._stopped or self._exhausted:
                break
            if not self._wants_plans():
                return
            try:
                plan = next(self._plans, None)
            except Exception as error:
                self.fail(error)
                return
            if plan is None:
                self._exhausted = True
                break
            if not self._window.park(plan):
                self._open(plan)
        else:
            # Most of these were finished already, or are parked: yield to requests and signals.
            self._fill_soon()
            return
        self._check_end()

    def _wants_plans(self) -> bool:
        return not self._dispatcher.is_saturated and self._window.wants_plans(self._num_open)

    def _fill_soon(self) -> None:
        if not self._filling and not self._exhausted and self._wants_plans():
            self._filling = True
            asyncio.get_running_loop().call_soon(self._fill)

    def _supply(self, host: Host) -> None:
        """A job of `host` was taken: others are needed, perhaps."""
        self._unpark_if_low(host)
        self._fill_soon()

    def _unpark_if_low(self, host: Host) -> None:
        if host not in self._unparking and self._window.is_low(host, self._num_open):
            self._unparking.add(host)
            asyncio.get_running_loop().call_soon(self._unpark, host)

    def _unpark(self, host: Host) -> None:
        """Open parked plans of a host until enough of its jobs wait."""
        self._unparking.discard(host)
        for _ in range(_PLANS_AT_ONCE):
            if self._stopped or not self._window.is_low(host, self._num_open):
                break
            self._open(self._window.unpark(host))
        self._unpark_if_low(host)
        self._check_end()

    def _open_plan(self, plan: CaptionPlan) -> OpenPlan | None:
        opened = self._opener.open(plan)
        for form, caption in self._opener.take_captions():
            self._store.add_caption(form, caption)
            self.tally.captions += 1
        return opened

    def _open(self, plan: CaptionPlan) -> None:
        opened = self._open_plan(plan)
        if opened is None:
            self._total -= len(plan.ranks)
            return
        self._num_done += opened.decided
        self._total += len(opened.ranks) - len(plan.ranks)
        self._advance(opened)

    def _advance(self, plan: OpenPlan) -> None:
        """Pass a plan's next jobs to their hosts, or close the plan."""
        jobs, answered = plan.jobs(), plan.answered()
        plan.outstanding = len(jobs) + len(answered)
        self._num_open += plan.outstanding
        if not plan.outstanding:
            self._finish(plan)
        for job, verdict in answered:
            self._settle_soon(job, Attempt(verdict, None))
        for job in jobs:
            self._dispatcher.add(job)
        if jobs:
            # Deferred: jobs that are settled without a request would recurse into this.
            host = self.hosts.of(jobs[0].address)
            asyncio.get_running_loop().call_soon(self._dispatcher.wake, host)

    def _finish(self, plan: OpenPlan) -> None:
        self._total += len(plan.seen) - len(plan.ranks)
        self._close(plan)

    def _close(self, plan: OpenPlan) -> None:
        keys = [form.address.key for form in plan.forms]
        if plan.decided == len(plan.seen):
            self._opener.close(keys)
        else:
            self._store.when_committed(partial(self._opener.close, keys))

    def _leave(self, plan: OpenPlan) -> None:
        """The host is closed: leave the rest of the plan for another run."""
        left = max(1, len(plan.ranks) - len(plan.seen))
        have_rows = sum(place not in plan.seen for place in plan.again)
        self.left += left
        self.left_new += max(0, left - have_rows)
        self._close(plan)

    def _check_end(self) -> None:
        if self._exhausted and self._num_open == 0 and self._window.is_empty:
            self._ended.set()

    # --- Requests ---------------------------------------------------------------------------------

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended_task)

    def _ended_task(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.fail(error)

    async def _work(self, host: Host, first: Job) -> None:
        """A slot: processes one job after another while the host's pace allows, and no other host waits."""
        job: Job | None = first
        while job is not None:
            try:
                await self._attempt(host, job)
            finally:
                self._dispatcher.end_request()
            if self._store.is_full:
                await self._store.room()
            if self._resizer is not None and self._resizer.is_full:
                await self._resizer.room()
            job = self._dispatcher.next_job(host)

    async def _attempt(self, host: Host, job: Job) -> None:
        assert self._fetcher is not None, "no plan may be opened without a fetcher"
        started = self._now()
        self.tally.requests += 1
        job.requests += 1
        try:
            attempt = await self._fetcher.fetch(job, host)
        except BaseException:
            host.pace.finish("neutral", started=started, now=self._now())
            raise
        verdict, response = attempt
        if response is not None:
            job.latencies_s += (response.latency_s,)
        wait_s = parse_retry_after(response.retry_after) if response and verdict.retry else None
        now = self._now()
        host.pace.finish(
            verdict.sign,
            started=started,
            now=now,
            retry_after_s=wait_s,
            answered=response is not None,
        )
        if verdict.sign != "good":
            self._handle_trouble(host, verdict, response)
        # While a host is down, a failed request is not the image's fault and no attempt.
        job.failures += not host.pace.strikes
        final = self._fetcher.conclude(job, attempt)
        if final is None:
            self._ask_again(host, job, verdict)
        else:
            self._settle_soon(job, final)

    def _handle_trouble(self, host: Host, verdict: Verdict, response: Response | None) -> None:
        """Log that a host waits, or leave it for another run."""
        why = verdict.detail or verdict.reason or verdict.state
        if response is not None:
            why = f"status {response.status}"
            if response.retry_after is not None:
                why += f", Retry-After: {response.retry_after[:40]}"
        if not self.hosts.close_if_down(host, why):
            self.hosts.log_wait(host, why)
            return
        for job, timer in list(host.later.items()):
            timer.cancel()
            self._requeue(host, job)

    def _ask_again(self, host: Host, job: Job, verdict: Verdict) -> None:
        """Retry after a delay; the whole host waits if it asked for that."""
        self.tally.retries[verdict.reason or verdict.state] += 1
        delay_s = self._backoff.delay_s(max(1, job.failures), self._rng)
        loop = asyncio.get_running_loop()
        host.later[job] = loop.call_later(0.0 if host.closed else delay_s, self._requeue, host, job)

    def _requeue(self, host: Host, job: Job) -> None:
        del host.later[job]
        self._dispatcher.add(job, first=True)
        self._dispatcher.wake(host)

    def _settle_soon(self, job: Job, attempt: Attempt) -> None:
        """Settle the job together with others that arrive by then: starting the next request comes first."""
        if not self._came:
            asyncio.get_running_loop().call_soon(self._settle_all)
        self._came.append((job, attempt))
        self._came_bytes += len(attempt.response.body) if attempt.response is not None else 0

    def _settle_all(self) -> None:
        came, self._came, self._came_bytes = self._came, [], 0
        for job, (verdict, response) in came:
            self._settle(job, verdict, response)

    def _settle(self, job: Job, verdict: Verdict, response: Response | None = None) -> None:
        arrival = self._recorder.examine(job, verdict, response)
        if arrival.is_new and self._resizer is not None:
            task = asyncio.get_running_loop().create_task(self._resize(self._resizer, job, arrival))
            self._resizing.add(task)
            task.add_done_callback(self._end_resizing)
        else:
            self._record(job, arrival)

    async def _resize(self, resizer: Resizer, job: Job, arrival: Arrival) -> None:
        assert arrival.response is not None
        resized = await resizer.resize(arrival.response.body)
        if resized.failure is not None:
            logger.info("%s is stored as it came (%s).", job.url, resized.failure)
        self._record(job, arrival, resized)

    def _end_resizing(self, task: asyncio.Task[None]) -> None:
        self._resizing.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.fail(error)
        self.hosts.client.budget.wake()

    def _record(self, job: Job, arrival: Arrival, resized: Resized | None = None) -> None:
        self._recorder.record(job, arrival, resized)
        self._num_done += 1
        self._job_ended(job.plan, self._advance)

    def _drop(self, job: Job) -> None:
        self._job_ended(job.plan, self._leave)

    def _job_ended(self, plan: OpenPlan, then: Callable[[OpenPlan], None]) -> None:
        plan.outstanding -= 1
        self._num_open -= 1
        if plan.outstanding == 0:
            then(plan)
        self._fill_soon()
        self._check_end()

"""The mock server: the page, the CDN's two folders, robots.txt, and faults on request.

`Replica` runs it in a thread, for tests and benchmarks; `run_forever` serves until it is stopped, for
`pipeline replica`.
"""

from __future__ import annotations

import asyncio
import hashlib
import signal
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Protocol

from aiohttp import web

from pipeline.core.errors import SourceError
from pipeline.demo.replica.answers import answer_fault, conditional
from pipeline.demo.replica.config import ReplicaConfig, ReplicaServeConfig
from pipeline.demo.replica.faults import Fault, check_plan, fault_for, fault_of
from pipeline.demo.replica.holdings import Entry, Holdings
from pipeline.demo.replica.html import render_page
from pipeline.demo.replica.images import Images
from scrapers.sources.dalleblog.urls import parse_sample_url, sample_url

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

HOST = "127.0.0.1"
CDN_PATH = "/dall-e/v2"
PAGE_PATH = "/blog/dall-e/"
PUBLISHED = "Tue, 05 Jan 2021 17:00:00 GMT"
CHANGED = "Thu, 24 Feb 2022 17:00:00 GMT"
_ROBOTS = {
    "allow": (200, "User-agent: *\nAllow: /\n"),
    "disallow": (200, "User-agent: *\nDisallow: /dall-e/\n"),
    "missing": (404, "not found\n"),
    "error": (500, "internal server error\n"),
}


class Middleware(Protocol):
    """An aiohttp middleware."""

    def __call__(self, request: web.Request, handler: Handler) -> Awaitable[web.StreamResponse]:
        """Respond to a request, using the handler."""


class Site:
    """The served content, with counts of requests by path and of responses by status."""

    def __init__(self, config: ReplicaConfig) -> None:
        check_plan(config.faults)
        self.config = config
        self.holdings = Holdings(config)
        self.images = Images(size=config.size, cache_dir=config.cache_dir)
        self.requests: Counter[str] = Counter()
        self.statuses: Counter[int] = Counter()
        self.editions: Counter[str] = Counter()
        self.removed: set[str] = set()
        self._drawers = ThreadPoolExecutor(max_workers=2, thread_name_prefix="drawing")
        self._pages: dict[str, bytes] = {}

    def app(self) -> web.Application:
        """The application with its routes."""
        app = web.Application(middlewares=[_request_counter(self)])
        app.router.add_get("/", self._page)
        app.router.add_get(PAGE_PATH, self._page)
        app.router.add_get("/robots.txt", self._robots)
        app.router.add_get(CDN_PATH + "/samples/{rest:.+}", self._sample)
        app.router.add_get(CDN_PATH + "/image_prompts/{section}.png", self._prompt)
        return app

    def close(self) -> None:
        """Stop the drawing threads."""
        self._drawers.shutdown(wait=False, cancel_futures=True)

    def find(self, path: str) -> tuple[Entry, int] | None:
        """The caption and the rank of an image's path, None if there is no such image."""
        url = parse_sample_url(path, cdn=CDN_PATH)
        if url is None or url.rank is None or path in self.removed:
            return None
        entry = self.holdings.find(url.section, url.key)
        return (entry, url.rank) if entry is not None and url.rank in entry.ranks else None

    def true_bytes(self, path: str) -> bytes | None:
        """The undamaged image at a path, whatever its fault; None if there is none."""
        found = self.find(path)
        if found is None:
            return None
        return self.images.sample(*found, edition=self.editions[path])

    async def _page(self, request: web.Request) -> web.Response:
        if self.config.page_status != 200:
            return web.Response(status=self.config.page_status, text="no page today\n")
        plain = self.config.design == "plain"
        cdn = CDN_PATH if plain else f"http://{request.host}{CDN_PATH}"
        if cdn not in self._pages:
            html = render_page(self.holdings, design=self.config.design, cdn=cdn)
            self._pages[cdn] = html.encode()
        return conditional(request, self._pages[cdn], kind="text/html", modified=PUBLISHED)

    async def _robots(self, _: web.Request) -> web.Response:
        status, text = _ROBOTS[self.config.robots]
        return web.Response(status=status, text=text)

    async def _prompt(self, request: web.Request) -> web.Response:
        name = request.match_info["section"]
        section = next((s for s in self.holdings.sections if s.name == name), None)
        if section is None or section.image_prompt is None:
            raise web.HTTPNotFound
        data = self.images.prompt(section)
        return conditional(request, data, kind="image/png", modified=PUBLISHED)

    async def _sample(self, request: web.Request) -> web.StreamResponse:
        path = request.raw_path.partition("?")[0]
        if self.find(path) is None:
            raise web.HTTPNotFound
        loop = asyncio.get_running_loop()
        data = await loop.run_in_executor(self._drawers, self.true_bytes, path)
        assert data is not None
        fault = fault_for(self.config.faults, path, self.requests[request.raw_path])
        if fault is not None and "moved" not in request.query:
            return await answer_fault(request, fault, data, plan=self.config.faults)
        modified = CHANGED if self.editions[path] else PUBLISHED
        return conditional(request, data, kind="image/png", modified=modified)


def _request_counter(site: Site) -> Middleware:
    @web.middleware
    async def count_requests(request: web.Request, handler: Handler) -> web.StreamResponse:
        site.requests[request.raw_path] += 1
        try:
            response = await handler(request)
        except web.HTTPException as error:
            site.statuses[error.status] += 1
            raise
        except ConnectionResetError:
            site.statuses[0] += 1
            raise
        site.statuses[response.status] += 1
        return response

    return count_requests


class Replica:
    """The mock server in a thread: `with Replica(ReplicaConfig(...)) as replica: replica.url`.

    Raises SourceError if the port is taken.
    """

    def __init__(self, config: ReplicaConfig | None = None) -> None:
        self.site = Site(config or ReplicaConfig())
        self.url = ""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="replica", daemon=True)
        self._runner: web.AppRunner | None = None

    def __enter__(self) -> Replica:
        self._thread.start()
        start = asyncio.run_coroutine_threadsafe(start_site(self.site), self._loop)
        self._runner, self.url = start.result()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._runner is not None
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self.site.close()

    @property
    def page_url(self) -> str:
        """The page's URL."""
        return self.url + PAGE_PATH

    @property
    def cdn(self) -> str:
        """The URL above `samples/`."""
        return self.url + CDN_PATH

    @property
    def requests(self) -> Counter[str]:
        """The number of requests so far, by path with query."""
        return self.site.requests

    @property
    def statuses(self) -> Counter[int]:
        """The number of responses so far, by status; a reset connection counts as 0."""
        return self.site.statuses

    def urls(self, *sections: str, limit: int | None = None) -> Iterator[str]:
        """The URLs of all images of these sections (all if none given) that a scraper can find.

        `limit` is the number of captions per section.
        """
        for name in sections or tuple(section.name for section in self.site.holdings.sections):
            for number, entry in enumerate(self.site.holdings.shown(name)):
                if limit is not None and number >= limit:
                    break
                urls = (sample_url(self.cdn, name, entry.key, rank) for rank in entry.ranks)
                yield from (url for url in urls if self.path_of(url) not in self.site.removed)

    def expected(self, *sections: str, limit: int | None = None) -> dict[str, str]:
        """The ground truth for `urls`: URL → sha256 of the undamaged image, whatever its fault."""
        urls = self.urls(*sections, limit=limit)
        return {url: hashlib.sha256(self.true_bytes(url)).hexdigest() for url in urls}

    def true_bytes(self, url: str) -> bytes:
        """The undamaged image at a URL. Raises KeyError if there is none."""
        data = self.site.true_bytes(self.path_of(url))
        if data is None:
            raise KeyError(url)
        return data

    def fault(self, url: str) -> Fault | None:
        """The fault of a URL, None if it has none."""
        return fault_of(self.site.config.faults, self.path_of(url))

    def change(self, url: str) -> None:
        """Replace the image at this URL, with another ETag and Last-Modified."""
        self.site.editions[self.path_of(url)] += 1

    def remove(self, url: str) -> None:
        """Remove the image at this URL for good."""
        self.site.removed.add(self.path_of(url))

    def path_of(self, url: str) -> str:
        """A URL without scheme and host, as used for faults and counts."""
        return url.removeprefix(self.url)


async def start_site(site: Site) -> tuple[web.AppRunner, str]:
    """Listen on the config's port (0: any free one); return the runner to clean up, and the URL."""
    runner = web.AppRunner(site.app(), access_log=None, handle_signals=False, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, HOST, site.config.port, backlog=1024).start()
    except OSError as error:
        await runner.cleanup()
        raise SourceError(
            f"The mock server can't listen on port {site.config.port}: {error.strerror or error}. "
            "Give another --port, or 0 for any free one."
        ) from error
    return runner, f"http://{HOST}:{runner.addresses[0][1]}"


def run_forever(config: ReplicaServeConfig, announce: Callable[[str], None]) -> None:
    """Serve until SIGINT or SIGTERM; `announce` is called with the URL once the server listens.

    Raises ConfigError for invalid shares and SourceError if the port is taken.
    """
    asyncio.run(_serve(Site(config.replica()), announce))


async def _serve(site: Site, announce: Callable[[str], None]) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    runner, url = await start_site(site)
    announce(url)
    try:
        await stop.wait()
    finally:
        await runner.cleanup()
        site.close()

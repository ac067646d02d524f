"""Listen, announce the URL, serve until SIGINT or SIGTERM, and end cleanly."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import signal
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any

from aiohttp import web

from pipeline.core.errors import ConfigError
from pipeline.core.workspace import Workspace
from pipeline.serve.config import ServeConfig
from pipeline.serve.guard import check_exposure
from pipeline.serve.site import Site

# A connection that has not sent a whole request head within this time is closed.
HEAD_TIMEOUT_S = 20.0
KEEPALIVE_S = 30.0
SHUTDOWN_S = 3.0
_BACKLOG = 2048
_FILES = 1 << 16


def run_forever(config: ServeConfig, announce: Callable[[str], None]) -> None:
    """Serve until SIGINT or SIGTERM; `announce` is called with the URL once the server listens.

    Raises ConfigError for a port that can't be used, or an address without a token; WorkspaceError for a
    folder that is not a workspace.
    """
    check_exposure(config)
    Workspace(config.workspace).open()
    asyncio.run(_serve(config, announce))


async def _serve(config: ServeConfig, announce: Callable[[str], None]) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    site = Site(config)
    try:
        async with listening(site) as url:
            announce(url)
            await stop.wait()
    finally:
        site.close()


@contextlib.asynccontextmanager
async def listening(site: Site) -> Any:
    """Listen on the config's address; yields the URL."""
    _allow_many_files()
    runner = web.AppRunner(
        site.app(),
        access_log=None,
        handle_signals=False,
        handler_cancellation=True,
        keepalive_timeout=KEEPALIVE_S,
        shutdown_timeout=SHUTDOWN_S,
    )
    await runner.setup()
    loop, config = asyncio.get_running_loop(), site.config
    protocols = runner.server
    assert protocols is not None

    def accept() -> asyncio.Protocol:
        protocol = protocols()
        site.silent[id(protocol)] = protocol
        loop.call_later(HEAD_TIMEOUT_S, _close_silent, site, protocol)
        return protocol

    try:
        try:
            server = await loop.create_server(accept, config.host, config.port, backlog=_BACKLOG)
        except OSError as error:
            raise ConfigError(
                f"--host {config.host} --port {config.port} can't be used: {error.strerror or error}. Give "
                "another --port, or 0 for any free one."
            ) from error
        try:
            host, port = server.sockets[0].getsockname()[:2]
            yield f"http://{f'[{host}]' if ':' in host else host}:{port}/"
        finally:
            server.close()
            await asyncio.to_thread(site.close)
    finally:
        await runner.cleanup()


def _close_silent(site: Site, protocol: Any) -> None:
    """Close a connection over which no request has come."""
    silent: Any = site.silent.pop(id(protocol), None)
    if silent is not None and silent.transport is not None:
        silent.transport.abort()


def _allow_many_files() -> None:
    """Raise the limit of open files, each connection being one, as far as the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FILES if hard == resource.RLIM_INFINITY else min(hard, _FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


class BackgroundServer:
    """The server in a thread, for tests and benchmarks: `with BackgroundServer(config) as url:`."""

    def __init__(self, config: ServeConfig) -> None:
        self._config = config
        self._loop = asyncio.new_event_loop()
        self._stack = contextlib.AsyncExitStack()
        self._thread = threading.Thread(target=self._loop.run_forever, name="serve", daemon=True)
        self.site: Site | None = None

    def __enter__(self) -> str:
        check_exposure(self._config)
        self.site = Site(self._config)
        self._thread.start()
        return str(self._run(self._stack.enter_async_context(listening(self.site))))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self.site is not None
        self._run(self._stack.aclose())
        self.site.close()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

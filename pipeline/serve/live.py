"""The overview, training pages, and server-sent events: what runs in the workspace, as it changes.

One poller reads the workspace for all pages that are open, and only while one is.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from typing import Any

from aiohttp import web

from pipeline.app.status import find_rows
from pipeline.core.errors import PipelineError
from pipeline.core.regular_files import read_regular
from pipeline.core.workspace import Workspace, read_marker
from pipeline.serve.errors import RequestError
from pipeline.serve.pages import training
from pipeline.serve.pages.overview import overview_page, stage_table, status_row
from pipeline.serve.responses import html_response
from pipeline.serve.training_logs import Training, list_trainings, read_curves

logger = logging.getLogger(__name__)

POLL_S = 1.0
BEAT_S = 15.0
WRITE_TIMEOUT_S = 15.0
MOST_LISTENERS = 128
MAX_GRID_BYTES = 64 << 20


class Live:
    """The handlers, and the poller that they share."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._listeners: set[asyncio.Queue[str]] = set()
        self._poller: asyncio.Task[None] | None = None
        self._last = ""

    def add_routes(self, app: web.Application) -> None:
        """Add the routes to the application."""
        app.router.add_get("/training", self._trainings)
        app.router.add_get("/training/{name:.+}", self._training)
        app.router.add_get("/api/training/{name:.+}", self._part)
        app.router.add_get("/grid/{step}/{name:.+}", self._grid)
        app.router.add_get("/api/events", self._events)
        app.on_shutdown.append(self._stop)

    async def overview(self) -> web.Response:
        """The start page."""
        rows, source = await asyncio.to_thread(self._status)
        return html_response(overview_page(source, str(self._workspace.root), rows))

    def _status(self) -> tuple[list[dict[str, str]], str]:
        root = self._workspace.root
        rows = [status_row(row) for row in find_rows(root)]
        return rows, str(read_marker(root)["source"])

    # --- Training --------------------------------------------------------------------------------

    async def _trainings(self, _: web.Request) -> web.Response:
        found = await asyncio.to_thread(list_trainings, self._workspace.root)
        return html_response(training.training_list(list(found.values())))

    async def _training(self, request: web.Request) -> web.Response:
        found = await self._find(request)
        curves = await asyncio.to_thread(read_curves, found.log)
        is_log = request.query.get("scale") == "log"
        return html_response(training.training_page(found, curves, log=is_log))

    async def _part(self, request: web.Request) -> web.Response:
        found = await self._find(request)
        curves = await asyncio.to_thread(read_curves, found.log)
        is_log = request.query.get("scale") == "log"
        response = html_response(training.training_part(found, curves, log=is_log))
        response.headers["X-Version"] = found.version
        return response

    async def _grid(self, request: web.Request) -> web.Response:
        found = await self._find(request)
        path = found.grids.get(request.match_info["step"])
        if path is None:
            raise RequestError(404, "There is no such grid.")
        body = await asyncio.to_thread(read_regular, path, max_bytes=MAX_GRID_BYTES)
        return web.Response(body=body, content_type="image/png")

    async def _find(self, request: web.Request) -> Training:
        """The run or codec of a request: its name is looked up among those that exist."""
        found = await asyncio.to_thread(list_trainings, self._workspace.root)
        name = request.match_info["name"]
        if name not in found:
            raise RequestError(404, f"There is no run or codec {name[:100]!r}.")
        return found[name]

    # --- Events ----------------------------------------------------------------------------------

    async def _events(self, request: web.Request) -> web.StreamResponse:
        if len(self._listeners) >= MOST_LISTENERS:
            raise RequestError(429, "Too many pages are open.", retry_after_s=10)
        queue: asyncio.Queue[str] = asyncio.Queue(maxsize=2)
        self._listeners.add(queue)
        if self._poller is None or self._poller.done():
            self._poller = asyncio.create_task(self._poll())
        headers = {"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-store"}
        response = web.StreamResponse(headers=headers)
        try:
            await response.prepare(request)
            if self._last:
                await _send(response, self._last)
            while True:
                try:
                    message = await asyncio.wait_for(queue.get(), BEAT_S)
                except TimeoutError:
                    message = ": still here\n\n"
                if not message:
                    return response
                await _send(response, message)
        finally:
            self._listeners.discard(queue)

    async def _poll(self) -> None:
        """Read the workspace until no page listens any more."""
        while self._listeners:
            try:
                message = await asyncio.to_thread(self._snapshot)
            except (PipelineError, OSError) as error:
                logger.info("The workspace can't be read at the moment: %s", error)
            else:
                if message != self._last:
                    self._last = message
                    self._broadcast(message)
            await asyncio.sleep(POLL_S)
        self._last = ""

    def _broadcast(self, message: str) -> None:
        for queue in self._listeners:
            if queue.full():
                queue.get_nowait()  # a slow client gets the newest state
            queue.put_nowait(message)

    def _snapshot(self) -> str:
        rows, _ = self._status()
        trainings = list_trainings(self._workspace.root)
        value: dict[str, Any] = {
            "stages": stage_table(rows),
            "running": [row["folder"] or row["stage"] for row in rows if row["state"] == "running"],
            "trainings": {name: each.version for name, each in trainings.items()},
        }
        return f"event: state\ndata: {json.dumps(value)}\n\n"

    async def _stop(self, _: web.Application) -> None:
        for queue in self._listeners:
            if queue.full():
                queue.get_nowait()
            queue.put_nowait("")
        if self._poller is not None:
            self._poller.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._poller


async def _send(response: web.StreamResponse, message: str) -> None:
    try:
        async with asyncio.timeout(WRITE_TIMEOUT_S):
            await response.write(message.encode("utf-8", "replace"))
    except TimeoutError:
        raise ConnectionResetError("the client does not read") from None

"""The application: its parts, its routes, and what happens around every request."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from aiohttp import web

from pipeline.core.errors import PipelineError
from pipeline.core.workspace import Workspace
from pipeline.serve.apis import dalle_service, openai, page
from pipeline.serve.apis.image_service import ImageService
from pipeline.serve.browsing import Browsing
from pipeline.serve.catalogue.loader import CatalogueLoader
from pipeline.serve.config import ServeConfig
from pipeline.serve.drawing.drawing_queue import DrawingQueue
from pipeline.serve.drawing.models import Models
from pipeline.serve.errors import RequestError, error_response, json_response, wants_html
from pipeline.serve.guard import COOKIE, HEADERS, Guard
from pipeline.serve.live import Live
from pipeline.serve.measures import Measures
from pipeline.serve.pages.generate import generate_page
from pipeline.serve.responses import html_response
from pipeline.serve.sample_lookup import SampleLookup
from pipeline.serve.thumbnails import Thumbnails

logger = logging.getLogger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

STATIC = Path(__file__).parent / "static"
_KINDS = {".css": "text/css", ".js": "text/javascript"}


class Site:
    """Everything that one server holds."""

    def __init__(self, config: ServeConfig) -> None:
        self.config = config
        self.measures = Measures()
        self.guard = Guard(config)
        self.models = Models(config)
        self.drawing_queue = DrawingQueue(
            self.models.get, queue=config.queue, on_step=self.measures.add_step
        )
        self.service = ImageService(config, self.models, self.drawing_queue, self.measures)
        self.live = Live(Workspace(config.workspace))
        self.loader = CatalogueLoader(Workspace(config.workspace), config.index)
        self.thumbnails = Thumbnails(
            side=config.thumbnail, limit=config.thumbnail_mb * 1_000_000, measures=self.measures
        )
        self.lookup = SampleLookup(Workspace(config.workspace))
        self.measures.watch("waiting", "Images that wait.", lambda: self.drawing_queue.waiting)
        self.measures.watch("models", "Models loaded.", lambda: len(self.models.loaded))
        self.measures.watch(
            "thumbnail_bytes", "Memory of thumbnails.", lambda: self.thumbnails.kept_bytes
        )
        # Connections over which no request has come yet; `server` closes them after a while.
        self.silent: dict[int, asyncio.Protocol] = {}
        self._static = {path.name: path.read_bytes() for path in sorted(STATIC.iterdir())}

    def app(self) -> web.Application:
        """The application with its routes."""
        app = web.Application(middlewares=[self._around], client_max_size=1 << 20)
        app.router.add_get("/", self._start)
        app.router.add_get("/healthz", self._health)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/static/{name}", self._static_file)
        app.router.add_get("/generate", self._generate)
        self.live.add_routes(app)
        Browsing(self.loader, self.thumbnails, self.lookup).add_routes(app)
        for api in (dalle_service, openai, page):
            api.add_routes(app, self.service)
        return app

    def close(self) -> None:
        """Stop drawing, and the threads and processes that make thumbnails and the index."""
        self.drawing_queue.close()
        self.thumbnails.close()
        self.lookup.close()
        self.loader.close()

    # --- Around every request --------------------------------------------------------------------

    @web.middleware
    async def _around(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        began_s = time.monotonic()
        self.silent.pop(id(request.protocol), None)
        response = await self._answer(request, handler)
        route = _route_of(request)
        self.measures.requests.labels(route, str(response.status)).inc()
        self.measures.seconds.labels(route).observe(time.monotonic() - began_s)
        return response

    async def _answer(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            response = await self._checked(request, handler)
        except RequestError as error:
            response = error_response(request, error)
        except web.HTTPException as error:
            if error.status < 400:
                raise
            response = error_response(request, RequestError(error.status, error.reason))
        except PipelineError as error:
            response = error_response(request, RequestError(503, str(error)))
        except (ConnectionError, asyncio.CancelledError):
            raise
        except Exception:
            logger.exception("A request to %s failed", _route_of(request))
            problem = RequestError(500, "An unexpected error; the server's log says more.")
            response = error_response(request, problem)
        if not response.prepared:
            self._add_headers(request, response)
        return response

    async def _checked(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if (preflight := self.guard.preflight(request)) is not None:
            return preflight
        if (token := self.guard.given_token(request)) is not None:
            rest = {name: value for name, value in request.query.items() if name != "token"}
            to_page = web.Response(
                status=303, headers={"Location": str(request.rel_url.with_query(rest))}
            )
            to_page.set_cookie(COOKIE, token, httponly=True, samesite="Strict", path="/")
            return to_page
        self.guard.check(request)
        return await handler(request)

    def _add_headers(self, request: web.Request, response: web.StreamResponse) -> None:
        for name, value in {**HEADERS, **self.guard.cors_headers(request)}.items():
            response.headers.setdefault(name, value)
        response.headers.setdefault("Cache-Control", "no-cache")

    # --- Routes ----------------------------------------------------------------------------------

    async def _start(self, request: web.Request) -> web.StreamResponse:
        """The start page for a browser; for others the health check of dalle-service."""
        if wants_html(request):
            return await self.live.overview()
        return json_response("ok", headers={"Vary": "Accept"})

    async def _health(self, _: web.Request) -> web.Response:
        return json_response({"status": "ok", "waiting": self.drawing_queue.waiting})

    async def _metrics(self, _: web.Request) -> web.Response:
        headers = {"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
        return web.Response(body=self.measures.text(), headers=headers)

    async def _static_file(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        body = self._static.get(name)
        if body is None:
            raise RequestError(404, "There is no such file.")
        return web.Response(body=body, content_type=_KINDS[Path(name).suffix], charset="utf-8")

    async def _generate(self, request: web.Request) -> web.Response:
        html = generate_page(
            await self.service.names(),
            self.config,
            prompt=request.query.get("prompt", "")[: self.config.max_prompt],
            model=request.query.get("model", ""),
        )
        return html_response(html)


def _route_of(request: web.Request) -> str:
    """The pattern of the route, so that measures have few labels."""
    resource = request.match_info.route.resource
    return "none" if resource is None else resource.canonical

"""Refusals of requests, and how each API says them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from html import escape
from typing import Any

from aiohttp import web

_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


class RequestError(Exception):
    """A request that is refused: the status, a sentence, and for OpenAI's API the parameter and a code."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.retry_after_s = retry_after_s


def error_response(request: web.BaseRequest, error: RequestError) -> web.Response:
    """The error in the format of the API that was asked, or as a page for a browser."""
    headers = {"Cache-Control": "no-store"}
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(error.retry_after_s)
    if error.status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="pipeline serve"'
    path = request.path
    if path.startswith("/v1/"):
        return json_response(_openai(error), error.status, headers)
    if path in ("/dalle", "/dalle-list"):
        return json_response({"message": error.message}, error.status, headers)
    if wants_html(request):
        return web.Response(
            status=error.status, text=_page(error), content_type="text/html", headers=headers
        )
    return json_response({"error": error.message}, error.status, headers)


def json_response(
    value: Any, status: int = 200, headers: Mapping[str, str] | None = None
) -> web.Response:
    """A value as JSON."""
    body = json.dumps(value, ensure_ascii=False, allow_nan=False).encode("utf-8", "replace")
    return web.Response(
        status=status, body=body, headers=headers, content_type="application/json", charset="utf-8"
    )


def wants_html(request: web.BaseRequest) -> bool:
    """Whether a browser asks for a page."""
    return "text/html" in request.headers.get("Accept", "") and not request.path.startswith("/api/")


def _openai(error: RequestError) -> dict[str, Any]:
    """The error object of OpenAI's API specification."""
    kind = _TYPES.get(error.status)
    if kind is None:
        kind = "invalid_request_error" if error.status < 500 else "server_error"
    body = {"message": error.message, "type": kind, "param": error.param, "code": error.code}
    return {"error": body}


def _page(error: RequestError) -> str:
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>{error.status}</title><link rel="stylesheet" href="/static/style.css">'
        f'<body><main><h1>{error.status}</h1><p dir="auto">{escape(error.message)}</p>'
        '<p><a href="/">To the start page</a></p></main></body></html>'
    )

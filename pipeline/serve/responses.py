"""Responses that several routes make."""

from __future__ import annotations

from aiohttp import web


def html_response(html: str) -> web.Response:
    """A page."""
    return web.Response(
        body=html.encode("utf-8", "replace"), content_type="text/html", charset="utf-8"
    )

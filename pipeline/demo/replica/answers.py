"""Responses of the mock server: complete and conditional ones, and those that imitate failing servers."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import socket
import struct
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from email.utils import formatdate, parsedate_to_datetime
from functools import lru_cache

from aiohttp import web

from pipeline.demo.replica.config import FaultPlan
from pipeline.demo.replica.faults import Fault, FaultKind

HUGE_BYTES = 10_000_000_000
BOMB_BYTES = 1 << 30
_CHUNK = b"\0" * (1 << 20)


@dataclass(frozen=True)
class RequestedImage:
    """A request, the image that it asks for, and the parameters of faults."""

    request: web.Request
    data: bytes
    plan: FaultPlan


Answer = Callable[[RequestedImage], Awaitable[web.StreamResponse]]


def conditional(
    request: web.Request,
    data: bytes,
    *,
    kind: str,
    modified: str,
    extra: Mapping[str, str] | None = None,
) -> web.Response:
    """The whole body with strong ETag and Last-Modified, or 304 if the client has it already."""
    etag = f'"{hashlib.sha256(data).hexdigest()[:32]}"'
    headers = {
        "ETag": etag,
        "Last-Modified": modified,
        "Cache-Control": "max-age=0",
        **(extra or {}),
    }
    if _is_cached_by_client(request, etag, modified):
        return web.Response(status=304, headers=headers)
    charset = "utf-8" if kind.startswith("text/") else None
    return web.Response(body=data, headers=headers, content_type=kind, charset=charset)


def _is_cached_by_client(request: web.Request, etag: str, modified: str) -> bool:
    """RFC 9110, 13.2.2: If-None-Match takes precedence over If-Modified-Since."""
    requested = request.headers.get("If-None-Match")
    if requested is not None:
        tags = {tag.strip().removeprefix("W/") for tag in requested.split(",")}
        return bool(tags & {etag, "*"})
    since = request.headers.get("If-Modified-Since")
    if since is None:
        return False
    try:
        return parsedate_to_datetime(modified) <= parsedate_to_datetime(since)
    except ValueError:
        return False


async def answer_fault(
    request: web.Request, fault: Fault, data: bytes, *, plan: FaultPlan
) -> web.StreamResponse:
    """Respond to a request for `data` with the fault."""
    return await _ANSWERS[fault.kind](RequestedImage(request, data, plan))


async def _slow(requested: RequestedImage) -> web.StreamResponse:
    await asyncio.sleep(requested.plan.slow_s)
    return _image(requested.data)


async def _truncated(requested: RequestedImage) -> web.StreamResponse:
    response = await _begin(requested.request, len(requested.data))
    await response.write(requested.data[: len(requested.data) // 2])
    _close(requested.request)
    return response


async def _cut_short(requested: RequestedImage) -> web.StreamResponse:
    return _image(requested.data[: len(requested.data) * 2 // 3])


async def _busy(requested: RequestedImage) -> web.StreamResponse:
    return web.Response(status=429, headers={"Retry-After": str(requested.plan.retry_after_s)})


async def _busy_until(requested: RequestedImage) -> web.StreamResponse:
    # Dates have whole seconds: round up, so that the wait is never shorter than configured.
    moment = formatdate(int(time.time()) + requested.plan.retry_after_s + 1, usegmt=True)
    return web.Response(status=429, headers={"Retry-After": moment})


async def _error(_: RequestedImage) -> web.StreamResponse:
    return web.Response(status=500, text="internal server error\n")


async def _unavailable(_: RequestedImage) -> web.StreamResponse:
    return web.Response(status=503, text="service unavailable\n")


async def _corrupt(requested: RequestedImage) -> web.StreamResponse:
    return _image(damaged(requested.data))


async def _html(_: RequestedImage) -> web.StreamResponse:
    text = "<!DOCTYPE html><html><body>Just a moment…</body></html>"
    return web.Response(text=text, content_type="text/html")


async def _missing(_: RequestedImage) -> web.StreamResponse:
    return web.Response(status=404, text="not found\n")


async def _reset(requested: RequestedImage) -> web.StreamResponse:
    if requested.request.transport is not None:
        connection = requested.request.transport.get_extra_info("socket")
        # Zero linger time sends RST instead of FIN.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        requested.request.transport.abort()
    raise ConnectionResetError("on request")


async def _silent(requested: RequestedImage) -> web.StreamResponse:
    await asyncio.sleep(requested.plan.hang_s)
    _close(requested.request)
    raise ConnectionResetError("on request")


async def _opted_out(requested: RequestedImage) -> web.StreamResponse:
    response = _image(requested.data)
    response.headers["X-Robots-Tag"] = "noai, noimageai"
    return response


async def _redirected(requested: RequestedImage) -> web.StreamResponse:
    return _redirect(f"{requested.request.raw_path}?moved=1")


async def _redirect_loop(requested: RequestedImage) -> web.StreamResponse:
    return _redirect(requested.request.raw_path)


async def _redirect_away(requested: RequestedImage) -> web.StreamResponse:
    return _redirect(requested.plan.away)


async def _gzip_bomb(_: RequestedImage) -> web.StreamResponse:
    body = await asyncio.to_thread(_bomb)
    return web.Response(body=body, headers={"Content-Encoding": "gzip"}, content_type="image/png")


async def _huge(requested: RequestedImage) -> web.StreamResponse:
    response = await _begin(requested.request, HUGE_BYTES)
    await response.write(requested.data[:1024])
    for _ in range(HUGE_BYTES // len(_CHUNK)):
        await response.write(_CHUNK)
    return response


async def _slow_loris(requested: RequestedImage) -> web.StreamResponse:
    response = await _begin(requested.request, len(requested.data))
    for byte in requested.data:
        await response.write(bytes([byte]))
        await asyncio.sleep(requested.plan.drip_s)
    return response


_ANSWERS: Mapping[FaultKind, Answer] = {
    "slow": _slow, "truncated": _truncated, "cut_short": _cut_short, "busy": _busy,
    "busy_until": _busy_until, "error": _error, "unavailable": _unavailable, "corrupt": _corrupt,
    "html": _html, "missing": _missing, "reset": _reset, "silent": _silent, "opted_out": _opted_out,
    "redirected": _redirected, "redirect_loop": _redirect_loop, "redirect_away": _redirect_away,
    "gzip_bomb": _gzip_bomb, "huge": _huge, "slow_loris": _slow_loris,
}  # fmt: skip


def damaged(data: bytes) -> bytes:
    """The PNG at the same length with damaged pixel data; its start and end are intact."""
    spoilt = bytearray(data)
    for place in range(len(data) // 3, len(data) - 32, 97):
        spoilt[place] ^= 0x5A
    return bytes(spoilt)


def _image(data: bytes) -> web.Response:
    return web.Response(body=data, content_type="image/png")


def _redirect(location: str) -> web.Response:
    return web.Response(status=302, headers={"Location": location})


async def _begin(request: web.Request, length: int) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Length": str(length)})
    response.content_type = "image/png"
    await response.prepare(request)
    return response


def _close(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.close()


@lru_cache(maxsize=1)
def _bomb() -> bytes:
    """`BOMB_BYTES` of zeros as concatenated gzip members of 1 MiB."""
    return gzip.compress(_CHUNK, compresslevel=9, mtime=0) * (BOMB_BYTES // len(_CHUNK))

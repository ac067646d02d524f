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
class Asked:
    """A request, the image that it asks for, and the parameters of faults."""

    request: web.Request
    data: bytes
    plan: FaultPlan


Answer = Callable[[Asked], Awaitable[web.StreamResponse]]


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
    if _has_it_already(request, etag, modified):
        return web.Response(status=304, headers=headers)
    charset = "utf-8" if kind.startswith("text/") else None
    return web.Response(body=data, headers=headers, content_type=kind, charset=charset)


def _has_it_already(request: web.Request, etag: str, modified: str) -> bool:
    """RFC 9110, 13.2.2: If-None-Match takes precedence over If-Modified-Since."""
    asked = request.headers.get("If-None-Match")
    if asked is not None:
        tags = {tag.strip().removeprefix("W/") for tag in asked.split(",")}
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
    return await _ANSWERS[fault.kind](Asked(request, data, plan))


async def _slow(asked: Asked) -> web.StreamResponse:
    await asyncio.sleep(asked.plan.slow_s)
    return _picture(asked.data)


async def _truncated(asked: Asked) -> web.StreamResponse:
    response = await _begin(asked.request, len(asked.data))
    await response.write(asked.data[: len(asked.data) // 2])
    _close(asked.request)
    return response


async def _cut_short(asked: Asked) -> web.StreamResponse:
    return _picture(asked.data[: len(asked.data) * 2 // 3])


async def _busy(asked: Asked) -> web.StreamResponse:
    return web.Response(status=429, headers={"Retry-After": str(asked.plan.retry_after_s)})


async def _busy_until(asked: Asked) -> web.StreamResponse:
    # Dates have whole seconds: round up, so that the wait is never shorter than configured.
    moment = formatdate(int(time.time()) + asked.plan.retry_after_s + 1, usegmt=True)
    return web.Response(status=429, headers={"Retry-After": moment})


async def _error(_: Asked) -> web.StreamResponse:
    return web.Response(status=500, text="internal server error\n")


async def _unavailable(_: Asked) -> web.StreamResponse:
    return web.Response(status=503, text="service unavailable\n")


async def _corrupt(asked: Asked) -> web.StreamResponse:
    return _picture(damaged(asked.data))


async def _html(_: Asked) -> web.StreamResponse:
    text = "<!DOCTYPE html><html><body>Just a moment…</body></html>"
    return web.Response(text=text, content_type="text/html")


async def _missing(_: Asked) -> web.StreamResponse:
    return web.Response(status=404, text="not found\n")


async def _reset(asked: Asked) -> web.StreamResponse:
    if asked.request.transport is not None:
        connection = asked.request.transport.get_extra_info("socket")
        # Zero linger time sends RST instead of FIN.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        asked.request.transport.abort()
    raise ConnectionResetError("on request")


async def _silent(asked: Asked) -> web.StreamResponse:
    await asyncio.sleep(asked.plan.hang_s)
    _close(asked.request)
    raise ConnectionResetError("on request")


async def _opted_out(asked: Asked) -> web.StreamResponse:
    response = _picture(asked.data)
    response.headers["X-Robots-Tag"] = "noai, noimageai"
    return response


async def _redirected(asked: Asked) -> web.StreamResponse:
    return _redirect(f"{asked.request.raw_path}?moved=1")


async def _redirect_loop(asked: Asked) -> web.StreamResponse:
    return _redirect(asked.request.raw_path)


async def _redirect_away(asked: Asked) -> web.StreamResponse:
    return _redirect(asked.plan.away)


async def _gzip_bomb(_: Asked) -> web.StreamResponse:
    body = await asyncio.to_thread(_bomb)
    return web.Response(body=body, headers={"Content-Encoding": "gzip"}, content_type="image/png")


async def _huge(asked: Asked) -> web.StreamResponse:
    response = await _begin(asked.request, HUGE_BYTES)
    await response.write(asked.data[:1024])
    for _ in range(HUGE_BYTES // len(_CHUNK)):
        await response.write(_CHUNK)
    return response


async def _slow_loris(asked: Asked) -> web.StreamResponse:
    response = await _begin(asked.request, len(asked.data))
    for byte in asked.data:
        await response.write(bytes([byte]))
        await asyncio.sleep(asked.plan.drip_s)
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


def _picture(data: bytes) -> web.Response:
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

"""Responses rewritten for aiohttp's parser: both fetchers understand the same servers.

aiohttp gets a plain head with the framing of the body, and the body in that framing. The original head is a
field of the plain one and is parsed again on the other side.

This uses internals of aiohttp. If a version has others, aiohttp parses the heads itself and refuses some
servers.
"""

from __future__ import annotations

import asyncio
import base64
import functools
from collections.abc import Callable, Iterator
from typing import Any

import aiohttp
from aiohttp.http_exceptions import HttpProcessingError

from scrapers.fetch.chunks import BadChunk, Chunks
from scrapers.fetch.response_head import MAX_HEAD_BYTES, BadHead, Head, end_of_head, parse_head

_AS_IT_CAME = "X-Head-As-It-Came"


def parse_heads_ourselves(connector: aiohttp.TCPConnector) -> None:
    """Let a connector's connections read heads as ours do: aiohttp's parser refuses what servers send."""
    handler = _tolerant_handler()
    if handler is not None and hasattr(connector, "_factory"):
        connector._factory = functools.partial(handler, asyncio.get_running_loop())


@functools.cache
def _tolerant_handler() -> Callable[[asyncio.AbstractEventLoop], Any] | None:
    """aiohttp's protocol, given responses in plain form; None if this aiohttp has another one."""
    try:
        from aiohttp.client_proto import ResponseHandler
    except ImportError:
        return None
    used = ("set_response_params", "data_received", "set_exception", "force_close", "close")
    if not all(hasattr(ResponseHandler, name) for name in used):
        return None

    class TolerantHandler(ResponseHandler):
        def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
            super().__init__(loop)
            self._answer: _PlainAnswer | None = None

        def set_response_params(self, **params: Any) -> None:
            """A response is expected from now on."""
            self._answer = _PlainAnswer()
            super().set_response_params(**params)

        def data_received(self, data: bytes) -> None:
            """Bytes arrived; those of a head are held until it is complete.

            aiohttp passes b"" when it resumes a parser that was paused: the end of a body may be held there.
            """
            if self._answer is None or not data:
                super().data_received(data)
                return
            try:
                for piece in self._answer.read(data):
                    super().data_received(piece)
            except BadHead as error:
                self.close()
                self.set_exception(HttpProcessingError(message=str(error)))
            except BadChunk:
                if self.transport is not None:
                    self.transport.abort()  # The body ends here, too early.
            if self._answer.has_more:
                self.force_close()

    return TolerantHandler


class _PlainAnswer:
    """Rewrites a response in plain form: a head with one length or none, complete chunks."""

    def __init__(self) -> None:
        self.has_more = False  # Bytes after the end: the connection can't be kept.
        self._head: Head | None = None
        self._begun = b""
        self._left = 0
        self._chunks = Chunks()

    def read(self, data: bytes) -> Iterator[bytes]:
        """What to pass on, a head separately. Raises BadHead and BadChunk."""
        while self._head is None:
            data, self._begun = self._begun + data, b""
            end = end_of_head(data)
            if (end if end >= 0 else len(data)) > MAX_HEAD_BYTES:
                raise BadHead(f"a head of more than {MAX_HEAD_BYTES} bytes")
            if end < 0:
                self._begun = data
                return
            head = parse_head(data[:end])
            if head.status >= 200 or head.status == 101:
                self._head, self._left = head, head.length or 0
                yield _plain_head(head, data[:end])
            data = data[end:]
        if body := self._read_body(self._head, data):
            yield body

    def _read_body(self, head: Head, data: bytes) -> bytes:
        if head.chunked:
            return self._read_chunks(data)
        if head.length is None:
            return data
        body = data[: self._left]
        self._left -= len(body)
        self.has_more = len(data) > len(body)
        return body

    def _read_chunks(self, data: bytes) -> bytes:
        if self._chunks.ended:
            self.has_more = self.has_more or bool(data)
            return b""
        piece = b"".join(self._chunks.feed(data))
        self.has_more = bool(self._chunks.rest)
        framed = b"%x\r\n%b\r\n" % (len(piece), piece) if piece else b""
        return framed + b"0\r\n\r\n" if self._chunks.ended else framed


def head_of(response: aiohttp.ClientResponse) -> Head:
    """The original head."""
    ours = response.headers.get(_AS_IT_CAME)
    if ours is not None:
        return parse_head(base64.b64decode(ours))
    fields = b"".join(b"%b: %b\r\n" % field for field in response.raw_headers)
    return parse_head(b"HTTP/1.1 %d -\r\n%b\r\n" % (response.status, fields))


def _plain_head(head: Head, raw: bytes) -> bytes:
    """A head with the framing of the body, and the original head in a field."""
    lines = [f"HTTP/1.1 {head.status} -", f"{_AS_IT_CAME}: {base64.b64encode(raw).decode()}"]
    if head.length is not None:
        lines.append(f"Content-Length: {head.length}")
    elif head.chunked:
        lines.append("Transfer-Encoding: chunked")
    lines.append(f"Connection: {'keep-alive' if head.keep_alive else 'close'}")
    return "\r\n".join([*lines, "", ""]).encode()

"""Heads for aiohttp's parser, read by ours first: so that both fetchers understand the same servers.

aiohttp is given a plain head that says how the body is framed. The one that came travels in a field of
it and is read again on the other side.
"""

from __future__ import annotations

import asyncio
import base64
from typing import Any

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.http_exceptions import HttpProcessingError

from scrapers.head import MAX_HEAD_BYTES, BadHead, Head, end_of_head, parse_head

_AS_IT_CAME = "X-Head-As-It-Came"


class TolerantHandler(ResponseHandler):
    """aiohttp's protocol, given heads that its parser reads whatever the server sent."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self._reads_head = False
        self._begun = b""

    def set_response_params(self, **params: Any) -> None:
        """An answer is expected from now on."""
        self._reads_head, self._begun = True, b""
        super().set_response_params(**params)

    def data_received(self, data: bytes) -> None:
        """Bytes came; those of a head are held until it is whole."""
        if self._reads_head:
            try:
                data = self._read_head(self._begun + data)
            except BadHead as error:
                self.close()
                self.set_exception(HttpProcessingError(message=str(error)))
                return
            if not data:
                return
        super().data_received(data)

    def _read_head(self, data: bytes) -> bytes:
        end = end_of_head(data)
        if (end if end >= 0 else len(data)) > MAX_HEAD_BYTES:
            raise BadHead(f"a head of more than {MAX_HEAD_BYTES} bytes")
        self._begun = data if end < 0 else b""
        if end < 0:
            return b""
        head = parse_head(data[:end])
        if 100 <= head.status < 200 and head.status != 101:
            return self._read_head(data[end:])
        self._reads_head = False
        return _plain_head(head, data[:end]) + data[end:]


def head_of(response: aiohttp.ClientResponse) -> Head:
    """The head as it came."""
    return parse_head(base64.b64decode(response.headers[_AS_IT_CAME]))


def _plain_head(head: Head, raw: bytes) -> bytes:
    """A head that says how the body is framed, and holds the one that came in a field of its own."""
    lines = [f"HTTP/1.1 {head.status} -", f"{_AS_IT_CAME}: {base64.b64encode(raw).decode()}"]
    if head.length is not None:
        lines.append(f"Content-Length: {head.length}")
    elif head.chunked:
        lines.append("Transfer-Encoding: chunked")
    lines.append(f"Connection: {'keep-alive' if head.keep_alive else 'close'}")
    return "\r\n".join([*lines, "", ""]).encode()

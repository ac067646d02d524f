"""One connection that asks for one thing after the other and takes each answer whole.

What a crawl does a million times, so it is made of little: one buffer that all connections read into
(each read is handled before the next begins), a body of known length received where it stays, no
task and no timer of its own. Heads are parsed by the client's parser, and so are bodies that don't
say how long they are.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, cast

from scrapers.answer import FetchError

SCRATCH_BYTES = 256 * 1024
MAX_HEAD_BYTES = 64 * 1024
# The body of an answer that is not wanted is read up to this length, to keep the connection.
_DRAINED_BYTES = 64 * 1024
# Room made for a body at once; more is made as it comes, whatever length the head claims.
_ROOM_BYTES = 1024 * 1024
_BODILESS = frozenset({204, 304})


class Parser(Protocol):
    """aiohttp's `HttpResponseParser`: gives pairs of a head and the stream of its body."""

    def feed_data(self, data: bytes) -> tuple[Any, bool, bytes]:
        """Heads found in `data`. Raises for what is not HTTP."""

    def feed_eof(self) -> Any:
        """Nothing follows. Raises if something had to."""


class Reply(NamedTuple):
    """An answer as it came; the body is empty unless the status is 200."""

    status: int
    headers: Any
    body: bytes


# Makes a parser; without a body it stops behind the head.
MakeParser = Callable[[bool], Parser]


class Lane(asyncio.BufferedProtocol):
    """The protocol of one connection.

    `free` says whether it can be asked (again); when it has become so it puts itself into `home`.
    """

    def __init__(
        self,
        scratch: memoryview,
        make_parser: MakeParser,
        lost: Callable[[Exception | None], None],
        home: list[Lane],
    ) -> None:
        self.free = False
        # By the loop's clock: when the present answer, or the last one, is given up.
        self.deadline = 0.0
        self._scratch = scratch
        self._make_parser = make_parser
        self._lost = lost
        self._home = home
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._waiting: asyncio.Future[Reply] | None = None
        self._max_bytes = 0
        self._part = b""  # Of a head that is not whole yet.
        self._head: Any = None
        self._body: bytearray | None = None
        self._length = 0
        self._filled = 0
        self._stream: Parser | None = None
        self._payload: Any = None
        self._pieces: list[bytes] = []

    def ask(self, request: bytes, max_bytes: int, deadline: float) -> asyncio.Future[Reply]:
        """Send a request; gives its answer, or FetchError for what is none or too large."""
        assert self._transport is not None, "asked although it is not free"
        self.free = False
        self.deadline = deadline
        self._max_bytes = max_bytes
        self._waiting = self._loop.create_future()
        self._transport.write(request)
        return self._waiting

    def close(self) -> None:
        """End the connection; whoever waits for an answer has given it up."""
        self.free = False
        self._waiting = self._body = self._stream = None
        if self._transport is not None:
            self._transport.abort()

    def fail(self, error: BaseException) -> None:
        """Give the one who waits an error in place of an answer, and end the connection."""
        waiting = self._waiting
        self.close()
        if waiting is not None and not waiting.done():
            waiting.set_exception(error)

    # --- What the event loop calls ----------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self.free = True

    def get_buffer(self, sizehint: int) -> memoryview:
        del sizehint
        if self._body is not None:
            return memoryview(self._body)[self._filled :]
        return self._scratch

    def buffer_updated(self, nbytes: int) -> None:
        if self._body is not None:
            self._filled += nbytes
            if self._filled == self._length:
                self._finish(bytes(self._body))
            elif self._filled == len(self._body):
                self._make_room(self._body)
            return
        if self._waiting is None:
            self.close()  # Nothing was asked: what comes now is no answer.
            return
        data = bytes(self._scratch[:nbytes])
        try:
            if self._stream is None:
                self._read_head(data)
            else:
                self._read_stream(data)
        except FetchError as error:
            self.fail(error)
        except Exception as error:
            reason = "bad_http" if self._head is None else "truncated"
            self.fail(FetchError(reason, f"{type(error).__name__}: {error}", retry=True))

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self.free = False
        self._lost(exc)
        if self._stream is not None and exc is None:
            self._end_stream(self._stream)
        if self._waiting is not None:
            self.fail(self._why_lost(exc))

    def _why_lost(self, exc: Exception | None) -> FetchError:
        if self._head is not None:
            return FetchError("truncated", "the connection ended within the body", retry=True)
        detail = "the connection was closed" if exc is None else f"{type(exc).__name__}: {exc}"
        reason = "disconnected" if exc is None else "connection"
        return FetchError(reason, detail, retry=True, sign="down")

    # --- Answers ----------------------------------------------------------------------------------

    def _read_head(self, data: bytes) -> None:
        """Parse the head that `data` begins with, if it is whole, and begin with its body."""
        if self._part:
            data, self._part = self._part + data, b""
        end = _end_of_head(data)
        if end < 0:
            if len(data) > MAX_HEAD_BYTES:
                raise FetchError("bad_http", "the head does not end", retry=True)
            self._part = data
            return
        # A parser a head: not every version of aiohttp's takes a second one behind a skipped body.
        messages, _, _ = self._make_parser(False).feed_data(data[:end])
        if not messages or (messages[0][0].code < 200 and messages[0][0].code != 101):
            if end < len(data):
                self._read_head(data[end:])
            return
        self._head = messages[0][0]
        self._begin_body(data, end)

    def _begin_body(self, data: bytes, start: int) -> None:
        head = self._head
        wanted = head.code == 200
        length = _length_of(head)
        if not wanted and (length is None or length > _DRAINED_BYTES):
            self._finish(b"", keep=False)
            return
        if length is None:
            self._stream = self._make_parser(True)
            self._pieces = []
            self._filled = 0
            self._read_stream(data)
            return
        if length > self._max_bytes and wanted:
            raise too_large(f"{length} bytes", self._max_bytes)
        if len(data) - start >= length:
            self._finish(data[start : start + length], keep=len(data) - start == length)
            return
        self._length = length
        self._body = bytearray(min(length, _ROOM_BYTES))
        self._filled = len(data) - start
        self._body[: self._filled] = data[start:]

    def _make_room(self, body: bytearray) -> None:
        # A new one: the event loop may still hold a view of the old one.
        self._body = bytearray(min(self._length, 2 * len(body)))
        self._body[: len(body)] = body

    def _read_stream(self, data: bytes) -> None:
        """Take more of a body that doesn't say how long it is."""
        assert self._stream is not None
        messages, _, _ = self._stream.feed_data(data)
        if messages:
            self._payload = messages[-1][1]
        self._take_pieces()

    def _take_pieces(self) -> None:
        while piece := self._payload.read_nowait():
            self._pieces.append(piece)
            self._filled += len(piece)
            if self._filled > self._max_bytes:
                raise too_large(f"more than {self._max_bytes} bytes", self._max_bytes)
        if self._payload.is_eof():
            self._finish(b"".join(self._pieces))

    def _end_stream(self, stream: Parser) -> None:
        """The connection is closed: a body that lasts until then is whole."""
        try:
            stream.feed_eof()
            self._take_pieces()
        except Exception as error:
            self.fail(FetchError("truncated", f"{type(error).__name__}: {error}", retry=True))

    def _finish(self, body: bytes, *, keep: bool = True) -> None:
        head, waiting = self._head, self._waiting
        self._head = self._waiting = self._body = self._stream = self._payload = None
        if not keep or head.should_close or head.code == 101:
            self.close()
        elif self._transport is not None:
            self.free = True
            self._home.append(self)
        if waiting is not None and not waiting.done():
            waiting.set_result(Reply(head.code, head.headers, body if head.code == 200 else b""))


def too_large(found: str, max_bytes: int) -> FetchError:
    """The error for a body that is not taken."""
    return FetchError("too_large", f"{found}, at most {max_bytes} are taken", retry=True)


def _end_of_head(data: bytes) -> int:
    """Where the body begins, -1 if the head is not whole; lines may end in LF alone."""
    end = data.find(b"\n\r\n")
    bare = data.find(b"\n\n", 0, end if end >= 0 else len(data))
    if bare >= 0:
        return bare + 2
    return end + 3 if end >= 0 else -1


def _length_of(head: Any) -> int | None:
    """Bytes of the body; None if only its end tells."""
    if head.code in _BODILESS:
        return 0
    length = None if head.chunked else head.headers.get("Content-Length")
    return None if length is None else int(length)

"""One connection: a request, its whole response, then the next request.

A crawl uses it a million times, so it is cheap: one read buffer for all connections (each read is processed
before the next begins), a body of known length is received in place, and there is no task or timer per
connection. Bytes in flight count towards a budget that all connections share.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

from scrapers.fetch.budget import Budget
from scrapers.fetch.chunks import BadChunk, Chunks
from scrapers.fetch.fetcher import DRAINED_BYTES, Reply, too_large
from scrapers.fetch.response import FetchError
from scrapers.fetch.response_head import MAX_HEAD_BYTES, BadHead, Head, end_of_head, parse_head

SCRATCH_BYTES = 256 * 1024
# Room allocated for a body at once; more follows as it arrives, whatever length the head claims.
_ROOM_BYTES = 1024 * 1024
_USUAL_HEAD_BYTES = 1024


class Connection(asyncio.BufferedProtocol):
    """The protocol of one connection.

    `free` tells whether it can take a request; when it becomes free, it adds itself to `home`.
    """

    def __init__(
        self,
        scratch: memoryview,
        budget: Budget,
        lost: Callable[[Connection], None],
        home: list[Connection],
    ) -> None:
        self.free = False
        # On the loop's clock: when the current response, or the last one, is given up.
        self.deadline = 0.0
        # How long a body that has begun may stall.
        self.quiet_s: float | None = None
        self._scratch = scratch
        self._budget = budget
        self._lost = lost
        self._home = home
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._waiting: asyncio.Future[Reply] | None = None
        self._answered = False  # What kept the connection busy before this request.
        self._heard = False
        self._max_bytes = 0
        # On the loop's clock: when anything arrived last.
        self._heard_at = 0.0
        # On the loop's clock: when the request was written; and how long its response's head took from then.
        self._written_at = 0.0
        self._latency_s = 0.0
        self._part = b""  # Of an incomplete head.
        self._head: Head | None = None
        self._body: bytearray | None = None  # Of a body of known length.
        self._filled = 0
        self._chunks: Chunks | None = None
        self._gathered = bytearray()  # Of a body of unknown length.
        self._paused_at: float | None = None
        self._wanted = 0

    @property
    def paused(self) -> bool:
        """Whether it waits for room in the budget: that time doesn't count."""
        return self._paused_at is not None

    def ask(
        self, request: bytes, max_bytes: int, deadline: float, quiet_s: float | None = None
    ) -> asyncio.Future[Reply]:
        """Send a request; returns its response, or FetchError if there is none or it is too large."""
        assert self._transport is not None, "the connection is not free"
        self.free = False
        self.deadline = deadline
        self.quiet_s = quiet_s
        self._max_bytes = max_bytes
        self._heard = False
        self._waiting = self._loop.create_future()
        self._written_at = self._loop.time()
        self._transport.write(request)
        return self._waiting

    def close(self) -> None:
        """Close the connection; nobody waits for a response any more."""
        self._leave_home()
        self._waiting = None
        self._forget()
        if self._transport is not None:
            self._transport.abort()

    def fail(self, error: BaseException) -> None:
        """Pass an error to the waiting caller instead of a response, and close the connection."""
        waiting = self._waiting
        self.close()
        if waiting is not None and not waiting.done():
            waiting.set_exception(error)

    def resume(self) -> None:
        """There may be room in the budget: continue reading."""
        if self._paused_at is None or not self._budget.take(self, self._wanted):
            return
        if self._body is not None:
            self._enlarge(self._body, self._wanted)
        self._heard_at = self._loop.time()
        self.deadline += self._heard_at - self._paused_at
        self._paused_at = None
        if self._transport is not None:
            self._transport.resume_reading()

    def _leave_home(self) -> None:
        if self.free and self in self._home:
            self._home.remove(self)
        self.free = False

    # --- Callbacks of the event loop ---------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self.free = True

    def has_stalled(self, now: float) -> bool:
        """Whether a body that has begun has stalled for `quiet_s`."""
        if self.quiet_s is None or self._head is None or self.paused:
            return False
        return now - self._heard_at > self.quiet_s

    def get_buffer(self, sizehint: int) -> memoryview:
        del sizehint
        if self._body is None:
            return self._scratch
        if self._filled == len(self._body):  # Paused while TLS still had some data.
            self._enlarge(self._body, DRAINED_BYTES)
        return memoryview(self._body)[self._filled :]

    def buffer_updated(self, nbytes: int) -> None:
        self._heard_at = self._loop.time()
        if self._body is not None:
            self._fill(self._body, nbytes)
            return
        if self._waiting is None:
            self.close()  # Nothing was requested: this is no response.
            return
        self._heard = True
        try:
            if self._head is None:
                self._read_head(self._scratch[:nbytes])
            else:
                self._read_stream(bytes(self._scratch[:nbytes]))
        except FetchError as error:
            self.fail(error)
        except BadHead as error:
            self.fail(FetchError("bad_http", str(error), retry=True))
        except BadChunk as error:
            self.fail(FetchError("truncated", str(error), retry=True))

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._leave_home()
        self._lost(self)
        head = self._head
        if head is not None and head.length is None and not head.chunked and exc is None:
            self._finish(bytes(self._gathered), keep=False)
        elif self._waiting is not None:
            self.fail(self._why_lost(exc))
        else:
            self._forget()

    def _why_lost(self, exc: Exception | None) -> FetchError:
        if self._head is not None:
            return FetchError("truncated", "the connection ended within the body", retry=True)
        detail = "the server closed the connection without a response"
        if exc is not None:
            detail = f"the connection broke: {exc}"
        stale = self._answered and not self._heard
        return FetchError("disconnected", detail, retry=True, sign="down", stale=stale)

    # --- Responses --------------------------------------------------------------------------------

    def _read_head(self, data: memoryview) -> None:
        """Parse the head at the start of `data`, if it is complete, and begin with the body."""
        if self._part:
            data, self._part = memoryview(self._part + data), b""
        # Most heads end early: the rest is not copied to search it.
        begun = bytes(data[:_USUAL_HEAD_BYTES])
        if (end := end_of_head(begun)) < 0:
            begun = bytes(data)
            end = end_of_head(begun)
        if (end if end >= 0 else len(data)) > MAX_HEAD_BYTES:
            raise BadHead(f"a head of more than {MAX_HEAD_BYTES} bytes")
        if end < 0:
            self._part = begun
            return
        head = parse_head(begun[:end])
        if head.status < 200 and head.status != 101:
            if end < len(data):
                self._read_head(data[end:])
            return
        self._head = head
        self._latency_s = self._heard_at - self._written_at
        self._begin_body(head, data[end:])

    def _begin_body(self, head: Head, come: memoryview) -> None:
        wanted = head.status == 200
        length = head.length
        if not wanted and (length is None or length > DRAINED_BYTES) and not head.chunked:
            self._finish(b"", keep=False)
            return
        self._filled = 0
        if length is None:
            self._chunks = Chunks() if head.chunked else None
            self._read_stream(bytes(come))
            return
        if length > self._max_bytes and wanted:
            raise too_large(f"{length} bytes", self._max_bytes)
        if len(come) >= length:
            self._finish(bytes(come[:length]), keep=len(come) == length)
            return
        room = min(length, _ROOM_BYTES)
        self._filled = len(come)
        if self._budget.take(self, room):
            self._body = bytearray(room)
            memoryview(self._body)[: self._filled] = come
        else:
            self._body = bytearray(come)
            self._wait_for(room)

    def _fill(self, body: bytearray, number: int) -> None:
        """More of a body of known length has arrived."""
        head = self._head
        assert head is not None
        assert head.length is not None
        self._filled += number
        if self._filled == head.length:
            self._finish(bytes(body))
        elif self._filled == len(body) and not self.paused:
            self._take(min(head.length, 2 * len(body)) - len(body))

    def _read_stream(self, data: bytes) -> None:
        """Take more of a body of unknown length."""
        chunks = self._chunks
        piece = b"".join(chunks.feed(data)) if chunks is not None else data
        ended = chunks is not None and chunks.ended
        self._filled += len(piece)
        assert self._head is not None
        if self._head.status != 200:
            self._gathered += piece
            if ended or self._filled > DRAINED_BYTES:
                body = bytes(self._gathered) if ended else b""
                self._finish(body, keep=ended and not self._chunks_rest())
            return
        if self._filled > self._max_bytes:
            raise too_large(f"more than {self._max_bytes} bytes", self._max_bytes)
        self._gathered += piece
        if ended:
            self._finish(bytes(self._gathered), keep=not self._chunks_rest())
        elif not self.paused and piece:
            self._take(len(piece))

    def _chunks_rest(self) -> bytes:
        return self._chunks.rest if self._chunks is not None else b""

    def _finish(self, body: bytes, *, keep: bool = True) -> None:
        head, waiting = self._head, self._waiting
        assert head is not None
        self._waiting = None
        self._answered = True
        if waiting is not None and not waiting.done():
            # The caller gives it back after processing the body.
            self._budget.hand_over(self, waiting)
        self._forget()
        if not keep or not head.keep_alive or head.status == 101:
            self.close()
        elif self._transport is not None:
            self.free = True
            self._home.append(self)
        if waiting is not None and not waiting.done():
            reply = Reply(head.status, head.headers, body, self._latency_s, head.codings)
            waiting.set_result(reply)

    # --- Room -------------------------------------------------------------------------------------

    def _take(self, number: int) -> None:
        """Take this many bytes from the budget and allocate a body of known length; else wait."""
        if self._budget.take(self, number):
            if self._body is not None:
                self._enlarge(self._body, number)
        else:
            self._wait_for(number)

    def _wait_for(self, number: int) -> None:
        self._wanted = number
        self._paused_at = self._loop.time()
        if self._transport is not None:
            self._transport.pause_reading()

    def _enlarge(self, body: bytearray, number: int) -> None:
        # A new one: the event loop may still hold a view of the old one.
        head = self._head
        assert head is not None
        assert head.length is not None
        self._body = bytearray(max(len(body), min(len(body) + number, head.length)))
        memoryview(self._body)[: len(body)] = body

    def _forget(self) -> None:
        """Forget everything of a response."""
        self._head = self._body = self._chunks = None
        self._part = b""
        if self._gathered:
            self._gathered = bytearray()
        if self._paused_at is not None:
            self._paused_at = None
            if self._transport is not None and not self._transport.is_closing():
                self._transport.resume_reading()
        self._budget.give_back(self)

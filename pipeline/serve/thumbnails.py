"""Thumbnails: made by a few threads when a page needs them, kept in memory up to a limit."""

from __future__ import annotations

import asyncio
import base64
import io
import logging
import os
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

from PIL import Image

from pipeline.core.errors import PipelineError
from pipeline.core.image_decode import DecodeError, decode_image
from pipeline.core.kept_images import StoredImage
from pipeline.serve.measures import Measures

logger = logging.getLogger(__name__)

QUALITY = 78
MAX_PIXELS = 64 << 20
# How long a page waits for its thumbnails; those that are not ready then are loaded by the browser.
PAGE_WAIT_S = 0.08
# Thumbnails that may be in progress; beyond that pages don't ask for more ahead of the browser.
MOST_PENDING = 240
_OVERHEAD = 200  # bytes of an entry besides its data
_PREFIX = "data:image/jpeg;base64,"

Read = Callable[[StoredImage], bytes]


class Thumbnails:
    """A cache of thumbnails as data: URLs, by the hash of the image's bytes; for one event loop.

    `side` is the longer side in pixels, `limit` the bytes that may be kept. An image that can't be shown is
    kept as "".
    """

    def __init__(self, *, side: int, limit: int, measures: Measures) -> None:
        self._side, self._limit, self._measures = side, limit, measures
        self._from_memory = measures.thumbnails.labels("memory")
        self._kept: OrderedDict[str, str] = OrderedDict()
        self._bytes = 0
        self._pending: dict[str, asyncio.Future[str]] = {}
        workers = max(2, min(8, os.cpu_count() or 2))
        self._workers = ThreadPoolExecutor(workers, thread_name_prefix="thumbnails")

    @property
    def kept_bytes(self) -> int:
        """The memory in use."""
        return self._bytes

    def close(self) -> None:
        """Stop the threads."""
        self._workers.shutdown(wait=False, cancel_futures=True)

    async def get(self, place: StoredImage, read: Read) -> str:
        """The data: URL of a thumbnail, "" if the image can't be shown."""
        found = self._find(place.bytes_sha256)
        return found if found is not None else await asyncio.shield(self._make(place, read))

    async def of_page(
        self, places: Sequence[StoredImage], read: Read, *, wait_s: float = PAGE_WAIT_S
    ) -> dict[str, str]:
        """The thumbnails of a page that are ready in time, by the hash of the image's bytes."""
        wanted = {place.bytes_sha256: place for place in places}
        found = {name: kept for name in wanted if (kept := self._find(name)) is not None}
        missing = [place for name, place in wanted.items() if name not in found]
        if missing and len(self._pending) < MOST_PENDING:
            made = {place.bytes_sha256: self._make(place, read) for place in missing}
            await asyncio.wait(made.values(), timeout=wait_s)
            found |= {name: future.result() for name, future in made.items() if future.done()}
        return found

    def prepare(self, find: Callable[[], Iterable[StoredImage | None]], read: Read) -> None:
        """Make the thumbnails of the page that probably comes next, unless there is other work."""
        if not self._pending:
            for place in find():
                if place is not None and place.bytes_sha256 not in self._kept:
                    self._make(place, read)

    def _find(self, name: str) -> str | None:
        found = self._kept.get(name)
        if found is not None:
            self._kept.move_to_end(name)
            self._from_memory.inc()
        return found

    def _make(self, place: StoredImage, read: Read) -> asyncio.Future[str]:
        name = place.bytes_sha256
        future = self._pending.get(name)
        if future is None:
            loop = asyncio.get_running_loop()
            future = loop.run_in_executor(self._workers, make_thumbnail, place, read, self._side)
            self._pending[name] = future
            future.add_done_callback(lambda done: self._keep(name, done))
            self._measures.thumbnails.labels("file").inc()
        return future

    def _keep(self, name: str, done: asyncio.Future[str]) -> None:
        self._pending.pop(name, None)
        if done.cancelled() or done.exception() is not None:
            return
        self._kept[name] = done.result()
        self._bytes += len(done.result()) + _OVERHEAD
        while self._bytes > self._limit and len(self._kept) > 1:
            _, dropped = self._kept.popitem(last=False)
            self._bytes -= len(dropped) + _OVERHEAD


def make_thumbnail(place: StoredImage, read: Read, side: int) -> str:
    """The thumbnail of an image as a data: URL; "" if its bytes are gone or can't be decoded."""
    try:
        pixels_HWC = decode_image(read(place), max_pixels=MAX_PIXELS).pixels_HWC
    except (PipelineError, DecodeError, OSError) as error:
        logger.info("No thumbnail: %s", error)
        return ""
    image = Image.fromarray(pixels_HWC)
    image.thumbnail((side, side), Image.Resampling.BICUBIC, reducing_gap=2.0)
    out = io.BytesIO()
    image.save(out, "JPEG", quality=QUALITY)
    return _PREFIX + base64.b64encode(out.getvalue()).decode()


def jpeg_of(data_url: str) -> bytes:
    """The bytes in a thumbnail's data: URL."""
    return base64.b64decode(data_url.removeprefix(_PREFIX))

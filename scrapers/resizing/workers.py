"""Worker processes that resize images for an event loop."""

from __future__ import annotations

import asyncio
from typing import Any

from pipeline.core.engine import LOCAL, Engine, ProcessPool, count_cores
from scrapers.resizing.image import Resized, resize_image
from scrapers.resizing.rule import ResizeRule

_TIMEOUT_S = 120.0
# More images than this, or bytes of them, need not wait.
_MAX_WAITING = 256
_MAX_WAITING_BYTES = 32 * 2**20


class Resizer:
    """Resizes images by a rule, as many at once as there are cores. Use it inside the event loop.

    On Ray the errors are those of `pipeline.core.ray_engine.map_on_ray`.
    """

    def __init__(
        self, rule: ResizeRule, *, workers: int | None = None, engine: Engine = LOCAL
    ) -> None:
        self.rule = rule
        # Bytes of images that wait, or are being resized.
        self.waiting_bytes = 0
        self._waiting = 0
        self._room = asyncio.Event()
        if engine.name == "ray":
            from pipeline.core.ray_engine import RayParts

            self._pool: ProcessPool[Any, Resized] | RayParts[Any, Resized] = RayParts(
                resize_image, address=engine.address, timeout_s=_TIMEOUT_S
            )
        else:
            self._pool = ProcessPool(
                resize_image, workers=workers or count_cores(), timeout_s=_TIMEOUT_S
            )

    async def resize(self, body: bytes) -> Resized:
        """The resized image; one whose decoder crashed or hung stays as it is, with a `failure`."""
        self.waiting_bytes += len(body)
        self._waiting += 1
        try:
            done = await asyncio.wrap_future(self._pool.submit((self.rule, body)))
        finally:
            self.waiting_bytes -= len(body)
            self._waiting -= 1
            if not self.is_full:
                self._room.set()
        return done.result if done.failure is None else Resized(None, done.failure)

    @property
    def is_full(self) -> bool:
        """Whether so many images wait that no more should be requested: wait for `room`."""
        return self._waiting > _MAX_WAITING or self.waiting_bytes > _MAX_WAITING_BYTES

    async def room(self) -> None:
        """Wait until it is no longer full."""
        while self.is_full:
            self._room.clear()
            await self._room.wait()

    def close(self) -> None:
        """End the processes, or leave the cluster."""
        self._pool.close()

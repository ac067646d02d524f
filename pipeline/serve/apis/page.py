"""The API behind the page /generate: images as they come, one JSON object a line, and images to begin with.

POST /api/prime      an image file → {"id", "width", "height"}
POST /api/generate   {"prompt", "count", …} → lines {"event": "queued" | "begun" | "preview" | "image" |
                     "done" | "error", …}
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import numpy as np
from aiohttp import web
from PIL import Image

from pipeline.core.image_decode import DecodeError, decode_image
from pipeline.generate.images import encode_png
from pipeline.serve.apis.dalle_service import to_jpeg
from pipeline.serve.apis.image_service import ImageRequest, ImageService
from pipeline.serve.bodies import read_body, read_json
from pipeline.serve.drawing.jobs import Begun, Drawn, Event, Finished, Pixels, Preview, Prime
from pipeline.serve.errors import RequestError, json_response

MAX_UPLOAD_BYTES = 16 << 20
MAX_UPLOAD_PIXELS = 40_000_000
MOST_PRIMES = 16  # kept in memory, 3 MB each at most
PRIME_SIDE = 1024  # pixels; more than any codec reads
UPLOADS_AT_ONCE = 2
WRITE_TIMEOUT_S = 30.0
# Formats whose decoders are fit for files from anywhere, by how their files begin.
_STARTS = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF", b"GIF8", b"BM")


@dataclass(frozen=True, kw_only=True)
class _Body(ImageRequest):
    prime: str | None = None
    prime_rows: int | None = None


class Primes:
    """The uploaded images by id, in memory alone; the oldest is dropped."""

    def __init__(self) -> None:
        self._images: OrderedDict[str, Pixels] = OrderedDict()
        self._turns = asyncio.Semaphore(UPLOADS_AT_ONCE)

    async def add(self, request: web.Request) -> dict[str, Any]:
        """Read and keep an image; raises RequestError 400 for anything else."""
        async with self._turns:
            data = await read_body(request, max_bytes=MAX_UPLOAD_BYTES)
            pixels_HWC = await asyncio.to_thread(_read_prime, data)
        name = hashlib.sha256(data).hexdigest()
        self._images[name] = pixels_HWC
        self._images.move_to_end(name)
        while len(self._images) > MOST_PRIMES:
            self._images.popitem(last=False)
        height, width = pixels_HWC.shape[:2]
        return {"id": name, "width": width, "height": height}

    def get(self, name: str, rows: int | None) -> Prime:
        """An uploaded image. Raises RequestError if it is not kept any more, or `rows` can't be."""
        pixels_HWC = self._images.get(name)
        if pixels_HWC is None:
            raise RequestError(
                404, "The image to begin with is not kept any more. Upload it again.", param="prime"
            )
        if rows is not None and rows < 1:
            raise RequestError(
                400, f"prime_rows is {rows}. Expected at least 1.", param="prime_rows"
            )
        return Prime(digest=name, pixels_HWC=pixels_HWC, rows=rows)


def _read_prime(data: bytes) -> Pixels:
    """The central square of an image file, at most `PRIME_SIDE` pixels a side."""
    if not data.startswith(_STARTS):
        raise RequestError(400, "The file is not a PNG, JPEG, WebP, GIF or BMP image.")
    try:
        image = Image.fromarray(decode_image(data, max_pixels=MAX_UPLOAD_PIXELS).pixels_HWC)
    except DecodeError as error:
        raise RequestError(400, f"The image can't be read: {error}.") from error
    side = min(image.size)
    left, top = ((length - side) // 2 for length in image.size)
    image = image.crop((left, top, left + side, top + side))
    if side > PRIME_SIDE:
        image = image.resize((PRIME_SIDE, PRIME_SIDE), Image.Resampling.BICUBIC)
    return np.asarray(image)


def add_routes(app: web.Application, service: ImageService) -> None:
    """Add the routes to the application."""
    primes = Primes()

    async def add_prime(request: web.Request) -> web.Response:
        return json_response(await primes.add(request))

    async def generate(request: web.Request) -> web.StreamResponse:
        body = await read_json(request, _Body)
        prime = None if body.prime is None else primes.get(body.prime, body.prime_rows)
        async with service.drawing(body, prime=prime, previews=True) as mailbox:
            response = web.StreamResponse(
                headers={
                    "Content-Type": "application/x-ndjson; charset=utf-8",
                    "Cache-Control": "no-store",
                    "X-Accel-Buffering": "no",
                }
            )
            await response.prepare(request)
            queued = {"event": "queued", "before": mailbox.before, "seed": mailbox.seed}
            await _write(response, queued)
            try:
                async for event in mailbox:
                    await _write(response, await asyncio.to_thread(_describe, event, body.prompt))
            except RequestError as error:
                await _write(response, {"event": "error", "message": error.message})
            await response.write_eof()
        return response

    app.router.add_post("/api/prime", add_prime)
    app.router.add_post("/api/generate", generate)


async def _write(response: web.StreamResponse, value: dict[str, Any]) -> None:
    """Write a line; a client that doesn't read it within a while is treated as gone."""
    line = json.dumps(value, ensure_ascii=False).encode("utf-8", "replace") + b"\n"
    try:
        async with asyncio.timeout(WRITE_TIMEOUT_S):
            await response.write(line)
    except TimeoutError:
        raise ConnectionResetError("the client does not read its answer") from None


def _describe(event: Event, prompt: str) -> dict[str, Any]:
    match event:
        case Begun(cut=cut):
            return {"event": "begun", "cut": cut}
        case Preview(index=index, pixels_HWC=pixels_HWC, height=height):
            data = base64.b64encode(to_jpeg(pixels_HWC, quality=80)).decode()
            share = pixels_HWC.shape[0] / height
            return {"event": "preview", "index": index, "jpeg": data, "share": share}
        case Drawn(index=index, seed=seed, pixels_HWC=pixels_HWC, score=score):
            file = encode_png(pixels_HWC, {"prompt": prompt, "seed": str(seed)})
            shown = {"event": "image", "index": index, "png": base64.b64encode(file).decode()}
            return shown | ({} if score is None else {"score": score})
        case Finished(checkpoint=checkpoint):
            return {"event": "done", "checkpoint": checkpoint}
    raise AssertionError(event)

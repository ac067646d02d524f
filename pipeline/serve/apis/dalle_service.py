"""The API of rom1504/dalle-service, so that its front end works: GET /dalle-list and POST /dalle.

The body of POST is JSON whatever its Content-Type (the front end sends none); the answer is a bare array of
JPEGs in base64.
"""

from __future__ import annotations

import asyncio
import base64
import io
from dataclasses import dataclass

from aiohttp import web
from PIL import Image

from pipeline.serve.apis.image_service import ImageRequest, ImageService
from pipeline.serve.bodies import read_json
from pipeline.serve.drawing.jobs import Pixels
from pipeline.serve.errors import json_response


@dataclass(frozen=True, kw_only=True)
class _Body:
    text: str
    num_images: int
    dalle_name: str


def add_routes(app: web.Application, service: ImageService) -> None:
    """Add the routes to the application."""

    async def list_models(_: web.Request) -> web.Response:
        return json_response(await service.names())

    async def draw(request: web.Request) -> web.Response:
        body = await read_json(request, _Body)
        wanted = ImageRequest(prompt=body.text, count=body.num_images, model=body.dalle_name)
        images = await service.draw(wanted)
        encoded = await asyncio.to_thread(
            lambda: [base64.b64encode(to_jpeg(image.pixels_HWC)).decode() for image in images]
        )
        return json_response(encoded)

    app.router.add_get("/dalle-list", list_models)
    app.router.add_post("/dalle", draw)


def to_jpeg(pixels_HWC: Pixels, *, quality: int = 90) -> bytes:
    """An image as JPEG."""
    out = io.BytesIO()
    Image.fromarray(pixels_HWC).save(out, "JPEG", quality=quality)
    return out.getvalue()

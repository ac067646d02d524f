"""OpenAI's images API: POST /v1/images/generations and GET /v1/models.

Follows the specification at https://github.com/openai/openai-openapi. Images come as `b64_json`, or with
`response_format: "url"` as data: URLs. `quality`, `style`, `background`, `moderation` and `user` are accepted
and mean nothing here; `stream` is refused.
"""

from __future__ import annotations

import asyncio
import base64
import io
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from aiohttp import web
from PIL import Image

from pipeline.generate.images import encode_png
from pipeline.serve.apis.image_service import ImageRequest, ImageService
from pipeline.serve.bodies import read_json
from pipeline.serve.drawing.jobs import Drawn, Pixels
from pipeline.serve.errors import RequestError, json_response

MOST_IMAGES = 10  # of the specification
LARGEST_SIDE = 1792  # pixels; the largest of dall-e-3
_SIZE = re.compile(r"([1-9]\d{0,4})x([1-9]\d{0,4})")
_FORMATS = {"png": "PNG", "jpeg": "JPEG", "webp": "WEBP"}


@dataclass(frozen=True, kw_only=True)
class _Body:
    """The parameters that matter here; others are ignored, as the specification's clients expect."""

    prompt: str
    model: str | None = None
    n: int | None = None
    size: str | None = None
    response_format: Literal["url", "b64_json"] | None = None
    output_format: Literal["png", "jpeg", "webp"] | None = None
    output_compression: int | None = None
    stream: bool | None = None
    # Not in the specification; the openai package sends it as extra_body.
    seed: int | None = None
    top_k: float | None = None
    temperature: float | None = None
    cond_scale: float | None = None


def add_routes(app: web.Application, service: ImageService) -> None:
    """Add the routes to the application."""

    async def list_models(_: web.Request) -> web.Response:
        models = [await _describe(service, name) for name in await service.names()]
        return json_response({"object": "list", "data": models})

    async def show_model(request: web.Request) -> web.Response:
        name = request.match_info["name"]
        if name not in await service.names():
            raise RequestError(
                404, f"There is no model {name[:100]!r}.", param="model", code="model_not_found"
            )
        return json_response(await _describe(service, name))

    async def generate(request: web.Request) -> web.Response:
        body = await read_json(request, _Body)
        size = _check(body)
        wanted = ImageRequest(
            prompt=body.prompt,
            count=1 if body.n is None else body.n,
            model=body.model,
            seed=body.seed,
            top_k=body.top_k,
            temperature=body.temperature,
            cond_scale=body.cond_scale,
        )
        images = await service.draw(wanted)
        data = await asyncio.to_thread(_encode_all, images, body, size)
        height, width = (size or images[0].pixels_HWC.shape[:2])[:2]
        answer = {
            "created": int(time.time()),
            "data": data,
            "output_format": body.output_format or "png",
            "size": f"{width}x{height}",
        }
        return json_response(answer)

    app.router.add_get("/v1/models", list_models)
    app.router.add_get("/v1/models/{name:.+}", show_model)
    app.router.add_post("/v1/images/generations", generate)


async def _describe(service: ImageService, name: str) -> dict[str, Any]:
    path = service.models.runs[name]
    created = await asyncio.to_thread(lambda: int(path.stat().st_mtime) if path.exists() else 0)
    return {"id": name, "object": "model", "created": created, "owned_by": "dalle-pipeline"}


def _check(body: _Body) -> tuple[int, int] | None:
    """Check the parameters of this API alone; returns (height, width), None for the model's own."""
    if body.stream:
        raise RequestError(400, "stream is not supported. Leave it out.", param="stream")
    if body.n is not None and not 1 <= body.n <= MOST_IMAGES:
        raise RequestError(400, f"n is {body.n}. Expected 1 to {MOST_IMAGES}.", param="n")
    compression = body.output_compression
    if compression is not None and not 0 <= compression <= 100:
        raise RequestError(
            400,
            f"output_compression is {compression}. Expected 0 to 100.",
            param="output_compression",
        )
    if body.size in (None, "auto"):
        return None
    found = _SIZE.fullmatch(str(body.size))
    width, height = (int(found[1]), int(found[2])) if found else (0, 0)
    if not (0 < width <= LARGEST_SIDE and 0 < height <= LARGEST_SIDE):
        raise RequestError(
            400,
            f"size is {str(body.size)[:40]!r}. Expected auto, or WIDTHxHEIGHT of at most {LARGEST_SIDE} "
            "pixels.",
            param="size",
        )
    return height, width


def _encode_all(
    images: Sequence[Drawn], body: _Body, size: tuple[int, int] | None
) -> list[dict[str, str]]:
    kind = body.output_format or "png"
    data = []
    for image in images:
        pixels_HWC = _fit(image.pixels_HWC, size)
        if kind == "png":
            file = encode_png(pixels_HWC, {"prompt": body.prompt, "seed": str(image.seed)})
        else:
            quality = 90 if body.output_compression is None else body.output_compression
            file = _encode(pixels_HWC, _FORMATS[kind], quality)
        text = base64.b64encode(file).decode()
        as_url = body.response_format == "url"
        data.append({"url": f"data:image/{kind};base64,{text}"} if as_url else {"b64_json": text})
    return data


def _encode(pixels_HWC: Pixels, kind: str, quality: int) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels_HWC).save(out, kind, quality=quality)
    return out.getvalue()


def _fit(pixels_HWC: Pixels, size: tuple[int, int] | None) -> Pixels:
    """The image at the size asked for: scaled to cover it, its centre cut out."""
    import numpy as np

    if size is None or size == pixels_HWC.shape[:2]:
        return pixels_HWC
    image = Image.fromarray(pixels_HWC)
    height, width = size
    scale = max(width / image.width, height / image.height)
    cut_width, cut_height = width / scale, height / scale
    left, top = (image.width - cut_width) / 2, (image.height - cut_height) / 2
    box = (left, top, left + cut_width, top + cut_height)
    return np.asarray(image.resize((width, height), Image.Resampling.LANCZOS, box=box))

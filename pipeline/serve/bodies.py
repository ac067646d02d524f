"""Read the bodies of requests: at most so many bytes, within so many seconds, as what they should be."""

from __future__ import annotations

import asyncio
import json
from typing import Any, TypeVar

from aiohttp import web

from pipeline.core.errors import ContractError
from pipeline.core.parsing import parse_dataclass
from pipeline.serve.errors import RequestError

T = TypeVar("T")

MAX_JSON_BYTES = 1 << 20
BODY_TIMEOUT_S = 30.0


async def read_body(
    request: web.Request, *, max_bytes: int, timeout_s: float = BODY_TIMEOUT_S
) -> bytes:
    """The body. Raises RequestError 413 if it is longer than `max_bytes`, 408 if it comes too slowly."""
    too_long = RequestError(413, f"The body is too long: at most {max_bytes:,} bytes are read.")
    if (request.content_length or 0) > max_bytes:
        raise too_long
    parts, size = [], 0
    try:
        async with asyncio.timeout(timeout_s):
            async for part in request.content.iter_any():
                size += len(part)
                if size > max_bytes:
                    raise too_long
                parts.append(part)
    except TimeoutError:
        raise RequestError(408, f"The body did not arrive within {timeout_s:g} s.") from None
    return b"".join(parts)


async def read_json(request: web.Request, cls: type[T]) -> T:
    """The body as JSON, whatever its Content-Type, converted to the dataclass `cls`.

    Raises RequestError 400 that names the field that is missing or wrong.
    """
    data = await read_body(request, max_bytes=MAX_JSON_BYTES)
    try:
        value: Any = json.loads(data)
    except (ValueError, RecursionError):
        raise RequestError(400, "The body is not JSON.") from None
    if not isinstance(value, dict):
        raise RequestError(400, "The body is not a JSON object.")
    try:
        return parse_dataclass(cls, value, source="The request", remedy="")
    except ContractError as error:
        raise RequestError(400, str(error).strip()) from error

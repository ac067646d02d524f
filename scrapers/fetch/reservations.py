"""The TDMRep file of a host, fetched before anything else of the host."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from scrapers.fetch.client import Client
from scrapers.fetch.optouts.tdmrep import (
    MAX_TDMREP_BYTES,
    NO_RESERVATIONS,
    TDMREP_PATH,
    Reservations,
    parse_tdmrep,
)
from scrapers.fetch.response import FetchError, Response

logger = logging.getLogger(__name__)


async def ask_reservations(
    client: Client, origin: str, waits: Sequence[float], *, public_only: bool, known: Reservations
) -> Reservations:
    """The reservations of a host; the file is tried again after each of `waits` (seconds).

    If it can't be fetched now, what is `known` from earlier remains. By the specification a host whose file
    could never be fetched has none; that is logged if it may be temporary.
    """
    url = f"{origin}{TDMREP_PATH}"
    trouble = ""
    for wait_s in (0.0, *waits):
        await asyncio.sleep(wait_s)
        try:
            response = await client.get(url, max_bytes=MAX_TDMREP_BYTES, public_only=public_only)
        except FetchError as error:
            trouble = str(error)
            if not error.retry or error.reason == "too_large":
                break
        else:
            if response.status < 500 and response.status != 429:
                return _read(response, url)
            trouble = f"status {response.status}"
    holds = "its earlier rules still apply" if known.rules else "the host is treated as having none"
    logger.warning("%s can't be fetched (%s): %s.", url, trouble, holds)
    return known


def _read(response: Response, url: str) -> Reservations:
    if response.status != 200:
        return NO_RESERVATIONS
    try:
        return parse_tdmrep(response.body, url=url)
    except ValueError as error:
        # Many hosts response any request with their front page.
        if b"tdm-reservation" in response.body:
            logger.warning("%s can't be read: %s. The host is treated as having none.", url, error)
        return NO_RESERVATIONS


async def is_set_aside(client: Client, url: str, *, public_only: bool) -> bool:
    """Whether the headers at `url`, which the file reserves, say that it is not reserved."""
    try:
        response = await client.get(url, public_only=public_only, allow_hop=_no_hop)
    except FetchError:
        return False
    return response.signals.tdm_reservation == 0


async def _no_hop(_url: str, _public_only: bool) -> bool:
    return False

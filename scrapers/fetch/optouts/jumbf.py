"""Content Credentials in the bytes of an image: assertions on training and data mining. Pure.

A manifest store is a tree of JUMBF boxes (ISO/IEC 19566-5); an assertion is a superbox with a label, and its
content is CBOR or JSON. Its place in a file: C2PA Technical Specification, "Embedding manifests into assets".
Signatures are not verified: a refusal counts whoever wrote it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from pipeline.core.image_files import boxes, gif, jpeg, png, riff
from scrapers.fetch.optouts.cbor import decode_cbor
from scrapers.fetch.optouts.signals import Refusal
from scrapers.fetch.sniff import ImageFormat

_MAX_STORE_BYTES = 16 * 2**20
_MAX_CONTENT_BYTES = 2**20
_MAX_DEPTH = 12
_MAX_BOXES = 10_000
_MAX_STORES = 16

_GIF_NAME = b"C2PA_GIF\x01\x00\x00"
# Followed by a number if a manifest has several, or by a version.
_LABEL = re.compile(r"(?:c2pa|cawg)\.(?:training-mining|data_mining)(?:\.v\d+)?(?:__\d+)?")
# Uses that include training a model; inference is another.
_USES = re.compile(r"(?:c2pa|cawg)\.(?:ai_generative_training|ai_training|data_mining)")
_REFUSING = frozenset({"notAllowed", "constrained"})
_HAS_LABEL = 0x02


def find_training_mining(body: bytes, kind: ImageFormat) -> Refusal | None:
    """The assertion on training and data mining in an image, if it refuses either."""
    for place, store in _stores(body, kind):
        for label, content in _assertions(store):
            entry = _refusing_entry(content)
            if entry is not None:
                return Refusal(
                    signal="c2pa-training-mining",
                    reason="c2pa_training_mining",
                    where=f"{place}, {label}",
                    text=entry,
                )
    return None


def _stores(body: bytes, kind: ImageFormat) -> Iterator[tuple[str, bytes]]:
    """The JUMBF boxes of a file, with their place."""
    if kind == "jpg":
        yield from (("C2PA (JPEG APP11)", store) for store in _stores_of_jpeg(body))
    elif kind == "png":
        for chunk in png.walk_chunks(body):
            if chunk.name == b"caBX":
                yield "C2PA (PNG caBX)", png.chunk_data(body, chunk)
    elif kind == "webp":
        for part in riff.walk_riff(body):
            if part.name == b"C2PA":
                yield "C2PA (WebP chunk)", body[part.start : part.end]
    elif kind == "gif":
        yield "C2PA (GIF extension)", gif.find_application(body, _GIF_NAME) or b""
    else:
        yield from ((f"C2PA ({kind})", store) for store in _stores_anywhere(body))


def _stores_of_jpeg(body: bytes) -> Iterator[bytes]:
    """Join boxes that are spread over several APP11 segments, each of which repeats the box's head."""
    parts: dict[bytes, dict[int, bytes]] = {}
    for segment in jpeg.walk_segments(body):
        held = body[segment.start : segment.end]
        if segment.marker == jpeg.APP11 and held.startswith(b"JP") and len(held) >= 16:
            parts.setdefault(held[2:4], {})[int.from_bytes(held[4:8], "big")] = held[8:]
    for by_number in parts.values():
        first, *others = (by_number[number] for number in sorted(by_number))
        head = 16 if first[:4] == b"\0\0\0\1" else 8
        yield b"".join([first, *(part[head:] for part in others)])


def _stores_anywhere(body: bytes) -> Iterator[bytes]:
    """Superboxes in formats that store a box in one piece, whatever surrounds it."""
    position = -1
    for _ in range(_MAX_STORES):
        position = body.find(b"jumb", position + 1)
        if position < 0:
            return
        if position >= 4 and body[position + 8 : position + 12] == b"jumd":
            yield body[position - 4 :]
            position += int.from_bytes(body[position - 4 : position], "big")


def _assertions(store: bytes) -> Iterator[tuple[str, Any]]:
    """Label and content of each assertion on training and data mining."""
    budget = [_MAX_BOXES]
    yield from _search(store[:_MAX_STORE_BYTES], 0, None, 0, budget)


def _search(
    store: bytes, start: int, end: int | None, depth: int, budget: list[int]
) -> Iterator[tuple[str, Any]]:
    label = ""
    for box in boxes.walk_boxes(store, start, end):
        budget[0] -= 1
        if depth > _MAX_DEPTH or budget[0] < 0:
            return
        if box.kind == b"jumd":
            label = _label_of(store[box.start : box.end])
        elif box.kind == b"jumb":
            yield from _search(store, box.start, box.end, depth + 1, budget)
        elif _LABEL.fullmatch(label) and box.kind in (b"cbor", b"json"):
            yield label, _read_content(box.kind, store[box.start : box.end])


def _label_of(description: bytes) -> str:
    """The label in a description box: 16 bytes of type, a byte of flags, text up to a zero byte."""
    if len(description) < 18 or not description[16] & _HAS_LABEL:
        return ""
    return description[17:].partition(b"\0")[0].decode("utf-8", "replace")


def _read_content(kind: bytes, data: bytes) -> Any:
    """The content of an assertion, None if it can't be read."""
    if len(data) > _MAX_CONTENT_BYTES:
        return None
    try:
        return decode_cbor(data) if kind == b"cbor" else json.loads(data)
    except (ValueError, RecursionError):
        return None


def _refusing_entry(content: Any) -> str | None:
    """The entry that refuses, such as `cawg.ai_training: notAllowed`; None if none does."""
    if not isinstance(content, dict):
        return None
    entries = content.get("entries", content)
    for name, entry in entries.items() if isinstance(entries, dict) else ():
        if _USES.fullmatch(str(name)) and (use := _refusing_use(entry)) is not None:
            return f"{name}: {use}"
    use = _refusing_use(content)
    return None if use is None else f"use: {use}"


def _refusing_use(entry: Any) -> str | None:
    """`notAllowed`, or `constrained` with the text of the constraint; None for other uses."""
    use = entry.get("use") if isinstance(entry, dict) else entry
    if not isinstance(use, str) or use not in _REFUSING:
        return None
    more = entry.get("constraint_info") if isinstance(entry, dict) else None
    return f"{use} ({more})" if more else use

"""Decode bodies that are encoded although the identity encoding was requested. Pure.

Labels are hints: `none`, `binary` or `UTF-8` mean nothing, objects keep the label of their upload
(`aws-chunked`), plain images are labelled gzip, and gzip has no label. The label is tried first, then what
the bytes look like; if the caller knows what it wants, the first result that is that is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from scrapers.fetch.content_encodings import (
    DECODERS,
    GZIP_MAGIC,
    ZSTD_MAGIC,
    Broken,
    NoDecoderError,
    gunzip,
    unframe_aws,
)
from scrapers.fetch.response import FetchError

Check = Callable[[bytes], bool]

_AWS = "aws-chunked"


def decode_body(
    body: bytes, labels: Iterable[str], max_bytes: int, is_whole: Check | None = None
) -> bytes:
    """Undo the encodings of a body, never to more than `max_bytes`.

    `labels` are in the order in which the encodings were applied, in any spelling. `is_whole` tells whether
    bytes are what was wanted; without it, text is. Raises FetchError for what is too large, broken, or has an
    encoding for which no package is installed.
    """
    names = _names(labels)
    try:
        found = _undo_all(body, names, max_bytes, is_whole)
    except Broken as error:
        if (plain := _without_label(body, max_bytes, is_whole)) is not None:
            return plain
        reason = "truncated" if error.cut else "bad_body"
        raise FetchError(reason, str(error), retry=True) from error
    except NoDecoderError as error:
        if (plain := _without_label(body, max_bytes, is_whole)) is not None:
            return plain
        detail = f"the body is encoded as {', '.join(names)}; to read it install {error}"
        raise FetchError("encoded_body", detail, retry=True) from error
    again = _without_label(found, max_bytes, is_whole) if is_encoded(found) else None
    return found if again is None else again


def is_encoded(body: bytes) -> bool:
    """Whether a body looks compressed, whatever its label says."""
    return body.startswith(GZIP_MAGIC)


def _names(labels: Iterable[str]) -> list[str]:
    """The meaningful encodings, in the order in which they were applied."""
    listed = ",".join(labels).lower().split(",")
    names = [name.strip().removeprefix("x-") for name in listed]
    return [name for name in names if name in DECODERS or name == _AWS]


def _undo_all(body: bytes, names: list[str], max_bytes: int, is_whole: Check | None) -> bytes:
    # An upload's framing is named before or after the encoding that it contains.
    framed = _AWS in names
    if framed:
        body = unframe_aws(body)
    for name in reversed(names):
        if name != _AWS:
            body = _undo(DECODERS[name], body, max_bytes, is_whole)
    return unframe_aws(body) if framed else body


def _undo(
    decode: Callable[[bytes, int], bytes], body: bytes, max_bytes: int, is_whole: Check | None
) -> bytes:
    try:
        return decode(body, max_bytes)
    except Broken as error:
        if is_whole is not None and is_whole(error.came):
            return error.came
        raise


def _without_label(body: bytes, max_bytes: int, is_whole: Check | None) -> bytes | None:
    """What was wanted in a body with a missing or wrong label: as it is, or in gzip."""
    if _is_wanted(body, is_whole):
        return body
    if not is_encoded(body):
        return None
    try:
        found = _undo(gunzip, body, max_bytes, is_whole)
    except Broken:
        return None
    return found if _is_wanted(found, is_whole) else None


def _is_wanted(body: bytes, is_whole: Check | None) -> bool:
    if is_whole is not None:
        return is_whole(body)
    return not body.startswith((GZIP_MAGIC, ZSTD_MAGIC)) and b"\0" not in body[:1024]

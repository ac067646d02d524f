"""CBOR (RFC 8949), as far as assertions need it, read within limits from untrusted bytes. Pure."""

from __future__ import annotations

import struct
from typing import Any

_MAX_DEPTH = 16
_MAX_ITEMS = 20_000
_BREAK = object()
_SIMPLE = {20: False, 21: True, 22: None, 23: None}
_FLOATS = {25: ">e", 26: ">f", 27: ">d"}


def decode_cbor(data: bytes) -> Any:
    """The first item of `data` as Python values: tags are dropped, byte strings are bytes.

    Raises ValueError for what is cut off, broken, too deep or too large.
    """
    try:
        return _Reader(data).item(0)
    except (IndexError, struct.error, UnicodeDecodeError, TypeError) as error:
        raise ValueError(f"broken CBOR: {error}") from error


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0
        self._items = 0

    def item(self, depth: int) -> Any:
        self._items += 1
        if depth > _MAX_DEPTH or self._items > _MAX_ITEMS:
            raise ValueError("CBOR that is too deep or too large")
        first = self._take(1)[0]
        major, info = first >> 5, first & 0x1F
        if major == 7:
            return self._simple(info)
        argument = self._argument(info)
        if major in (2, 3):
            return self._string(major, argument)
        if major == 4:
            return self._array(argument, depth)
        if major == 5:
            return self._map(argument, depth)
        if argument is None:
            raise ValueError("a number without a length")
        if major == 6:
            return self.item(depth + 1)  # the tagged item
        return argument if major == 0 else -1 - argument

    def _take(self, size: int) -> bytes:
        if size > len(self._data) - self._position:
            raise ValueError("CBOR that ends early")
        self._position += size
        return self._data[self._position - size : self._position]

    def _argument(self, info: int) -> int | None:
        """The number in or after the first byte; None for an indefinite length."""
        if info < 24:
            return info
        if info == 31:
            return None
        if info > 27:
            raise ValueError("a reserved length")
        return int.from_bytes(self._take(1 << (info - 24)), "big")

    def _simple(self, info: int) -> Any:
        if info == 31:
            return _BREAK
        if info in _FLOATS:
            (number,) = struct.unpack(_FLOATS[info], self._take(struct.calcsize(_FLOATS[info])))
            return number
        return _SIMPLE.get(self._take(1)[0] if info == 24 else info)

    def _string(self, major: int, length: int | None) -> bytes | str:
        if length is None:
            parts = []
            while (part := self.item(1)) is not _BREAK:
                parts.append(part)
            return b"".join(parts) if major == 2 else "".join(parts)
        taken = self._take(length)
        return taken if major == 2 else taken.decode("utf-8")

    def _array(self, length: int | None, depth: int) -> list[Any]:
        found: list[Any] = []
        while length is None or len(found) < length:
            value = self.item(depth + 1)
            if value is _BREAK:
                break
            found.append(value)
        return found

    def _map(self, length: int | None, depth: int) -> dict[Any, Any]:
        found: dict[Any, Any] = {}
        pairs = 0
        while length is None or pairs < length:
            key = self.item(depth + 1)
            if key is _BREAK:
                break
            value = self.item(depth + 1)
            pairs += 1
            if isinstance(key, (str, int, bytes)):
                found[key] = value
        return found

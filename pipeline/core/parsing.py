"""Parse JSON and plain values into dataclasses, or raise a ContractError.

Files may have been edited by hand, truncated or damaged. Here their content is converted to the type that the
code expects, in one place; a mismatch says which file and which field, what was found and what was expected.
Nothing is coerced: a bool is not an int, "3" is not 3, and NaN and the infinities are not numbers. Unknown
keys are ignored by default, so that a file of a later version that only adds keys can still be read;
`unknown="refuse"` is for files where a key that is not understood changes the meaning of others.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar, Union, get_args, get_origin

from pipeline.core.errors import ContractError, PipelineError
from pipeline.core.field_types import field_types, once_per_class
from pipeline.core.regular_files import read_regular

T = TypeVar("T")
Unknown = Literal["ignore", "refuse"]

MAX_BYTES = 256 * 2**20
MAX_DEPTH = 64
MAX_INTEGER = 2**63 - 1
REMEDY = "Restore the file, or make it again."
_SHOWN = 60  # characters of a wrong value in a message


def parse_dataclass(
    cls: type[T],
    value: object,
    *,
    source: str,
    field: str = "",
    low: float | None = None,
    high: float | None = None,
    unknown: Unknown = "ignore",
    remedy: str = REMEDY,
) -> T:
    """Convert `value`, as read from JSON or TOML, to an instance of `cls`.

    `cls` is a dataclass, or any type that a field may have: bool, int, float, str, Path, Any, Literal, a
    union, tuple[X, ...], tuple[X, Y], Mapping[K, V], list[X]. The `low` and `high` of a field (set in its
    metadata by `pipeline.core.config.option`) bound its numbers. `source` names the file in messages and
    `field` the part of it that `value` is; `remedy` is the last sentence of messages. Raises ContractError
    if a field is missing, of another type or out of bounds.
    """
    parser = _Parser(source=source, unknown=unknown, remedy=remedy)
    parser.check_plain(value, 0)
    parsed: T = parser.parse(cls, value, _Location(field, low, high))
    return parsed


def parse_json(
    cls: type[T], data: bytes, *, source: str, unknown: Unknown = "ignore", remedy: str = REMEDY
) -> T:
    """Parse the JSON in `data` as an instance of `cls`; raises ContractError like `parse_dataclass`."""
    try:
        value = json.loads(data)
    except RecursionError:
        raise ContractError(f"{source} is nested too deeply to be read. {remedy}") from None
    except ValueError as error:
        raise ContractError(f"{source} is not JSON ({error}). {remedy}") from error
    return parse_dataclass(cls, value, source=source, unknown=unknown, remedy=remedy)


def parse_json_file(
    path: Path, cls: type[T], *, unknown: Unknown = "ignore", remedy: str = REMEDY
) -> T:
    """Parse the JSON file at `path` as an instance of `cls`.

    Raises ContractError for a file that is missing, not a regular file, too large, or has other content.
    """
    data = read_small_file(path, remedy=remedy)
    return parse_json(cls, data, source=str(path), unknown=unknown, remedy=remedy)


def read_json_lines(path: Path, cls: type[T], *, remedy: str = REMEDY) -> list[T]:
    """The lines of a JSONL file as instances of `cls`; none if there is no file.

    An incomplete last line, as a killed run leaves it, is dropped. Raises ContractError with the number of a
    line that has other content.
    """
    if not os.path.lexists(path):
        return []
    whole, _, _ = read_small_file(path, remedy=remedy).rpartition(b"\n")
    lines = whole.split(b"\n") if whole else []
    return [
        parse_json(cls, line, source=f"{path} line {number}", remedy=remedy)
        for number, line in enumerate(lines, start=1)
    ]


def read_small_file(path: Path, *, max_bytes: int = MAX_BYTES, remedy: str = REMEDY) -> bytes:
    """`read_regular` for our own files, raising ContractError."""
    return read_regular(path, max_bytes=max_bytes, error=ContractError, remedy=remedy)


class _Location(NamedTuple):
    """The position of a value in a file, and the bounds for numbers there."""

    name: str = ""
    low: float | None = None
    high: float | None = None

    def item(self, key: object) -> _Location:
        return _Location(f"{self.name}[{key!r}]", self.low, self.high)


@dataclass(frozen=True, kw_only=True)
class _Parser:
    source: str
    unknown: Unknown
    remedy: str

    def error(self, problem: str) -> ContractError:
        where = f"{self.source}: " if self.source else ""
        return ContractError(f"{where}{problem}. {self.remedy}".rstrip())

    def mismatch(self, location: _Location, value: object, expected: str) -> ContractError:
        return self.error(f"{location.name or 'the whole'} is {_show(value)}, expected {expected}")

    def check_plain(self, value: object, depth: int) -> None:
        """Refuse excessive nesting and NULs, whatever the declared type of a field.

        Lone surrogates are accepted: paths in other encodings contain them.
        """
        if depth > MAX_DEPTH:
            raise self.error(f"it is nested more than {MAX_DEPTH} levels deep")
        if isinstance(value, str):
            if "\0" in value:
                raise self.error(f"{_show(value)} holds a NUL, expected text")
        elif isinstance(value, (list, tuple)):
            for inner in value:
                self.check_plain(inner, depth + 1)
        elif isinstance(value, Mapping):
            for key, inner in value.items():
                self.check_plain(key, depth + 1)
                self.check_plain(inner, depth + 1)

    def parse(self, hint: Any, value: object, location: _Location) -> Any:
        if hint is Any or hint is object:
            return value
        if hint in _FITS:
            return self._scalar(hint, value, location)
        origin = get_origin(hint)
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            return self._dataclass(hint, value, location)
        if origin is Literal:
            return self._literal(hint, value, location)
        if origin in (Union, types.UnionType):
            return self._union(hint, value, location)
        if origin is tuple or hint is tuple:
            return self._tuple(get_args(hint) or (Any, ...), value, location)
        if origin in (list, Sequence):
            return list(self._tuple((*get_args(hint), ...), value, location))
        return self._mapping(get_args(hint) or (str, Any), value, location)

    def _dataclass(self, cls: type[Any], value: object, location: _Location) -> Any:
        if not isinstance(value, Mapping):
            raise self.mismatch(location, value, "an object")
        fields = _fields(cls)
        prefix = f"{location.name}." if location.name else ""
        if self.unknown == "refuse" and (extra := sorted(map(str, set(value) - set(fields)))):
            raise self.error(f"{prefix}{extra[0]} is unknown, expected {', '.join(sorted(fields))}")
        parsed = {}
        for name, (hint, low, high, has_default) in fields.items():
            if name in value:
                inside = _Location(prefix + name, low, high)
                parsed[name] = self.parse(hint, value[name], inside)
            elif not has_default:
                raise self.error(f"{prefix}{name} is missing, expected {_describe(hint)}")
        try:
            return cls(**parsed)
        except (ValueError, PipelineError) as error:
            raise self.error(f"{prefix}{str(error).rstrip('.')}") from error

    def _literal(self, hint: Any, value: object, location: _Location) -> object:
        for choice in get_args(hint):
            if type(choice) is type(value) and choice == value:
                return choice
        raise self.mismatch(location, value, _describe(hint))

    def _union(self, hint: Any, value: object, location: _Location) -> Any:
        """The first member that matches; if there is only one besides None, errors name its exact problem."""
        members = [member for member in get_args(hint) if member is not type(None)]
        if value is None and len(members) < len(get_args(hint)):
            return None
        if len(members) == 1:
            return self.parse(members[0], value, location)
        for member in members:
            try:
                return self.parse(member, value, location)
            except ContractError:
                continue
        raise self.mismatch(location, value, _describe(hint))

    def _tuple(
        self, members: tuple[Any, ...], value: object, location: _Location
    ) -> tuple[Any, ...]:
        if not isinstance(value, (list, tuple)):
            raise self.mismatch(location, value, "a list")
        hints = [members[0]] * len(value) if members[-1] is Ellipsis else list(members)
        if len(hints) != len(value):
            raise self.mismatch(location, value, f"a list of {len(hints)}")
        pairs = enumerate(zip(hints, value, strict=True))
        return tuple(
            self.parse(hint, inner, location.item(index)) for index, (hint, inner) in pairs
        )

    def _mapping(
        self, members: tuple[Any, ...], value: object, location: _Location
    ) -> dict[Any, Any]:
        if not isinstance(value, Mapping):
            raise self.mismatch(location, value, "an object")
        keys, values = members
        parsed = {}
        for key, inner in value.items():
            place = location.item(key)
            parsed[self.parse(keys, key, place)] = self.parse(values, inner, place)
        return parsed

    def _scalar(self, hint: Any, value: object, location: _Location) -> Any:
        if not _FITS[hint](value):
            raise self.mismatch(location, value, _describe(hint))
        if hint in (int, float):
            self._check_bounds(value, location)
        return hint(value) if hint in (Path, float) else value

    def _check_bounds(self, value: Any, location: _Location) -> None:
        if location.low is not None and value < location.low:
            raise self.mismatch(location, value, f"{location.low:g} or more")
        if location.high is not None and value > location.high:
            raise self.mismatch(location, value, f"{location.high:g} or less")


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and _fits_64_bits(value)


def _fits_64_bits(value: int) -> bool:
    return -MAX_INTEGER - 1 <= value <= MAX_INTEGER


_FITS: Mapping[Any, Callable[[Any], bool]] = {
    bool: lambda value: isinstance(value, bool),
    int: _is_integer,
    float: lambda value: _is_integer(value) or (isinstance(value, float) and math.isfinite(value)),
    str: lambda value: isinstance(value, str),
    Path: lambda value: isinstance(value, str),
    type(None): lambda value: value is None,
}


class _Field(NamedTuple):
    hint: Any
    low: float | None
    high: float | None
    has_default: bool


@once_per_class
def _fields(cls: type[Any]) -> Mapping[str, _Field]:
    """The fields of a dataclass that are given to it; collected once, as files have thousands of objects."""
    missing, hints = dataclasses.MISSING, field_types(cls)
    return {
        field.name: _Field(
            hints[field.name],
            field.metadata.get("low"),
            field.metadata.get("high"),
            field.default is not missing or field.default_factory is not missing,
        )
        for field in dataclasses.fields(cls)
        if field.init
    }


def _show(value: object) -> str:
    """A wrong value in a few printable characters."""
    if isinstance(value, Mapping):
        return f"an object of {len(value)}"
    if isinstance(value, (list, tuple)):
        return f"a list of {len(value)}"
    if isinstance(value, int) and not _fits_64_bits(value):
        return "a number of more than 64 bits"
    text = "null" if value is None else repr(value)
    text = text.lower() if isinstance(value, bool) else text
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


_WORDS: Mapping[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a finite number",
    str: "text",
    Path: "a path",
    type(None): "null",
}


def _describe(hint: Any) -> str:
    """A description of the expected type, for messages."""
    origin = get_origin(hint)
    if origin is Literal:
        return "one of " + ", ".join(json.dumps(choice) for choice in get_args(hint))
    if origin in (Union, types.UnionType):
        return " or ".join(_describe(member) for member in get_args(hint))
    if origin in (tuple, list, Sequence):
        return "a list"
    return _WORDS.get(hint, "an object")

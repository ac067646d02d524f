"""Typed access to the descriptions that come with weights: third parties' tables, and our own JSON.

In a YAML of taming-transformers, or the `hparams` of a `dalle.pt` or `vae.pt`, the same number may be an
int, a float, a numpy number or a tensor with one element. A value that doesn't fit raises a ModelError that
names the file, the field, what was found and what was expected.
"""

from __future__ import annotations

import dataclasses
import math
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from pipeline.core.errors import ContractError, ModelError
from pipeline.core.parsing import parse_dataclass
from pipeline.models.torch_pickle import NumpyArray, Placeholder

T = TypeVar("T")

MOST = 1 << 24  # upper limit of any count: codebook entries, tokens, channels
_REPR = reprlib.Repr()
_REPR.maxlevel, _REPR.maxlist, _REPR.maxtuple, _REPR.maxdict = 2, 4, 4, 4
_REPR.maxstring = _REPR.maxother = 60


@dataclass(frozen=True)
class Description:
    """A table of values; `place` is its path in `source`, `advice` the last sentence of an error."""

    values: Mapping[str, Any]
    source: Path | str
    place: str = ""
    advice: str = "Give the file as it was published."

    @classmethod
    def of(cls, values: object, source: Path | str, place: str, advice: str) -> Description:
        """Wrap `values`. Raises ModelError if it is not a table."""
        if isinstance(values, Placeholder):  # an argparse.Namespace
            values = values.state
        if not isinstance(values, Mapping):
            raise ModelError(
                f"{source} has no table {place or 'at its top level'}, expected names with values. {advice}"
            )
        return cls(values, source, place, advice)

    def table(self, key: str) -> Description:
        """The table under `key`."""
        return Description.of(self.values.get(key), self.source, self._path(key), self.advice)

    def has(self, key: str) -> bool:
        """Whether there is a value other than None."""
        return self.values.get(key) is not None

    def integer(
        self, key: str, default: int | None = None, *, low: int = 1, high: int = MOST
    ) -> int:
        """The integer under `key`, or `default` if there is none."""
        if default is not None and not self.has(key):
            return default
        return self._integer(key, self.values.get(key), low, high)

    def integers(
        self, key: str, *, empty: bool = False, high: int = MOST, most: int = 64
    ) -> tuple[int, ...]:
        """The list under `key` of at most `most` positive integers."""
        found = plain(self.values.get(key))
        if not isinstance(found, (list, tuple)) or len(found) > most or not (found or empty):
            raise self.wrong(key, found, f"a list of at most {most} integers")
        return tuple(self._integer(key, number, 1, high) for number in found)

    def number(self, key: str, default: float, *, low: float = 0.0, high: float = 1e6) -> float:
        """The finite number under `key`, or `default` if there is none."""
        found = plain(self.values.get(key))
        if found is None:
            return default
        fits = isinstance(found, (int, float)) and not isinstance(found, bool)
        if not fits or not low <= found <= high:
            raise self.wrong(key, found, f"a number from {low:g} to {high:g}")
        return float(found)

    def flag(self, key: str, default: bool = False) -> bool:
        """Whether the value under `key` is true."""
        found = plain(self.values.get(key))
        if found is None:
            return default
        if found not in (0, 1):
            raise self.wrong(key, found, "true or false")
        return bool(found)

    def items(self, key: str, *, most: int = 4096) -> tuple[Any, ...] | None:
        """The list under `key`, or comma-separated text as a list; None if there is none."""
        found = plain(self.values.get(key))
        if found is None:
            return None
        if isinstance(found, (str, int, float)):
            found = (found,)
        if not isinstance(found, (list, tuple)) or len(found) > most:
            raise self.wrong(key, found, f"a list of at most {most} items")
        return tuple(word for item in found for word in _words(plain(item)))

    def expect(self, key: str, only: object) -> None:
        """Require that `key` is absent or has the only supported value."""
        found = plain(self.values.get(key, only))
        if found != only:
            raise self.wrong(key, found, repr(only))

    def wrong(self, key: str, found: object, expected: str) -> ModelError:
        """The error for the value found under `key`."""
        return ModelError(
            f"{self.source} has {self._path(key)} {show(found)}, expected {expected}. {self.advice}"
        )

    def _integer(self, key: str, found: Any, low: int, high: int) -> int:
        found = plain(found)
        whole = isinstance(found, int) and not isinstance(found, bool)
        if isinstance(found, float) and found.is_integer():
            found, whole = int(found), True
        if not whole or not low <= found <= high:
            raise self.wrong(key, found, f"an integer from {low} to {high:,}")
        return int(found)

    def _path(self, key: str) -> str:
        return f"{self.place}.{key}".lstrip(".")


def plain(value: Any) -> Any:
    """A one-element tensor as a number, a numpy array as a list; any other value unchanged."""
    try:
        if isinstance(value, Tensor) and value.numel() == 1:
            return value.item()
        if isinstance(value, NumpyArray):
            value = value.tolist()
            return value[0] if isinstance(value, list) and len(value) == 1 else value
    except (ValueError, RuntimeError, TypeError):
        return value
    return value


def show(value: object) -> str:
    """Any value from a file, shortened for a message."""
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    try:
        return _REPR.repr(value)
    except (ValueError, RecursionError):  # integers with thousands of digits can't be printed
        return f"a {type(value).__name__} that is too large to show"


def _words(item: Any) -> list[Any]:
    if not isinstance(item, str):
        return [item]
    return [word.strip() for word in item.split(",") if word.strip()]


def parse_complete(cls: type[T], value: object, *, source: str, field: str = "", remedy: str) -> T:
    """Parse a description that we wrote: every field of the dataclass `cls` must be present, and no other.

    A default for a missing field could make another network of the same weights. Raises ContractError that
    names the file, the field, what was found and what was expected.
    """
    names = [entry.name for entry in dataclasses.fields(cls)]  # type: ignore[arg-type]
    if isinstance(value, Mapping):
        for name in names:
            if name not in value:
                raise ContractError(
                    f"{source}: {f'{field}.{name}'.lstrip('.')} is missing, expected the fields "
                    f"{', '.join(sorted(names))}. {remedy}"
                )
    return parse_dataclass(cls, value, source=source, field=field, unknown="refuse", remedy=remedy)

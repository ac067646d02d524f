"""Checks of values from a ledger: SQLite returns anything that is in a damaged file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, get_args

from pipeline.core.contracts import UrlState
from pipeline.core.errors import ContractError, damaged

_STATES: tuple[UrlState, ...] = get_args(UrlState)
_TEXT, _NUMBER, _BYTES = (str, type(None)), (int, type(None)), (bytes, type(None))
Types = tuple[Any, ...]
# The types of the columns of `ledger.Known` and `segments.SegmentState`, as SQLite returns them.
KNOWN_TYPES: Types = (int, int, int, _NUMBER, _TEXT, _TEXT, _BYTES, int, int, _TEXT, _TEXT, _BYTES)
SEGMENT_TYPES: Types = (int, int, _TEXT)
FORM_TYPES: Types = (int, str)


def refuse_irregular(path: Path) -> None:
    """Raise ContractError if the ledger or its log is not a regular file: SQLite would wait for a pipe."""
    for suffix in ("", "-wal", "-shm", "-journal"):
        part = path.with_name(path.name + suffix)
        if os.path.lexists(part) and not part.is_file():
            raise ContractError(
                f"{part} is not a regular file. Move it away, or give another --workspace."
            )


def check_row(path: Path, row: tuple[object, ...], types: Types) -> tuple[Any, ...]:
    """The row itself; raises DamageError if a value has another type."""
    if len(row) == len(types) and all(map(isinstance, row, types)):
        return row
    raise damaged(f"{path} is damaged (a row holds {row[:4]!r}…).")


def check_integer(path: Path, value: object) -> int:
    """The number itself; raises DamageError for anything else."""
    if isinstance(value, int):
        return value
    raise damaged(f"{path} is damaged ({value!r} is not a number).")


def check_state(path: Path, number: object) -> UrlState:
    """The state with this number; raises DamageError if there is none."""
    if isinstance(number, int) and 0 <= number < len(_STATES):
        return _STATES[number]
    raise damaged(f"{path} is damaged (a URL has the state {number!r}).")

"""Values from manifests and logs as numbers that can be shown."""

from __future__ import annotations

import sys
from typing import Any

from pipeline.core.inventory import Folder


def as_number(value: object) -> float | None:
    """The value as a float if it is a finite number, else None."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if is_number and abs(value) <= sys.float_info.max else None  # type: ignore[arg-type]


def count_of(folder: Folder | None, name: str) -> int | None:
    """A count of a folder's manifest; None if there is none."""
    return None if folder is None or folder.manifest is None else folder.manifest.counts.get(name)


def detail_of(folder: Folder | None, *names: str) -> Any:
    """A value in the details of a folder's manifest; None if it is not there."""
    value: Any = None if folder is None or folder.manifest is None else folder.manifest.details
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value

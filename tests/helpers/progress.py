"""Listeners to the progress of a stage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.core.progress import NOW, Progress


def items_only(listener: Any) -> Progress:
    """A progress that passes on what is counted, and not what is only waited for."""

    def progress(
        done: int, total: int | None, notes: Mapping[str, int | float | str] | None = None
    ) -> None:
        if NOW not in (notes or {}):
            listener(done, total, notes)

    return progress

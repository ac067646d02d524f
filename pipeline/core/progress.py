"""The interface through which stages report progress, whoever listens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

# The note that names what is being done or waited for, before there is anything to count.
NOW = "now"


class Progress(Protocol):
    """Called by a stage from time to time; the command line draws it, tests record it."""

    def __call__(
        self, done: int, total: int | None, notes: Mapping[str, int | float | str] | None = None
    ) -> None:
        """`done` of `total` items (None: not known yet); `notes` are failures by reason, a loss, `NOW`…"""


def no_progress(
    done: int, total: int | None, notes: Mapping[str, int | float | str] | None = None
) -> None:
    """Ignore progress."""

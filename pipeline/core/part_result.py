"""The result of one part of a stage's work, wherever it ran."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

P = TypeVar("P")
R = TypeVar("R")


@dataclass(frozen=True)
class PartResult(Generic[P, R]):
    """The result of a part: its value, or why its worker died (`failure`)."""

    part: P
    value: R | None = None
    failure: str | None = None

    @property
    def result(self) -> R:
        """The value of a part that did not fail."""
        assert self.failure is None, self.failure
        return self.value  # type: ignore[return-value]

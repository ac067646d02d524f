"""Rows of a list that can't be used: each counted by reason, the first ten with what they hold."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from pipeline.core.plain_text import plain_line
from scrapers.fetch.page_urls import without_credentials

SHOWN = 10
_MAX_TEXT = 160


@dataclass
class Faults:
    """The broken rows of a pass over the lists.

    `reasons` counts them; `first` describes the first ten, with the file and its line where that is known.
    """

    reasons: Counter[str] = field(default_factory=Counter)
    first: list[str] = field(default_factory=list)

    def add(self, file: str, reason: str, text: str, *, line: int | None = None) -> None:
        """Count a broken row; `text` is what it holds."""
        self.reasons[reason] += 1
        if len(self.first) < SHOWN:
            place = file if line is None else f"{file}, line {line:,}"
            shown = plain_line(without_credentials(text))
            cut = shown if len(shown) <= _MAX_TEXT else shown[: _MAX_TEXT - 1] + "…"
            self.first.append(f"{place}: {reason}: {cut}")

    @property
    def total(self) -> int:
        """The number of broken rows."""
        return self.reasons.total()

"""One line of `pipeline doctor`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

State = Literal["ok", "missing", "bad"]
_MOST_LETTERS = 200


@dataclass(frozen=True, kw_only=True)
class Check:
    """What was found for one thing.

    `missing` means that something optional is not there; `advice` then says what it is for and how to get it.
    A `needed` check that is `bad` fails the command. `facts` are for `--json`.
    """

    section: str
    name: str
    state: State
    found: str
    advice: str = ""
    needed: bool = False
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def fails(self) -> bool:
        """Whether the pipeline can't be used before this is fixed."""
        return self.needed and self.state == "bad"

    def line(self) -> str:
        """The check as a line for people."""
        text = f"  {self.state:<8} {self.name}: {self.found}"
        return f"{text}. {self.advice}" if self.advice else text

    def as_dict(self) -> dict[str, Any]:
        """The check as JSON values."""
        return asdict(self)


def describe_error(error: BaseException) -> str:
    """An exception in one line: its type and the start of its message."""
    return one_line(f"{type(error).__name__}: {error}".removesuffix(": "))


def one_line(text: str) -> str:
    """The text with single spaces, cut after 200 characters."""
    short = re.sub(r"\s+", " ", text).strip()
    return short if len(short) <= _MOST_LETTERS else f"{short[:_MOST_LETTERS]}…"

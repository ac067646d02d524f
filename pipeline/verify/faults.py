"""What `verify` says of a folder: damaged, unfinished, outdated or whole, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pipeline.core.inventory import Folder

if TYPE_CHECKING:
    from scrapers.rawstore.raw_check import Segment

# The first that holds. Only damage is a fault: a run in progress is unfinished, and what was made from an
# older input stays what it is.
State = Literal["damaged", "unfinished", "outdated", "ok"]
Facts = Mapping[str, object]


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A file of a folder that is not what it was, in words that follow its name."""

    folder: str
    file: str
    found: str

    def __str__(self) -> str:
        return f"{self.folder}/{self.file} {self.found}"


@dataclass(frozen=True, kw_only=True)
class Checked:
    """A folder with its faults, why it is not the present one (`notes`), and what was measured in it.

    `segments` are those of the raw store that are damaged.
    """

    folder: Folder
    state: State
    faults: tuple[Fault, ...] = ()
    notes: tuple[str, ...] = ()
    facts: tuple[Facts, ...] = ()
    segments: tuple[Segment, ...] = ()

    @property
    def why(self) -> str:
        """The faults and notes in a line."""
        return "; ".join([*map(str, self.faults), *self.notes])

"""Results of `verify` for a folder: its state (damaged, unfinished, outdated or ok), and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pipeline.core.errors import REPAIR
from pipeline.core.inventory import Folder
from pipeline.core.original_files import is_original

if TYPE_CHECKING:
    from scrapers.rawstore.originals_check import Original
    from scrapers.rawstore.raw_check import Segment

# The first that applies. Only damage is a fault: a run in progress is unfinished, and a folder made from an
# older input is still valid.
State = Literal["damaged", "unfinished", "outdated", "ok"]
Facts = Mapping[str, object]


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A damaged file of a folder, or one outside that it refers to.

    `found` is a phrase that follows its name, `remedy` says what to do.
    """

    folder: str
    file: str
    found: str
    remedy: str = REPAIR

    def __str__(self) -> str:
        name = self.file if is_original(self.file) else f"{self.folder}/{self.file}"
        return f"{name} {self.found}"


@dataclass(frozen=True, kw_only=True)
class Checked:
    """A checked folder: its faults, `notes` on why it is unfinished or outdated, and measurements.

    `segments` are the damaged segments of the raw store, `originals` the changed files that it refers to.
    """

    folder: Folder
    state: State
    faults: tuple[Fault, ...] = ()
    notes: tuple[str, ...] = ()
    facts: tuple[Facts, ...] = ()
    segments: tuple[Segment, ...] = ()
    originals: tuple[Original, ...] = ()

    @property
    def why(self) -> str:
        """The faults and notes in one line."""
        return "; ".join([*map(str, self.faults), *self.notes])

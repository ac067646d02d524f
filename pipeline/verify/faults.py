"""Results of `verify` for a folder: its state (damaged, unfinished, outdated or ok), and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeVar

from pipeline.core.errors import REPAIR
from pipeline.core.inventory import Folder
from pipeline.core.original_files import is_original

# The first that applies. Only damage is a fault: a run in progress is unfinished, and a folder made from an
# older input is still valid.
State = Literal["damaged", "unfinished", "outdated", "ok"]
Facts = Mapping[str, object]
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A damaged file of a folder, or one outside that it refers to.

    `found` is a phrase that follows its name, `remedy` says what to do. `lost` holds what the repair of the
    stage needs to know about it.
    """

    folder: str
    file: str
    found: str
    remedy: str = REPAIR
    lost: tuple[object, ...] = ()

    def __str__(self) -> str:
        name = self.file if is_original(self.file) else f"{self.folder}/{self.file}"
        return f"{name} {self.found}"


@dataclass(frozen=True, kw_only=True)
class Checked:
    """A checked folder: its faults, `notes` on why it is unfinished or outdated, and measurements."""

    folder: Folder
    state: State
    faults: tuple[Fault, ...] = ()
    notes: tuple[str, ...] = ()
    facts: tuple[Facts, ...] = ()

    def lost(self, kind: type[T]) -> list[T]:
        """What the faults say is lost, of one kind."""
        return [each for fault in self.faults for each in fault.lost if isinstance(each, kind)]

    @property
    def why(self) -> str:
        """The faults and notes in one line."""
        return "; ".join([*map(str, self.faults), *self.notes])

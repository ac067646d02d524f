"""What the end of a `pipeline` command means: success, worth a retry, or final. Needs no Airflow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Verdict = Literal["done", "locked", "retry", "final"]
DONE, WRONG_USAGE, INCOMPLETE = 0, 2, 3
# Errors that a retry would only hit again.
_FINAL_ERRORS = frozenset(
    {
        "ConfigError",
        "ContractError",
        "DamageError",
        "DependencyError",
        "WorkspaceError",
    }
)
_FULL_DISK = "The disk is full"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a command ended: its exit code, its report if it printed one, and the last line it printed."""

    code: int
    report: Mapping[str, Any] | None = None
    last_line: str = ""

    @property
    def verdict(self) -> Verdict:
        """The consequence. A signal (a negative code, or 128 and more) says nothing about the work itself."""
        if self.code in (DONE, INCOMPLETE) and self.report is not None:
            return "done"
        if self.code < 0 or self.code >= 128:
            return "retry"
        kind = self._error.get("type")
        if kind == "LockedError":
            return "locked"
        is_final = kind in _FINAL_ERRORS or self.is_disk_full or self.is_damaged
        return "final" if is_final or self.code == WRONG_USAGE else "retry"

    @property
    def is_disk_full(self) -> bool:
        """Whether the disk was full: hours of retries would not help."""
        return self._error.get("type") == "StorageError" and self.message.startswith(_FULL_DISK)

    @property
    def is_damaged(self) -> bool:
        """Whether `pipeline verify` found damage."""
        return (self.report or {}).get("outcome") == "damaged"

    @property
    def message(self) -> str:
        """What went wrong, in a sentence."""
        if self.is_damaged:
            return f"verify found damage in {', '.join(self._damaged()) or 'the workspace'}"
        said = self._error.get("message") or self.last_line.removeprefix("Error: ")
        how = f"signal {-self.code}" if self.code < 0 else f"exit code {self.code}"
        return str(said) if said else f"the command ended with {how} and no message"

    @property
    def _error(self) -> Mapping[str, Any]:
        found = (self.report or {}).get("error")
        return found if isinstance(found, Mapping) else {}

    def _damaged(self) -> list[str]:
        folders = (self.report or {}).get("details", {}).get("folders", {})
        return [name for name, facts in folders.items() if facts.get("state") == "damaged"]

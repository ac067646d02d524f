"""What a source left out, counted by kind with the first examples of each. Pure."""

from __future__ import annotations

from bisect import insort
from dataclasses import dataclass, field

_EXAMPLES = 10
_MAX_EXAMPLE_CHARS = 200


@dataclass(slots=True)
class _Kind:
    number: int = 0
    examples: list[str] = field(default_factory=list)


class Remarks:
    """Collects remarks in constant memory, however many there are."""

    def __init__(self) -> None:
        self._kinds: dict[str, _Kind] = {}

    def note(self, what: str, example: str) -> None:
        """Count `example` among those that `what` describes, such as "Images without a caption"."""
        kind = self._kinds.setdefault(what, _Kind())
        kind.number += 1
        # The first by name, in whatever order a disk lists them.
        if len(kind.examples) < _EXAMPLES or example < kind.examples[-1]:
            insort(kind.examples, example[:_MAX_EXAMPLE_CHARS])
            del kind.examples[_EXAMPLES:]

    def count(self, what: str) -> int:
        """How many were counted."""
        return self._kinds[what].number if what in self._kinds else 0

    def sentences(self) -> tuple[str, ...]:
        """A sentence for each kind, sorted."""
        return tuple(_sentence(what, kind) for what, kind in sorted(self._kinds.items()))


def _sentence(what: str, kind: _Kind) -> str:
    more = kind.number - len(kind.examples)
    shown = ", ".join(kind.examples) + (f" and {more:,} more" if more else "")
    return f"{what} ({kind.number:,}): {shown}."

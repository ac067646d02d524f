"""What can be chosen in a line of the page: `<select>`s and ARIA listboxes, told of tag by tag."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.errors import SourceError

MAX_OPTIONS = 100_000
INLINE = frozenset(
    re.findall(
        r"\w+",
        "a abbr b bdi bdo big button cite code data del dfn em font i ins kbd label mark nobr output "
        "q s samp small span strong sub sup time tt u var wbr",
    )
)


@dataclass(frozen=True, slots=True)
class Choice:
    """A `<select>` in a line: its options, the index of the chosen one, and a name that links it."""

    options: tuple[str, ...]
    chosen: int
    name: str | None = None
    explicit: bool = False  # an option is marked as selected

    @property
    def text(self) -> str:
        """The option that the page shows."""
        return self.options[self.chosen]


class Choosing:
    """The options of an open `<select>` or listbox; `node` is its element, `tag` what that is.

    An option is its label, not its `value`, which may be a number. One that is disabled or empty is
    an invitation to choose, not an option.
    """

    def __init__(self, node: object, tag: str, attributes: Mapping[str, str]) -> None:
        self.node = node
        self.tag = tag
        names = (attributes.get(name) for name in ("name", "data-slot", "data-name"))
        self.name = next((name for name in names if name), None)
        self.labels: list[str] = []
        self.chosen = 0
        self.is_marked = False
        self._open: tuple[Mapping[str, str], list[str]] | None = None

    def takes(self, tag: str, attributes: Mapping[str, str]) -> bool:
        """Whether a tag is an option or may stand in one. Raises SourceError for too many options."""
        if tag == "option" or attributes.get("role") == "option":
            self._end_option()
            self._open = dict(attributes), []
            return True
        return self.tag != "select" or tag == "optgroup" or tag in INLINE

    def add_text(self, text: str) -> None:
        """Text of the option that opened last."""
        if self._open is not None:
            self._open[1].append(text)

    def choice(self) -> Choice | None:
        """What can be chosen, None if nothing can."""
        self._end_option()
        if not self.labels:
            return None
        return Choice(tuple(self.labels), self.chosen, self.name, self.is_marked)

    def _end_option(self) -> None:
        if self._open is None:
            return
        (attributes, texts), self._open = self._open, None
        label = " ".join("".join(texts).split()) or attributes.get("label") or ""
        if not label or "disabled" in attributes:
            return
        if "selected" in attributes or attributes.get("aria-selected") == "true":
            self.chosen, self.is_marked = len(self.labels), True
        self.labels.append(label)
        if len(self.labels) > MAX_OPTIONS:
            raise SourceError(
                f"One choice of the page has more than {MAX_OPTIONS:,} options; the blog's longest "
                "has about 100. Is it the blog post? Save it from a browser and pass --page FILE."
            )

"""The sections that the page showed last time, and what has changed since.

Reads and writes `raw/sections.json`. Nothing is deleted because a section is no longer shown.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.core.errors import ContractError
from pipeline.core.parsing import parse_json_file
from pipeline.core.storage import write_json
from pipeline.core.workspace import Workspace
from scrapers.source import SectionSummary

logger = logging.getLogger(__name__)

_NAME = "sections.json"


@dataclass(frozen=True, kw_only=True)
class SectionFacts:
    """A section as the page showed it; `shown` is False if only the catalogue knows it."""

    captions: int
    shown: bool


Sections = dict[str, SectionFacts]


def describe_page(
    workspace: Workspace, sections: Iterable[SectionSummary], *, asked: Collection[str]
) -> dict[str, Any]:
    """The changes on the page since `keep_sections`, for a report: JSON values.

    `sections` are all of the page with all their captions; only what was `asked` for is compared.
    `sections_added` and `sections_removed` compare what the page shows, whatever the catalogue adds;
    `captions` holds [before, now] where their number changed. All are empty the first time.
    """
    before, everything = _read(workspace), _facts(sections)
    now = {name: facts for name, facts in everything.items() if name in asked}
    known = {name: before[name] for name in now if name in before}
    shown = {name for name, facts in now.items() if facts.shown}
    shown_before = {name for name, facts in before.items() if facts.shown}
    changes = {
        "sections_added": sorted(shown - shown_before) if before else [],
        "sections_removed": sorted(shown_before & set(now) - shown),
        "captions": {
            name: [facts.captions, now[name].captions]
            for name, facts in sorted(known.items())
            if facts.captions != now[name].captions
        },
    }
    if any(changes.values()):
        logger.warning("The page has changed: %s.", _sentence(changes))
    return {"changed": any(changes.values()), **changes}


def keep_sections(
    workspace: Workspace, sections: Iterable[SectionSummary], *, asked: Collection[str]
) -> None:
    """Remember what was asked for; the first time everything on the page, so that none is new later."""
    before, everything = _read(workspace), _facts(sections)
    of_asked = {name: facts for name, facts in everything.items() if name in asked}
    now = (before or everything) | of_asked
    if now != before:
        kept = {name: dataclasses.asdict(facts) for name, facts in now.items()}
        write_json(workspace.raw / _NAME, kept)


def _facts(sections: Iterable[SectionSummary]) -> Sections:
    return {
        section.name: SectionFacts(captions=section.captions, shown=section.shown)
        for section in sections
    }


def _read(workspace: Workspace) -> Sections:
    try:
        return parse_json_file(workspace.raw / _NAME, Sections)
    except ContractError:
        return {}


def _sentence(changes: Mapping[str, Any]) -> str:
    parts = [
        f"{word} {', '.join(changes[name])}"
        for name, word in (
            ("sections_added", "new sections"),
            ("sections_removed", "removed sections"),
        )
        if changes[name]
    ]
    parts += [
        f"{name} has {now} captions, had {was}" for name, (was, now) in changes["captions"].items()
    ]
    return "; ".join(parts)

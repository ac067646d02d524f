"""The user's choice of sections by name, and of captions from a file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pipeline.core.errors import ConfigError
from pipeline.core.suggestions import name_choices
from pipeline.core.text_files import read_lines
from scrapers.source import CaptionPlan
from scrapers.sources.dalleblog.captions import Section, fold, same_caption
from scrapers.sources.dalleblog.merge import MergedSection
from scrapers.sources.dalleblog.plans import computed_plan, given_plan
from scrapers.sources.dalleblog.urls import RANKS

_SHOWN_UNKNOWN = 5
# base64 makes four characters of three bytes; a longer caption has no URL that servers accept.
_MAX_CAPTION_BYTES = 5_000


def choose_sections(
    sections: tuple[MergedSection, ...], names: tuple[str, ...]
) -> tuple[MergedSection, ...]:
    """The sections of these names, in order of the page; all if there are no names.

    Raises ConfigError for a name that is not a section.
    """
    known = [section.name for section in sections]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ConfigError(
            f"There is no section {', '.join(map(repr, unknown))}. {name_choices(unknown[0], known)}"
        )
    return tuple(s for s in sections if not names or s.name in names)


def choose_captions(
    sections: tuple[MergedSection, ...], file: Path, *, cdn: str
) -> tuple[CaptionPlan, ...]:
    """The captions of a file, in its order: a caption, or `section<TAB>caption`, per line.

    A caption without a section is taken from each section that has it. One with a section whose keys are
    computed need not fit a template. Raises ConfigError for a file that can't be read, or for captions that
    no section has.
    """
    plans: dict[str, CaptionPlan] = {}
    unknown: list[str] = []
    for number, line in _lines(file):
        found = list(_find(sections, line, cdn=cdn))
        if not found:
            why = f" (too long for a URL: {len(line):,} characters)" if _is_too_long(line) else ""
            unknown.append(f"line {number}: '{line[:80]}'{why}")
        for plan in found:
            plans.setdefault(plan.forms[0].url_template, plan)
    if unknown:
        raise ConfigError(_unknown(file, unknown))
    return tuple(plans.values())


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    try:
        lines = read_lines(file)
    except ConfigError as error:
        raise ConfigError(
            f"The captions file {error} Expected UTF-8 text, a caption or section<TAB>caption per line."
        ) from error
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield number, line.strip()


def _find(sections: tuple[MergedSection, ...], line: str, *, cdn: str) -> Iterator[CaptionPlan]:
    name, tab, rest = line.partition("\t")
    caption = fold(rest if tab else line)
    has_address = not _is_too_long(caption) and not {"{", "}"} & set(caption)
    for section in sections if has_address and caption else ():
        if tab and section.name != name.strip():
            continue
        yield from _plans_of(section, caption, cdn=cdn, is_named=bool(tab))


def _is_too_long(caption: str) -> bool:
    return len(caption.encode()) > _MAX_CAPTION_BYTES


def _plans_of(
    section: MergedSection, caption: str, *, cdn: str, is_named: bool
) -> Iterator[CaptionPlan]:
    found = False
    for template in section.templates:
        forms = _forms(template, caption)
        if forms:
            found = True
            yield computed_plan(template, forms, cdn=cdn)
            continue
        for given in template.given:
            if same_caption(given.caption, caption):
                found = True
                yield given_plan(template, given, ranks=RANKS)
    if not found and is_named and section.templates[0].key == "base64":
        yield computed_plan(section.templates[0], (caption,), cdn=cdn)


def _forms(template: Section, caption: str) -> tuple[str, ...]:
    chosen = template.match(caption) if template.key == "base64" else None
    return () if chosen is None else template.forms(chosen)


def _unknown(file: Path, unknown: list[str]) -> str:
    more = len(unknown) - _SHOWN_UNKNOWN
    shown = "; ".join(unknown[:_SHOWN_UNKNOWN]) + (f"; and {more:,} more" if more > 0 else "")
    return (
        f"{len(unknown):,} captions of {file} are in no chosen section, or have a key that only the "
        f"page can give: {shown}. Correct them (pipeline scrape dalleblog --list-urls lists all), or "
        "write section<TAB>caption with a section of base64 keys, whose URLs are computed."
    )

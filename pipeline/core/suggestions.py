"""Suggestions for unknown words, and for paths where nothing is."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path

_MOST_NAMED = 12


def name_choices(word: str, known: Iterable[str]) -> str:
    """Sentences to follow "there is no such …": the word that was probably meant, and the choices."""
    names = sorted(set(known))
    if not names:
        return "There is none yet."
    meant = closest(word, names)
    hint = f"Did you mean {meant!r}? " if meant else ""
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return f"{hint}Choices: {', '.join(names[:_MOST_NAMED])}{more}."


def closest(word: str, known: Iterable[str]) -> str | None:
    """The known word most similar to `word`, None if none is."""
    by_lower = {name.lower(): name for name in known}
    found = difflib.get_close_matches(word.lower(), by_lower, n=1)
    return by_lower[found[0]] if found else None


def hint_at_path(path: Path) -> str:
    """A sentence about a missing path, with a space before it: the path that was probably meant.

    "" if `path` exists, or if nothing beside its first missing part has a similar name.
    """
    parts = (*reversed(path.parents), path)
    try:
        missing = next((part for part in parts if not part.exists()), None)
        beside = [] if missing is None else [each.name for each in missing.parent.iterdir()]
    except OSError:
        return ""
    meant = None if missing is None else closest(missing.name, beside)
    if missing is None or meant is None:
        return ""
    return f" Did you mean {str(missing.with_name(meant) / path.relative_to(missing))!r}?"

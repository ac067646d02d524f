"""Suggestions for unknown words."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

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

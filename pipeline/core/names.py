"""What folders and files of ours may be called."""

from __future__ import annotations

import re

from pipeline.core.errors import ConfigError

TEMPORARY_SUFFIX = ".partial"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


def is_name(text: str) -> bool:
    """Whether `text` can name a folder of ours: a slug, not a path or a URL."""
    return bool(_NAME.fullmatch(text)) and not text.endswith((".", TEMPORARY_SUFFIX))


def check_name(name: str, *, option: str = "--name", levels: int = 1) -> str:
    """Return `name` if it can name a folder of ours: a slug, or up to `levels` slugs separated by `/`.

    Raises ConfigError that states the rule.
    """
    parts = name.split("/")
    if len(parts) <= levels and all(map(is_name, parts)):
        return name
    deeper = f"; up to {levels} such names may be joined by /" if levels > 1 else ""
    raise ConfigError(
        f"{option} {name!r} can't name a folder: use letters, digits, '.', '_' and '-', at most 128 of them, "
        f"beginning with a letter or a digit{deeper}."
    )

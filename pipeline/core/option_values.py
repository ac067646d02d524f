"""The value of an option, from what a flag, a variable, a file or the workspace's memory says. Core layer.

Whatever it comes from, a value is checked here, once, against the type and the bounds of the config's
field. A wrong one is a ConfigError that names where it stands, what was found and what is expected. `~` is
expanded in paths, and in texts that may be paths (`hf:~/tokenizer.json`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import types
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from pipeline.core.errors import ConfigError, ContractError
from pipeline.core.parsing import parse_dataclass
from pipeline.core.suggestions import closest

_MOST_NAME_BYTES, _MOST_PATH_BYTES, _MOST_LEVELS = 255, 4095, 255
# `~` at the beginning of a text, or after the prefix that says what kind of file it is.
_HOME = re.compile(r"(?P<kind>[a-z]+:)?(?P<path>~[^/]*/.*)", re.DOTALL)


def from_text(field: dataclasses.Field[Any], hint: Any, given: Any, *, name: str) -> Any:
    """The value of an option that a flag or a variable gives as text, or as a list of texts.

    `name` is the flag or the variable, for messages. Raises ConfigError.
    """
    if isinstance(given, (list, tuple)):
        kinds = get_args(_without_none(hint))
        plain: Any = [_plain(kinds[0], text) for text in given]
    else:
        plain = _plain(_without_none(hint), given)
    return from_plain(field, hint, plain, name=name)


def from_plain(
    field: dataclasses.Field[Any], hint: Any, value: Any, *, name: str, source: str = ""
) -> Any:
    """The value of an option that TOML or JSON gives.

    A whole number is taken for a text, as in `batch_size = 8` where auto is possible, too. `name` names the
    option, `source` the file that it is in. Raises ConfigError.
    """
    wanted = _without_none(hint)
    if wanted is str and isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if value == "" and wanted in (str, Path):
        raise ConfigError(f"{_at(source)}{name} is empty. Give a value, or leave it out.")
    try:
        parsed = parse_dataclass(
            hint,
            value,
            source=source,
            field=name,
            low=field.metadata.get("low"),
            high=field.metadata.get("high"),
            remedy=_remedy(wanted, value),
        )
    except ContractError as error:
        raise ConfigError(str(error)) from error
    if isinstance(parsed, Path):
        _check_length(parsed, f"{_at(source)}{name}")
    is_words = get_args(wanted)[:1] == (str,) and get_args(wanted)[-1] is Ellipsis
    return parsed if is_words else _expand(parsed)  # prompts and names of sections are no paths


def _check_length(path: Path, place: str) -> None:
    """Raise ConfigError for a path that no system has: each call on it would fail in a way of its own."""
    longest = max((len(os.fsencode(part)) for part in path.parts), default=0)
    is_deep = len(path.parts) > _MOST_LEVELS
    if is_deep or longest > _MOST_NAME_BYTES or len(os.fsencode(path)) > _MOST_PATH_BYTES:
        raise ConfigError(
            f"{place} is {str(path)[:40]!r}…, which is longer than a path can be. Give a shorter one."
        )


def _plain(kind: Any, text: Any) -> Any:
    """Text as a value of its kind, if it can be read as one; else the text, for the message."""
    if not isinstance(text, str):
        return text  # a flag's bool, or None
    choices = (
        {str(choice): choice for choice in get_args(kind)} if get_origin(kind) is Literal else {}
    )
    if kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return choices.get(text, text)


def _without_none(hint: Any) -> Any:
    if get_origin(hint) not in (Union, types.UnionType):
        return hint
    (kind,) = (kind for kind in get_args(hint) if kind is not type(None))
    return kind


def _remedy(kind: Any, value: Any) -> str:
    meant = None
    if get_origin(kind) is Literal and isinstance(value, str):
        meant = closest(value, map(str, get_args(kind)))
    return f"Did you mean {meant!r}?" if meant else ""


def _at(source: str) -> str:
    return f"{source}: " if source else ""


def _expand(value: Any) -> Any:
    """`~` and `~user` as the shell would expand them."""
    if isinstance(value, tuple):
        return tuple(_expand(item) for item in value)
    if isinstance(value, Path):
        return Path(os.path.expanduser(value))  # noqa: PTH111  (pathlib's raises for an unknown user)
    if isinstance(value, str) and (found := _HOME.fullmatch(value)):
        return (found["kind"] or "") + os.path.expanduser(found["path"])  # noqa: PTH111
    return value

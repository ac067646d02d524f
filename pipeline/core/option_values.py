"""Convert and check option values from flags, environment variables, files and the workspace's memory.

Whatever its source, a value is checked here, once, against the type and the bounds of the config's field. An
invalid one is a ConfigError that names where it is, what was found and what was expected. `~` is expanded in
paths, and in strings that may be paths (`hf:~/tokenizer.json`).
"""

from __future__ import annotations

import contextlib
import os
import re
import types
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from pipeline.core.config import Option
from pipeline.core.errors import ConfigError, ContractError
from pipeline.core.parsing import parse_dataclass
from pipeline.core.suggestions import closest

_MOST_NAME_BYTES, _MOST_PATH_BYTES, _MOST_LEVELS = 255, 4095, 255
# `~` at the beginning of a string, or after the prefix that names the kind of file.
_HOME = re.compile(r"(?P<kind>[a-z]+:)?(?P<path>~[^/]*/.*)", re.DOTALL)


def from_text(option: Option, given: Any, *, name: str) -> Any:
    """The value of an option that a flag or an environment variable gives as text, or as a list of texts.

    `name` is the flag or the variable, for messages. Raises ConfigError.
    """
    if isinstance(given, (list, tuple)):
        kinds = get_args(_without_none(option.hint))
        plain: Any = [_plain(kinds[0], text) for text in given]
    else:
        plain = _plain(_without_none(option.hint), given)
    return from_plain(option, plain, name=name)


def from_plain(option: Option, value: Any, *, name: str, source: str = "") -> Any:
    """The value of an option from TOML or JSON.

    An integer is accepted as text, as in `batch_size = 8` for an option that also allows auto. `name` names
    the option, `source` the file that it is in. Raises ConfigError.
    """
    wanted = _without_none(option.hint)
    if wanted is str and isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if value == "" and wanted in (str, Path):
        raise ConfigError(f"{_at(source)}{name} is empty. Give a value, or leave it out.")
    try:
        parsed = parse_dataclass(
            option.hint,
            value,
            source=source,
            field=name,
            low=option.metadata.get("low"),
            high=option.metadata.get("high"),
            remedy=_remedy(wanted, value),
        )
    except ContractError as error:
        raise ConfigError(str(error)) from error
    if isinstance(parsed, Path):
        _check_length(parsed, f"{_at(source)}{name}")
    is_words = get_args(wanted)[:1] == (str,) and get_args(wanted)[-1] is Ellipsis
    return parsed if is_words else _expand(parsed)  # prompts and names of sections are not paths


def _check_length(path: Path, place: str) -> None:
    """Raise ConfigError for a path too long for any system, where each call would fail differently."""
    longest = max((len(os.fsencode(part)) for part in path.parts), default=0)
    is_deep = len(path.parts) > _MOST_LEVELS
    if is_deep or longest > _MOST_NAME_BYTES or len(os.fsencode(path)) > _MOST_PATH_BYTES:
        raise ConfigError(
            f"{place} is {str(path)[:40]!r}…, which is longer than a path can be. Give a shorter one."
        )


def _plain(kind: Any, text: Any) -> Any:
    """Text as a value of its type if possible; otherwise the text itself, for the error message."""
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
    """Expand `~` and `~user` as a shell would."""
    if isinstance(value, tuple):
        return tuple(_expand(item) for item in value)
    if isinstance(value, Path):
        return Path(os.path.expanduser(value))  # noqa: PTH111  (pathlib's raises for an unknown user)
    if isinstance(value, str) and (found := _HOME.fullmatch(value)):
        return (found["kind"] or "") + os.path.expanduser(found["path"])  # noqa: PTH111
    return value

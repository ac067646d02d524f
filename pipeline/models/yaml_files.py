"""Read a third-party YAML file safely: without code, in time and memory proportional to its size.

Aliases can expand a few lines to terabytes, nesting can overflow the stack, and invalid dates can raise.
The first two are refused before any value is built; dates stay text.
"""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from pipeline.core.errors import ContractError, ModelError
from pipeline.core.parsing import read_small_file

MAX_BYTES = 1 << 20
_DEEPEST = 50
_MOST_VALUES = 100_000


class _Loader(yaml.SafeLoader):
    """YAML's plain types; dates stay text."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def read_yaml(path: Path) -> Any:
    """The value in a YAML file.

    Raises ModelError for a file that can't be read, is not a regular file, is damaged, is nested too deeply
    or expands too far.
    """
    try:
        text = read_small_file(path, max_bytes=MAX_BYTES, remedy="Give a YAML file.").decode(
            "utf-8-sig"
        )
        _check_events(text)
        return yaml.load(text, Loader=_Loader)
    except ContractError as error:
        raise ModelError(str(error)) from error
    except (
        yaml.YAMLError,
        ValueError,
        TypeError,
        AttributeError,
        LookupError,
        RecursionError,
    ) as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise ModelError(
            f"{path} can't be read as YAML ({reason}). Give it as it was published."
        ) from error


def _check_events(text: str) -> None:
    """Raises ValueError for nesting that is too deep, or aliases that expand to too many values."""
    open_collections: list[tuple[Hashable, int]] = []  # anchor, and number of values before it
    sizes: dict[Hashable, int] = {}
    total = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.AliasEvent):
            total += sizes.get(event.anchor, 1)
        elif isinstance(event, yaml.CollectionStartEvent):
            open_collections.append((event.anchor, total))
            total += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = open_collections.pop()
            sizes[anchor] = total - before
        elif isinstance(event, yaml.ScalarEvent):
            total += 1
        if len(open_collections) > _DEEPEST:
            raise ValueError(f"it is nested more than {_DEEPEST} levels deep")
        if total > _MOST_VALUES:
            raise ValueError(f"it has, or its aliases expand to, more than {_MOST_VALUES:,} values")

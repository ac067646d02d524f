"""Read a YAML that came with a model: small, without code, and in time and memory that fit its bytes.

Layer 3. Aliases let a few lines unfold to terabytes, nesting ends the interpreter's stack, and a date may
be none: all this is refused or read as text before a value is built.
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

    Raises ModelError for one that can't be read, is no regular file, is damaged, or is nested or unfolds
    beyond all measure.
    """
    try:
        text = read_small_file(path, max_bytes=MAX_BYTES, remedy="Give a YAML.").decode("utf-8-sig")
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
        said = " ".join(str(error).split())[:300] or type(error).__name__
        raise ModelError(
            f"{path} can't be read as YAML ({said}). Give it as it was published."
        ) from error


def _check_events(text: str) -> None:
    """Raises ValueError for nesting that is too deep, or aliases that stand for too many values."""
    open_collections: list[
        tuple[Hashable, int]
    ] = []  # the anchor of each, and the values before it
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
            raise ValueError(f"it has, or its aliases stand for, more than {_MOST_VALUES:,} values")

"""Descriptions that we wrote beside weights of ours: every field is there, and no other. Layer 3."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TypeVar

from pipeline.core.errors import ContractError
from pipeline.core.parsing import parse_dataclass

T = TypeVar("T")


def parse_written(cls: type[T], value: object, *, source: str, field: str = "", remedy: str) -> T:
    """`value` as an instance of the dataclass `cls`, whose defaults don't stand in for what is missing.

    A default would make another network of the same weights. Raises ContractError that names file, field,
    what was found and what was expected.
    """
    names = [entry.name for entry in dataclasses.fields(cls)]  # type: ignore[arg-type]
    if isinstance(value, Mapping):
        for name in names:
            if name not in value:
                raise ContractError(
                    f"{source}: {f'{field}.{name}'.lstrip('.')} is missing, expected with "
                    f"{', '.join(sorted(names))}. {remedy}"
                )
    return parse_dataclass(cls, value, source=source, field=field, unknown="refuse", remedy=remedy)

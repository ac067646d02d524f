"""The contents of `runs.jsonl` and `.active/`, and how their lines are parsed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.core.errors import ContractError
from pipeline.core.parsing import parse_json

Record = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class StageEntry:
    """A stage in a line of `runs.jsonl`; `did` is what this run did, as opposed to the state it left."""

    stage: str
    outcome: str | None = None
    skipped: str | None = None
    seconds: float | None = None
    writes: tuple[str, ...] = ()
    counts: Mapping[str, int] = field(default_factory=dict)
    inputs: Mapping[str, str] = field(default_factory=dict)
    outputs: Mapping[str, str] = field(default_factory=dict)
    did: Mapping[str, Any] = field(default_factory=dict)
    error: Mapping[str, str] | None = None


@dataclass(frozen=True, kw_only=True)
class RunLine:
    """A line of `runs.jsonl`."""

    command: str | None = None
    started: str | None = None
    seconds: float | None = None
    outcome: str | None = None
    stages: tuple[StageEntry, ...] = ()
    by: str | None = None
    error: Mapping[str, str] | None = None


@dataclass(frozen=True, kw_only=True)
class ActiveFacts:
    """The contents of a command's file in `.active/`."""

    command: str
    started: str
    process: int
    host: str
    stage: str | None = None
    writes: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()
    done: int = 0
    total: int | None = None
    notes: Mapping[str, int | float | str] = field(default_factory=dict)
    seconds: float = 0.0


def parse_line(line: bytes, shape: type[Any]) -> Record | None:
    """The object of a line if it has the fields of `shape` with their types; None otherwise."""
    try:
        parse_json(shape, line, source="line")
        return parse_json(dict[str, Any], line, source="line")
    except ContractError:
        return None

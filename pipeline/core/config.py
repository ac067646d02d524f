"""Options of a stage as a frozen dataclass: one source for the flags, the TOML keys and the manifest.

Each stage declares its options beside its entry function:

    @dataclass(frozen=True, kw_only=True)
    class DedupeConfig(StageConfig):
        val_fraction: float = option(0.01, "Share of captions in the validation split.", low=0, high=1)

`pipeline.app.cli` turns this into a flag ``--val-fraction``, an environment variable and a TOML key.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# `user:password@` after the scheme of a URL.
_USER = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*://)[^/?#]*@")


def option(
    default: Any,
    help: str,  # noqa: A002  (the word typer and click use)
    *,
    low: float | None = None,
    high: float | None = None,
    runtime: bool = False,
    remember: bool | None = None,
    instead_of: tuple[str, ...] = (),
    secret: bool = False,
    metavar: str | None = None,
) -> Any:
    """Declare a field of a config with its line of documentation.

    `low` and `high` are inclusive bounds. `runtime` marks an option that changes how the work is done but
    never the result (worker counts, ports); it is not in the manifest. `remember` says whether the workspace
    keeps it for later commands (default: unless it is a `runtime` option). `instead_of` names options that
    are not recalled if this one is given. `secret` marks an option whose value is never written or printed;
    it is also a runtime option. `metavar` is what the help calls the values of a positional option.
    """
    metadata = {
        "help": help,
        "low": low,
        "high": high,
        "runtime": runtime or secret,
        "remember": remember,
        "instead_of": instead_of,
        "secret": secret,
        "metavar": metavar,
    }
    if isinstance(default, (list, dict, set)):
        raise TypeError("defaults of options must be immutable: use a tuple")
    return dataclasses.field(default=default, repr=not secret, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class StageConfig:
    """The options that every stage has."""

    workspace: Path = option(Path("data"), "The dataset's folder.", runtime=True)


def resolved(config: StageConfig) -> dict[str, Any]:
    """The part of a config that determines the output, as JSON values: `config` in a manifest."""
    return {
        field.name: plain_value(getattr(config, field.name))
        for field in dataclasses.fields(config)
        if not field.metadata.get("runtime", False)
    }


def plain_value(value: Any) -> Any:
    """The value of an option as a JSON value, without users and passwords in URLs."""
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple):
        return [plain_value(item) for item in value]
    if isinstance(value, str):
        return _USER.sub(r"\1", value)
    return value

"""The options of `pipeline scrape` for every source: from the fields of all configs to the config of one."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from pipeline.core.errors import ConfigError
from pipeline.core.field_types import field_types
from pipeline.core.suggestions import closest
from scrapers.config import ScrapeConfig
from scrapers.source import find_source, source_kinds

# They say where a workspace's images come from.
_SOURCE_FLAGS = ("--source ", "--page-url ", "--cdn-url ", "--via ", "--archive-url ")


@cache
def all_options() -> type[ScrapeConfig]:
    """A config class with the options of every source: what the command line and TOML files accept.

    Raises TypeError if two sources declare an option of the same name with another type or default.
    """
    fields: dict[str, tuple[Any, Any]] = {}
    for kind in source_kinds().values():
        hints = field_types(kind.config)
        for field in own_fields(kind.config):
            hint, first = fields.setdefault(field.name, (hints[field.name], field))
            if (hint, first.default) != (hints[field.name], field.default):
                raise TypeError(
                    f"Two sources have an option {field.name!r} with different types or defaults."
                )
    made = [
        (name, hint, dataclasses.field(default=field.default, metadata=field.metadata))
        for name, (hint, field) in fields.items()
    ]
    options: type[ScrapeConfig] = dataclasses.make_dataclass(
        "AllOptions", made, bases=(ScrapeConfig,), frozen=True, kw_only=True
    )
    return options


def own_fields(config: type[ScrapeConfig]) -> list[dataclasses.Field[Any]]:
    """The options of a source that not every source has."""
    shared = ScrapeConfig.__dataclass_fields__
    return [field for field in dataclasses.fields(config) if field.name not in shared]


def takes_inputs(config: type[ScrapeConfig]) -> bool:
    """Whether a source has positional arguments: then its config declares `inputs` anew."""
    fields = config.__dataclass_fields__
    return fields["inputs"] is not ScrapeConfig.__dataclass_fields__["inputs"]


def build_config(values: Mapping[str, Any]) -> ScrapeConfig:
    """The config of the source that `values` name.

    Raises ConfigError if they set an option that this source doesn't have.
    """
    kind = find_source(str(values.get("source", ScrapeConfig.source)))
    if (inputs := values.get("inputs")) and not takes_inputs(kind.config):
        raise ConfigError(
            f"The source {kind.name} takes no files or URLs as arguments, found {inputs[0]!r}. "
            f"See `pipeline scrape {kind.name} --help`."
        )
    known = {field.name for field in dataclasses.fields(kind.config)}
    defaults = {f.name: f.default for f in dataclasses.fields(all_options())}
    for name, value in values.items():
        if name in defaults and name not in known and value != defaults[name]:
            raise ConfigError(_unknown(kind.name, name, known))
    return kind.config(**{name: value for name, value in values.items() if name in known})


def check_changes(config: ScrapeConfig, root: Path, changes: Sequence[str]) -> None:
    """Raise ConfigError for --retry-failed with another source than the workspace `root` was made from."""
    elsewhere = [change for change in changes if change.startswith(_SOURCE_FLAGS)]
    if elsewhere and config.retry_failed:
        raise ConfigError(
            f"{root} was made from another source ({'; '.join(elsewhere)}), and --retry-failed works only "
            "with that one. Leave these options out, or give another --workspace."
        )


def _unknown(source: str, name: str, known: set[str]) -> str:
    meant = closest(name, known)
    hint = f"Did you mean --{meant.replace('_', '-')}?" if meant else ""
    flag = f"--{name.replace('_', '-')}"
    see = f"See `pipeline scrape {source} --help`."
    return " ".join(filter(None, (f"The source {source} has no option {flag}.", hint, see)))

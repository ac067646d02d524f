"""Options of a stage as a frozen dataclass: one source for the flags, the TOML keys and the manifest.

Each stage declares its options beside its entry function:

    @dataclass(frozen=True, kw_only=True)
    class DedupeConfig(StageConfig):
        val_fraction: float = option(0.01, "Share of captions in the validation split.", low=0, high=1)

`pipeline.app.cli` turns this into a flag ``--val-fraction``, an environment variable and a TOML key.

A config with many options has sections: fields that are dataclasses of options themselves. Only code and the
help see them. Flags, keys, manifests and the Python API know options by their names alone, so everything that
goes through a config's options does so by `declared_options`, `option_values` and `build_config`.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from pipeline.core.field_types import field_types, once_per_class

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
    name: str | None = None,
    metavar: str | None = None,
    omit_default: bool = False,
) -> Any:
    """Declare a field of a config with its line of documentation.

    `low` and `high` are inclusive bounds. `runtime` marks an option that changes how the work is done but
    never the result (worker counts, ports); it is not in the manifest. `remember` says whether the workspace
    keeps it for later commands (default: unless it is a `runtime` option). `instead_of` names options that
    are not recalled if this one is given. `secret` marks an option whose value is never written or printed;
    it is also a runtime option. `name` is the option's name if it differs from the field's. `metavar` is what
    the help calls the values of a positional option. `omit_default` leaves the default value out of
    manifests: for options that came later, so that what was made before them stays current.
    """
    metadata = {
        "help": help,
        "low": low,
        "high": high,
        "runtime": runtime or secret,
        "remember": remember,
        "instead_of": instead_of,
        "secret": secret,
        "name": name,
        "metavar": metavar,
        "omit_default": omit_default,
    }
    if isinstance(default, (list, dict, set)):
        raise TypeError("defaults of options must be immutable: use a tuple")
    return dataclasses.field(default=default, repr=not secret, metadata=metadata)


def section(kind: type[Any], title: str) -> Any:
    """Declare a field of a config that holds the options of `kind`; `title` is their panel in the help."""
    return dataclasses.field(default=kind(), metadata={"section": title})


@dataclass(frozen=True, kw_only=True)
class StageConfig:
    """The options that every stage has."""

    workspace: Path = option(Path("data"), "The dataset's folder.", runtime=True)


@dataclass(frozen=True, kw_only=True)
class WorkConfig(StageConfig):
    """The options of stages that take time and room."""

    force: bool = option(
        False, "Start even if the disk seems too small for what will be written.", runtime=True
    )


Config = TypeVar("Config")


@dataclass(frozen=True, kw_only=True)
class Option:
    """An option of a config: its name, its type, and what `option` declared.

    `place` are the attributes that lead to it from the config, `panel` is the title of its section.
    """

    name: str
    hint: Any
    default: Any
    metadata: Mapping[str, Any]
    place: tuple[str, ...]
    panel: str | None = None


@once_per_class
def declared_options(config: type[Any]) -> Mapping[str, Option]:
    """The options of a config class by name, in their order, with those of its sections."""
    hints = field_types(config)
    found: dict[str, Option] = {}
    for field in dataclasses.fields(config):
        title = field.metadata.get("section")
        if title is None:
            name = field.metadata.get("name") or field.name
            found[name] = Option(
                name=name,
                hint=hints[field.name],
                default=field.default,
                metadata=field.metadata,
                place=(field.name,),
            )
            continue
        for name, inner in declared_options(hints[field.name]).items():
            found[name] = dataclasses.replace(
                inner, place=(field.name, *inner.place), panel=inner.panel or title
            )
    return MappingProxyType(found)


def option_values(config: Any) -> dict[str, Any]:
    """The values of a config's options by name."""
    return {
        name: functools.reduce(getattr, option.place, config)
        for name, option in declared_options(type(config)).items()
    }


def build_config(config: type[Config], values: Mapping[str, Any]) -> Config:
    """The config with these values of options; the others have their defaults.

    Raises TypeError for a name that is none of its options.
    """
    options = declared_options(config)
    if unknown := sorted(values.keys() - options.keys()):
        raise TypeError(f"{config.__name__} has no options {', '.join(unknown)}")
    return _build(config, {options[name].place: value for name, value in values.items()})


def _build(config: type[Config], values: Mapping[tuple[str, ...], Any]) -> Config:
    hints = field_types(config)
    fields = {}
    for name in dict.fromkeys(place[0] for place in values):
        inner = {place[1:]: value for place, value in values.items() if place[0] == name}
        fields[name] = inner[()] if () in inner else _build(hints[name], inner)
    return config(**fields)


def resolved(config: StageConfig) -> dict[str, Any]:
    """The part of a config that determines the output, as JSON values: `config` in a manifest."""
    options = declared_options(type(config))
    return {
        name: plain_value(value)
        for name, value in option_values(config).items()
        if not options[name].metadata.get("runtime", False)
        and not _is_omitted(options[name], value)
    }


def _is_omitted(option: Option, value: Any) -> bool:
    return bool(option.metadata.get("omit_default", False)) and value == option.default


def plain_value(value: Any) -> Any:
    """The value of an option as a JSON value, without users and passwords in URLs."""
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple):
        return [plain_value(item) for item in value]
    if isinstance(value, str):
        return _USER.sub(r"\1", value)
    return value

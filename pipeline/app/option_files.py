"""Configuration files (`--config`) and presets: TOML with a table per command and a key per option."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer

from pipeline.core.config import StageConfig, declared_options, option, plain_value
from pipeline.core.errors import ConfigError
from pipeline.core.option_values import from_plain
from pipeline.core.suggestions import closest, name_choices
from pipeline.core.text_files import read_text

PRESETS = Path(__file__).parents[1] / "presets"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Common:
    """The options that every command has."""

    json: bool = option(False, "Print the report as one JSON object, the last line on stdout.")
    quiet: bool = option(False, "Print only errors.")
    debug: bool = option(False, "Log at debug level and show tracebacks.")
    forget: bool = option(
        False, "Start from the defaults instead of the options remembered by the workspace."
    )
    no_remember: bool = option(
        False, "Don't remember the options of this command in the workspace."
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Served:
    """The option of commands that serve metrics while they run."""

    metrics_port: int | None = option(
        None,
        "Serve Prometheus metrics on this port of 127.0.0.1 while running; 0 picks a free one.",
        low=0,
        high=65535,
    )


# The config classes of each command's table, filled in when the commands are added.
CLASSES: dict[str, tuple[type[Any], ...]] = {}
# The options that may be at the top of a file, where they apply to every command.
_TOP = (StageConfig, Common)


def read_config_file(ctx: typer.Context, given: str | None) -> str | None:
    """Option callback: use the file's values as defaults of the command that runs."""
    if given is None:
        return None
    workspace = declared_options(StageConfig)["workspace"]  # a path like any other
    try:
        path = from_plain(workspace, given, name="--config")
    except ConfigError as error:
        raise typer.BadParameter(str(error)) from error
    tables = load_tables(find_preset(path))
    top = {key: value for key, value in tables.items() if not isinstance(value, dict)}
    ctx.default_map = as_texts({**top, **tables.get(ctx.info_name or "", {})})
    ctx.meta["pipeline.tables"] = tables
    return given


def find_preset(path: Path) -> Path:
    """The file of a preset given by its bare name, such as `dalleblog`; otherwise `path` itself."""
    preset = PRESETS / f"{path}.toml"
    return preset if path.name == str(path) and not path.exists() and preset.exists() else path


def load_tables(path: Path) -> dict[str, Any]:
    """Read a TOML file and check it against the existing commands and options; values get their types.

    Raises BadParameter (exit code 2) for an unreadable file, an unknown key, or a value that its option can't
    have.
    """
    try:
        raw = tomllib.loads(read_text(path))
        return {_checked(path, key): _read(path, key, value) for key, value in raw.items()}
    except ConfigError as error:
        raise typer.BadParameter(_or_a_preset(path, str(error))) from error
    except RecursionError:
        raise typer.BadParameter(f"{path} is nested too deeply to be read.") from None
    except (tomllib.TOMLDecodeError, ValueError) as error:
        raise typer.BadParameter(f"{path} is not TOML: {error}.") from error


def as_texts(table: Mapping[str, Any]) -> dict[str, Any]:
    """Option values as the command line would pass them."""
    return {name: _as_text(plain_value(value)) for name, value in table.items()}


def _as_text(value: Any) -> Any:
    if isinstance(value, list):
        return [_as_text(item) for item in value]
    return value if isinstance(value, bool) or value is None else str(value)


def _or_a_preset(path: Path, message: str) -> str:
    if path.exists() or path.name != str(path):
        return message
    presets = [file.stem for file in PRESETS.glob("*.toml")]
    return f"{path} is neither a file nor a preset. {name_choices(str(path), presets)}"


def _read(path: Path, key: str, value: Any) -> Any:
    """The value of a top-level option, or the table of a command."""
    if key not in CLASSES:
        return _read_option(path, _TOP, _checked(path, key), value, "")
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: {key} is a command; its options belong in a table [{key}].")
    where = f"[{key}] "
    options = {_known(path, name, CLASSES[key], where): inner for name, inner in value.items()}
    return {
        name: _read_option(path, CLASSES[key], name, inner, where)
        for name, inner in options.items()
    }


def _read_option(
    path: Path, classes: tuple[type[Any], ...], name: str, value: Any, where: str
) -> Any:
    for cls in classes:
        declared = declared_options(cls).get(name)
        if declared is not None:
            shown = f"{where}{name.rstrip('_')}"
            return from_plain(declared, value, name=shown, source=str(path))
    raise AssertionError(name)


def _checked(path: Path, key: str) -> str:
    """The name of a table or of a top-level option."""
    return key if key in CLASSES else _known(path, key, _TOP, "", more=CLASSES)


def _known(
    path: Path,
    key: str,
    classes: tuple[type[Any], ...],
    where: str,
    *,
    more: Mapping[str, Any] = {},
) -> str:
    """The field that a key names. Raises ConfigError for an unknown one."""
    known = {name for cls in classes for name in declared_options(cls)}
    name = key.replace("-", "_")
    for candidate in (name, key, f"{name}_"):  # from_: `from` is a Python keyword
        if candidate in known:
            return candidate
    meant = closest(name, known | more.keys())
    hint = (
        f"Did you mean {meant!r}?"
        if meant
        else f"Known are: {', '.join(sorted(known | more.keys()))}."
    )
    raise ConfigError(f"{path} has the unknown key {where}{key!r}. {hint}")

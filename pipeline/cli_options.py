"""Flags from config dataclasses, and where a value comes from: flag, environment, TOML file, default.

Floor 5, beside `pipeline.cli`. A field of a stage's config is declared once, with `option(…)`; here it
becomes a typer option. typer resolves flag > environment > file > default by itself, the file being
its *default map*.
"""

from __future__ import annotations

import dataclasses
import inspect
import os
import shlex
import tomllib
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

import typer

from pipeline.config import StageConfig
from pipeline.errors import ConfigError
from pipeline.remembered import recall
from pipeline.stages import STAGES
from pipeline.textfiles import read_text

PRESETS = Path(__file__).parent / "presets"
Config = TypeVar("Config", bound=StageConfig)
# Keys that may stand at the top of a TOML file: they hold for every command.
COMMON_KEYS = frozenset({"workspace", "json", "quiet", "debug", "forget", "no_remember"})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Common:
    """The options that every command has."""

    json: bool
    quiet: bool
    debug: bool
    forget: bool = False
    no_remember: bool = False


def options_of(
    command: str,
    config: type[StageConfig],
    *,
    arguments: tuple[str, ...] = (),
    metrics: bool = False,
) -> list[inspect.Parameter]:
    """Parameters for typer: the fields of `config` and the common ones.

    `arguments` names fields that are positional on the command line; `metrics` adds --metrics-port.
    """
    hints = get_type_hints(config)
    fields = dataclasses.fields(config)
    stage = [
        _parameter(command, field, hints[field.name], positional=field.name in arguments)
        for field in fields
    ]
    served = [_metrics_parameter(command)] if metrics else []
    return [*stage, *served, *_common_parameters(command)]


def lists_from_environment(
    ctx: typer.Context, command: str, config: type[StageConfig]
) -> dict[str, tuple[str, ...]]:
    """Options of several values that stand in the environment, and not on the command line.

    Values are parted by `|`, as captions hold blanks and commas.
    """
    hints = get_type_hints(config)
    found = {}
    for field in dataclasses.fields(config):
        source = ctx.get_parameter_source(field.name)
        if get_origin(hints[field.name]) is not tuple or (source and source.name == "COMMANDLINE"):
            continue
        values = (os.environ.get(name) for name in _variables(command, field.name))
        if given := next((value for value in values if value), None):
            found[field.name] = tuple(part.strip() for part in given.split("|") if part.strip())
    return found


def given_options(
    ctx: typer.Context, config: type[StageConfig], values: Mapping[str, Any]
) -> dict[str, Any]:
    """Of the resolved values of a stage's options, those that somebody gave: flag, environment or file."""
    names = {field.name for field in dataclasses.fields(config)}
    sources = {name: ctx.get_parameter_source(name) for name in names & values.keys()}
    return {
        name: values[name]
        for name, source in sources.items()
        if source and source.name != "DEFAULT"
    }


def check_quotes(ctx: typer.Context, values: Mapping[str, Any]) -> None:
    """Refuse several prompts of one word each on the command line: a prompt lacks its quotes.

    Raises ConfigError with the command that was probably meant.
    """
    words = values.get("prompts") or ()
    source = ctx.get_parameter_source("prompts")
    if len(words) < 2 or source is None or source.name != "COMMANDLINE":
        return
    if any("|" in word or len(word.split()) != 1 for word in words):
        return
    sentence, several = shlex.quote(" ".join(words)), shlex.quote("|".join(words))
    raise ConfigError(
        f"{len(words)} prompts of one word each are given. For one prompt, quote it: "
        f"pipeline {ctx.info_name} {sentence}. If each word is meant as a prompt, write {several}, or use "
        "--prompts-file."
    )


def build(config: type[Config], values: Mapping[str, Any]) -> Config:
    """Make the config from what typer resolved."""
    names = {field.name for field in dataclasses.fields(config)}
    chosen: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in values.items()
        if name in names
    }
    return config(**chosen)


def configure_stage(
    ctx: typer.Context,
    stage: str,
    overrides: Mapping[str, Any],
    *,
    recalled_from: Path | None = None,
) -> StageConfig:
    """The config that the command `stage` would have, called without flags in this context.

    `overrides` win over environment and file; what neither gives is recalled from the workspace
    `recalled_from`.
    """
    root = ctx.find_root()
    command: Any = root.command.commands[stage]  # type: ignore[attr-defined]
    table = ctx.meta.get("pipeline.tables", {}).get(stage, {})
    inner = command.make_context(stage, [], parent=root, default_map=table)
    config = STAGES[stage].config
    listed = lists_from_environment(inner, stage, config)
    given = given_options(inner, config, inner.params) | listed | dict(overrides)
    recalled = recall(recalled_from, stage, config, given) if recalled_from is not None else {}
    return build(config, {**inner.params, **recalled, **given})


def use_preset(ctx: typer.Context, path: Path) -> None:
    """Lay the tables of a preset under those of the user's own file."""
    tables = load_tables(ctx, path)
    for name, table in ctx.meta.get("pipeline.tables", {}).items():
        tables[name] = {**tables.get(name, {}), **table} if isinstance(table, dict) else table
    ctx.meta["pipeline.tables"] = tables


def with_signature(
    function: Callable[..., None],
    name: str,
    parameters: list[inspect.Parameter],
) -> Callable[..., None]:
    """Give `function(ctx, **values)` the signature that typer reads."""
    context = inspect.Parameter("ctx", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
    parameters = [context, *parameters]
    function.__name__ = name.replace("-", "_")
    function.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    function.__annotations__ = {p.name: p.annotation for p in parameters}
    return function


def _parameter(
    command: str, field: dataclasses.Field[Any], hint: Any, *, positional: bool
) -> inspect.Parameter:
    meta = field.metadata
    settings: dict[str, Any] = {
        "help": meta["help"],
        "envvar": None if get_origin(hint) is tuple else _variables(command, field.name),
        "show_envvar": False,
    }
    annotation, default = _typer_type(hint, field.default)
    if meta["low"] is not None or meta["high"] is not None:
        settings |= {"min": meta["low"], "max": meta["high"]}
    if field.name == "workspace":
        default = None
        annotation = Path | None
        settings["help"] = "The dataset's folder (default: data/<source>)."
    if positional:
        info = typer.Argument(default, **settings)
    elif annotation is bool:
        negative = "" if field.name.startswith("no_") else f"/--no-{_dashed(field.name)}"
        info = typer.Option(default, f"--{_dashed(field.name)}{negative}", **settings)
    else:
        info = typer.Option(default, f"--{_dashed(field.name)}", **settings)
    return inspect.Parameter(
        field.name, inspect.Parameter.KEYWORD_ONLY, default=info, annotation=annotation
    )


def _typer_type(hint: Any, default: Any) -> tuple[Any, Any]:
    """typer knows lists, not tuples of any length, and wants Optional for a None default."""
    if get_origin(hint) is tuple:
        return list[get_args(hint)[0]], list(default)  # type: ignore[misc]
    if get_origin(hint) in (Union, types.UnionType):
        inner = [arg for arg in get_args(hint) if arg is not type(None)]
        return inner[0] | None, default
    return hint, default


def _metrics_parameter(command: str) -> inspect.Parameter:
    info = typer.Option(
        None,
        "--metrics-port",
        min=0,
        max=65535,
        help="Tell Prometheus how far it is, on this port of 127.0.0.1; 0: any free one.",
        envvar=_variables(command, "metrics_port"),
        show_envvar=False,
    )
    return inspect.Parameter(
        "metrics_port", inspect.Parameter.KEYWORD_ONLY, default=info, annotation=int | None
    )


def _common_parameters(command: str) -> list[inspect.Parameter]:
    def flag(name: str, help: str) -> inspect.Parameter:  # noqa: A002
        info = typer.Option(
            False, f"--{_dashed(name)}", help=help, envvar=_variables(command, name)
        )
        return inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=info, annotation=bool
        )

    config_info = typer.Option(
        None,
        "--config",
        help="A TOML file (a table per command, an option per key), or a preset: cc12m, dalleblog, demo.",
        envvar="PIPELINE_CONFIG",
        is_eager=True,
        callback=read_config_file,
    )
    return [
        inspect.Parameter(
            "config", inspect.Parameter.KEYWORD_ONLY, default=config_info, annotation=Path | None
        ),
        flag("json", "Print the report as one JSON object, the last line on stdout."),
        flag("quiet", "Print errors only."),
        flag("debug", "Log everything, and show tracebacks."),
        flag(
            "forget", "Start from the defaults, not from the options that the workspace remembers."
        ),
        flag("no_remember", "Don't keep the options of this command in the workspace."),
    ]


# --- The TOML file -------------------------------------------------------------------------------


def read_config_file(ctx: typer.Context, path: Path | None) -> Path | None:
    """Option callback: make the file's values the defaults of the command that runs."""
    if path is None:
        return None
    tables = load_tables(ctx, find_preset(path))
    name = ctx.info_name or ""
    own = {key: value for key, value in tables.items() if key in COMMON_KEYS}
    ctx.default_map = {**own, **tables.get(name, {})}
    ctx.meta["pipeline.tables"] = tables
    return path


def find_preset(path: Path) -> Path:
    """The file of a preset that is called by its name alone, as `dalleblog`; else `path` itself."""
    preset = PRESETS / f"{path}.toml"
    return preset if path.name == str(path) and not path.exists() and preset.exists() else path


def load_tables(ctx: typer.Context, path: Path) -> dict[str, Any]:
    """Read and check a TOML file against the commands and options that exist.

    Raises BadParameter (exit code 2) for a file that can't be read or a key that nobody knows.
    """
    try:
        raw = tomllib.loads(read_text(path))
    except ConfigError as error:
        raise typer.BadParameter(str(error)) from error
    except tomllib.TOMLDecodeError as error:
        raise typer.BadParameter(f"{path} is not TOML: {error}.") from error
    known = _known_options(ctx)
    tables: dict[str, Any] = {}
    for key, value in raw.items():
        if key in known and not isinstance(value, dict):
            raise typer.BadParameter(
                f"{path}: {key} is a command; its options stand in a table [{key}]."
            )
        if key in known:
            tables[key] = {_checked(path, k, known[key], f"[{key}] "): v for k, v in value.items()}
        else:
            tables[_checked(path, key, COMMON_KEYS | known.keys(), "")] = value
    return tables


def _known_options(ctx: typer.Context) -> dict[str, frozenset[str]]:
    root = ctx.find_root().command
    commands: Mapping[str, Any] = getattr(root, "commands", {})
    hidden = {"config", "help"}
    return {
        name: frozenset(p.name for p in command.params if p.name not in hidden)
        for name, command in commands.items()
    }


def _checked(path: Path, key: str, known: frozenset[str] | set[str], where: str) -> str:
    import difflib

    name = key.replace("-", "_")
    for candidate in (name, key, f"{name}_"):  # from_: `from` is a word of Python's
        if candidate in known:
            return candidate
    close = difflib.get_close_matches(name, sorted(known), n=1)
    hint = f"Did you mean {close[0]!r}?" if close else f"Known are: {', '.join(sorted(known))}."
    raise typer.BadParameter(f"{path} has the unknown key {where}{key!r}. {hint}")


def _dashed(name: str) -> str:
    return name.rstrip("_").replace("_", "-")


def _variables(command: str, option: str) -> list[str]:
    """The environment variables of an option, the stronger one first."""
    name = option.rstrip("_").upper()
    return [f"PIPELINE_{_upper(command)}_{name}", f"PIPELINE_{name}"]


def _upper(name: str) -> str:
    return name.replace("-", "_").upper()

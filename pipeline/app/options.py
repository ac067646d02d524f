"""Flags from config dataclasses, and where a value comes from: flag, environment, TOML file, default.

A field of a stage's config is declared once, with `option(…)`; here it becomes a typer option. typer itself
resolves flag > environment > file > default, with the file as its *default map*. It handles strings, which
`option_values` converts.
"""

from __future__ import annotations

import inspect
import os
import shlex
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

import typer

from pipeline.app.option_files import (
    CLASSES,
    Common,
    Served,
    as_texts,
    load_tables,
    read_config_file,
)
from pipeline.app.stages import STAGES
from pipeline.core.config import Option, StageConfig, build_config, declared_options
from pipeline.core.errors import ConfigError
from pipeline.core.option_values import from_text
from pipeline.core.remembered import recall

Config = TypeVar("Config", bound=StageConfig)

COMMON_PANEL = "Options of every command"


def options_of(
    command: str,
    config: type[StageConfig],
    *,
    arguments: tuple[str, ...] = (),
    metrics: bool = False,
) -> list[inspect.Parameter]:
    """Parameters for typer: the fields of `config` and the common options.

    `arguments` names fields that are positional on the command line; `metrics` adds --metrics-port.
    """
    classes = (config, Served, Common) if metrics else (config, Common)
    CLASSES.setdefault(command, classes)
    made = [
        _parameter(
            command,
            option,
            positional=option.name in arguments,
            panel=option.panel if cls is config else COMMON_PANEL,
        )
        for cls in classes
        for option in declared_options(cls).values()
    ]
    # The panels are shown in the order of their first option: those of every command come last.
    made.sort(key=lambda parameter: parameter.default.rich_help_panel == COMMON_PANEL)
    return [*made, _config_parameter()]


def read_values(ctx: typer.Context, command: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Option values with their types, converted from the strings that typer resolved.

    Raises ConfigError that names the flag or the environment variable of an invalid value.
    """
    read = {**values, **lists_from_environment(ctx, command)}
    for cls in CLASSES[command]:
        for option in declared_options(cls).values():
            given = read.get(option.name)
            if given is not None:
                read[option.name] = from_text(option, given, name=_place(ctx, command, option))
    return read


def _place(ctx: typer.Context, command: str, option: Option) -> str:
    """The name of an option in messages: its flag, or the environment variable that set it."""
    source = ctx.get_parameter_source(option.name)
    set_ones = [name for name in _variables(command, option.name) if os.environ.get(name)]
    if source and source.name == "ENVIRONMENT" and set_ones:
        return set_ones[0]
    return option.metadata.get("metavar") or f"--{_dashed(option.name)}"


def lists_from_environment(ctx: typer.Context, command: str) -> dict[str, tuple[str, ...]]:
    """Options with several values that are set in the environment and not on the command line.

    Values are separated by `|`, since captions contain spaces and commas.
    """
    found = {}
    for name, option in declared_options(CLASSES[command][0]).items():
        source = ctx.get_parameter_source(name)
        if get_origin(option.hint) is not tuple or (source and source.name == "COMMANDLINE"):
            continue
        values = (os.environ.get(variable) for variable in _variables(command, name))
        if given := next((value for value in values if value), None):
            found[name] = tuple(part.strip() for part in given.split("|") if part.strip())
    return found


def given_options(ctx: typer.Context, command: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """The stage options that the user gave: by flag, environment or file."""
    names = declared_options(CLASSES[command][0]).keys()
    listed = lists_from_environment(ctx, command)
    sources = {name: ctx.get_parameter_source(name) for name in names & values.keys()}
    return {
        name: values[name]
        for name, source in sources.items()
        if name in listed or (source and source.name != "DEFAULT")
    }


def check_quotes(ctx: typer.Context, values: Mapping[str, Any]) -> None:
    """Refuse several one-word prompts on the command line: probably quotes are missing.

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
    """Build the config from those values that are fields of it."""
    known = declared_options(config)
    return build_config(config, {n: value for n, value in values.items() if n in known})


def configure_stage(
    ctx: typer.Context,
    stage: str,
    overrides: Mapping[str, Any],
    *,
    recalled_from: Path | None = None,
) -> StageConfig:
    """The config that the command `stage` would get without flags in this context.

    `overrides` take precedence over environment and file; options in neither are recalled from the workspace
    `recalled_from`.
    """
    root = ctx.find_root()
    command: Any = root.command.commands[stage]  # type: ignore[attr-defined]
    table = ctx.meta.get("pipeline.tables", {}).get(stage, {})
    inner = command.make_context(stage, [], parent=root, default_map=as_texts(table))
    config = STAGES[stage].config
    values = read_values(inner, stage, inner.params)
    given = given_options(inner, stage, values) | dict(overrides)
    recalled = recall(recalled_from, stage, config, given) if recalled_from is not None else {}
    return STAGES[stage].build({**values, **recalled, **given})


def use_preset(ctx: typer.Context, path: Path) -> None:
    """Merge a preset's tables beneath those of the user's own file."""
    tables = load_tables(path)
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
    command: str,
    option: Option,
    *,
    positional: bool,
    panel: str | None,
) -> inspect.Parameter:
    """A parameter for typer. Except for flags it takes strings, which `option_values` converts."""
    name, hint, meta = option.name, option.hint, option.metadata
    settings: dict[str, Any] = {
        "help": meta["help"],
        "envvar": None if get_origin(hint) is tuple else _variables(command, name),
        "show_envvar": False,
        "rich_help_panel": COMMON_PANEL if name == "workspace" else panel,
    }
    annotation, default = _typer_type(hint), as_texts({"": option.default})[""]
    if name == "workspace":
        default = None
        annotation = str | None
        settings["help"] = "The dataset's folder (default: data/<source>)."
    if positional:
        info = typer.Argument(default, metavar=meta["metavar"], **settings)
    elif annotation is bool:
        negative = "" if name.startswith("no_") else f"/--no-{_dashed(name)}"
        info = typer.Option(default, f"--{_dashed(name)}{negative}", **settings)
    else:
        settings["metavar"] = _describe(hint, meta["low"], meta["high"])
        info = typer.Option(default, f"--{_dashed(name)}", **settings)
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=info, annotation=annotation
    )


def _typer_type(hint: Any) -> Any:
    """The type as declared to typer: flags, pairs, lists of strings, or strings."""
    kinds = [hint]
    if get_origin(hint) in (Union, types.UnionType):
        kinds = [kind for kind in get_args(hint) if kind is not type(None)]
    if get_origin(kinds[0]) is tuple:
        items = get_args(kinds[0])
        return list[str] if items[-1] is Ellipsis else tuple[(str,) * len(items)] | None  # type: ignore[misc]
    return bool if kinds[0] is bool else str | None


def _describe(hint: Any, low: float | None, high: float | None) -> str:
    """The description of an option's values in the help."""
    kind = next((k for k in get_args(hint) if k is not type(None)), hint)
    kind = hint if get_origin(hint) is Literal else kind
    if get_origin(kind) is Literal:
        return f"[{'|'.join(map(str, get_args(kind)))}]"
    word = {int: "INTEGER", float: "FLOAT", Path: "PATH"}.get(kind, "TEXT")
    bounds = (f"{low:g}<=" if low is not None else "", f"<={high:g}" if high is not None else "")
    return f"{word} RANGE [{bounds[0]}x{bounds[1]}]" if any(bounds) else word


def _config_parameter() -> inspect.Parameter:
    info = typer.Option(
        None,
        "--config",
        help="A TOML file (a table per command, an option per key), or a preset: cc12m, dalleblog, demo.",
        metavar="PATH",
        rich_help_panel=COMMON_PANEL,
        envvar="PIPELINE_CONFIG",
        is_eager=True,
        callback=read_config_file,
    )
    return inspect.Parameter(
        "config", inspect.Parameter.KEYWORD_ONLY, default=info, annotation=str | None
    )


def _dashed(name: str) -> str:
    return name.rstrip("_").replace("_", "-")


def _variables(command: str, option: str) -> list[str]:
    """The environment variables of an option, the one with precedence first."""
    name = option.rstrip("_").upper()
    return [f"PIPELINE_{_upper(command)}_{name}", f"PIPELINE_{name}"]


def _upper(name: str) -> str:
    return name.replace("-", "_").upper()

"""docs/options.md: every option of every command, made from the configs that the command line is made of.

python docs/option_tables.py            prints it
python docs/option_tables.py --write    writes docs/options.md
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import typer.main

from pipeline.app.cli import app
from pipeline.app.option_files import Common
from pipeline.app.options import options_of, with_signature
from scrapers.config import ScrapeConfig
from scrapers.options import own_fields, takes_inputs
from scrapers.source import source_kinds

PAGE = Path(__file__).parent / "options.md"
_HEAD = """\
# Options

Every option of every command, as `pipeline COMMAND --help` prints them. This page is generated from the
configs by `docs/option_tables.py`.

An option can be given in three places. Flags take precedence over environment variables, and these over the
TOML file. If an option is given in none of them, the value that the workspace remembers is used
([workspace.md](workspace.md#remembered-options)), or else the default.

| place | example |
|---|---|
| flag | `pipeline dedupe --val-fraction 0.02` |
| environment | `PIPELINE_DEDUPE_VAL_FRACTION=0.02`; `PIPELINE_VAL_FRACTION` sets it for all commands |
| `--config FILE.toml` | a table per command: `[dedupe]`, `val_fraction = 0.02` |

Flags without a value are marked `on/off` in the tables; the `--no-` form switches one off. A *repeatable*
option takes one value each time that it is given; in an environment variable its values are separated by
`|`, in TOML they are a list.

"""
_COMMON = {*Common.__dataclass_fields__, "workspace", "config", "help", "metrics_port"}


def page() -> str:
    """The whole page."""
    commands = typer.main.get_group(app).commands
    shared: dict[str, Any] = {}
    for command in commands.values():
        shared |= {param.name: param for param in command.params if param.name in _COMMON}
    parts = [_HEAD, "## Options of every command\n\n", *_table(shared.values())]
    parts.append("\nOnly the stages and `run` have `--metrics-port`.\n")
    for name, command in commands.items():
        own = [param for param in command.params if param.name not in _COMMON]
        parts.append(f"\n## pipeline {name}\n\n{command.help}\n")
        if name == "scrape":
            own, of_sources = _split_by_source(own)
            parts += ["\n", *_table(own), *of_sources]
        else:
            parts += _by_panel(name, own)
    return "".join(parts)


def _by_panel(command: str, params: list[Any]) -> Iterator[str]:
    """A table for each panel of the command's help."""
    for panel in dict.fromkeys(param.rich_help_panel for param in params):
        yield f"\n### pipeline {command}: {panel.lower()}\n\n" if panel else "\n"
        yield from _table(param for param in params if param.rich_help_panel == panel)


def _split_by_source(params: list[Any]) -> tuple[list[Any], list[str]]:
    """The options of every source, and a table for each source that has more."""
    parts = []
    for kind in source_kinds().values():
        own = _own_params(kind.config)
        head = f"\n### pipeline scrape {kind.name}\n\n{kind.help}\n\n"
        parts += [head, *_table(own)] if own else []
    shared = [param for param in params if param.name in ScrapeConfig.__dataclass_fields__]
    return shared, parts


def _own_params(config: type[ScrapeConfig]) -> list[Any]:
    """The positional arguments of a source, if it has any, and its options, as its own help shows them."""
    inputs = ("inputs",) if takes_inputs(config) else ()
    shown = typer.Typer(add_completion=False)
    parameters = options_of("scrape", config, arguments=inputs)
    shown.command()(with_signature(lambda: None, "scrape", parameters))
    params = {param.name: param for param in typer.main.get_command(shown).params}
    return [params[name] for name in (*inputs, *(field.name for field in own_fields(config)))]


def _table(params: Iterable[Any]) -> Iterator[str]:
    yield "| option | values | default | meaning |\n|---|---|---|---|\n"
    for param in params:
        cells = (_name(param), _values(param), _default(param), param.help or "")
        yield "| " + " | ".join(_escape(cell) for cell in cells) + " |\n"


def _escape(cell: str) -> str:
    return cell.replace("|", "\\|").replace("<", "&lt;")


def _name(param: Any) -> str:
    if param.param_type_name == "option":
        return f"`{param.opts[0]}`"
    return f"`{param.metavar or param.name.upper()}`"


def _values(param: Any) -> str:
    if getattr(param, "is_flag", False):
        return "on/off"
    is_option = param.param_type_name == "option"
    values = ((is_option and param.metavar) or "TEXT").strip("[]").replace("|", ", ")
    words = {"TEXT": "text", "PATH": "path", "INTEGER": "integer", "FLOAT": "number"}
    kind, _, bounds = values.partition(" RANGE [")
    several = " (repeatable)" if param.multiple or param.nargs == -1 else ""
    return _bounds(words.get(kind, values), bounds) + several


def _bounds(kind: str, bounds: str) -> str:
    """`1<=x<=64` as `1 to 64`."""
    if not bounds:
        return kind
    low, _, high = bounds.partition("x")
    low, high = low.removesuffix("<="), high.removeprefix("<=")
    if low and high:
        return f"{kind}, {low} to {high}"
    return f"{kind}, at least {low}" if low else f"{kind}, at most {high}"


def _default(param: Any) -> str:
    value = param.default
    if value is None or value in ((), [], ""):
        return ""
    if getattr(param, "is_flag", False):
        return "on" if value else "off"
    return f"`{value}`" if not isinstance(value, (list, tuple)) else f"`{' '.join(value)}`"


if __name__ == "__main__":
    if "--write" in sys.argv:
        PAGE.write_text(page(), encoding="utf-8")
    else:
        sys.stdout.write(page())

"""`pipeline scrape` lists the sources; `pipeline scrape SOURCE --help` shows the options of one source."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from typing import Any

import typer.core
import typer.main

from pipeline.core.config import StageConfig
from scrapers.config import ScrapeConfig
from scrapers.options import takes_inputs
from scrapers.source import source_kinds

# Variables that choose a source as an argument would.
_VARIABLES = ("PIPELINE_SOURCE", "PIPELINE_WORKSPACE", "PIPELINE_CONFIG")

# Makes the parameters of the command from a config.
Parameters = Callable[[type[StageConfig]], list[inspect.Parameter]]


def scrape_command(parameters: Parameters) -> type[typer.core.TyperCommand]:
    """The class of the command `scrape`."""

    class ScrapeCommand(typer.core.TyperCommand):
        def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
            # `pipeline run` makes a context without arguments, too, but with a default map.
            alone = not args and ctx.default_map is None and not ctx.resilient_parsing
            if alone and not _is_set_by_environment():
                typer.echo(list_sources())
                ctx.exit()
            ctx.meta["pipeline.source"] = next((arg for arg in args if arg in source_kinds()), None)
            return super().parse_args(ctx, args)

        def format_help(self, ctx: Any, formatter: Any) -> None:
            name = ctx.meta.get("pipeline.source")
            config = source_kinds()[name].config if name else ScrapeConfig
            text = source_kinds()[name].help if name else f"{self.help}\n\n{list_sources()}"
            app = typer.Typer(add_completion=False, rich_markup_mode=self.rich_markup_mode)
            shared = ScrapeConfig.__dataclass_fields__.keys() - {"source", "inputs"}
            own_first = sorted(parameters(config), key=lambda parameter: parameter.name in shared)
            if name and not takes_inputs(config):
                own_first = [param for param in own_first if param.name != "inputs"]
            app.command("scrape", help=text)(_with_signature(own_first))
            shown: Any = typer.main.get_command(app)
            shown.format_help(ctx, formatter)

    return ScrapeCommand


def list_sources() -> str:
    """A line for each source."""
    kinds = source_kinds().values()
    width = max(len(kind.name) for kind in kinds)
    lines = (f"  {kind.name:<{width}}  {kind.help}" for kind in kinds)
    return "\n".join(
        ("Sources:", *lines, "", "`pipeline scrape SOURCE --help` shows the options of a source.")
    )


def _is_set_by_environment() -> bool:
    names = (name for name, value in os.environ.items() if value)
    return any(name in _VARIABLES or name.startswith("PIPELINE_SCRAPE_") for name in names)


def _with_signature(parameters: list[inspect.Parameter]) -> Callable[..., None]:
    def function(**_: Any) -> None: ...

    function.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    function.__annotations__ = {p.name: p.annotation for p in parameters}
    return function

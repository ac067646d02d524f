"""All stages in order: `pipeline run`. Floor 5.

Each stage decides by its manifest whether there is anything to do. The options of the stages come from
the tables of the TOML file and the environment, just as if each had been called by hand.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pipeline.config import StageConfig, option
from pipeline.console import Screen
from pipeline.contracts import Outcome, StageReport
from pipeline.errors import ConfigError
from pipeline.stages import STAGES
from pipeline.storage import Workspace, lock_workspace
from scrapers.config import ScrapeConfig, source_options


class Configure(Protocol):
    """Resolves a stage's config from environment and file; `overrides` win over both."""

    def __call__(self, stage: str, overrides: Mapping[str, Any]) -> StageConfig: ...


@dataclass(frozen=True, kw_only=True)
class Call:
    """What a command that chains others is given."""

    screen: Screen
    configure: Configure
    use_preset: Callable[[Path], None]


@dataclass(frozen=True, kw_only=True)
class RunConfig(StageConfig):
    """All stages in order."""

    source: str = option("dalleblog", "Name of the source.")


def run_road(config: RunConfig, call: Call) -> StageReport:
    """Run every stage that has something to do.

    Raises what the first failing stage raises; the stages before it stay done.
    """
    started = time.monotonic()
    overrides = {"workspace": config.workspace, "source": config.source}
    configs = {name: call.configure(name, {}) for name in STAGES}  # wrong options are told first
    scrape = call.configure("scrape", overrides)
    assert isinstance(scrape, ScrapeConfig)
    root = Workspace(config.workspace).open(source=source_to_open(scrape)).root
    reports: dict[str, StageReport] = {}
    with lock_workspace(root, "pipeline run"):
        for name in STAGES:
            if name == "generate" and not getattr(configs[name], "prompts", ()):
                continue
            reports[name] = run_stage(name, call, overrides)
    return StageReport(
        stage="run",
        outcome=_overall(reports),
        seconds=round(time.monotonic() - started, 3),
        details={name: report.as_dict() for name, report in reports.items()},
    )


def source_to_open(config: ScrapeConfig) -> str | None:
    """The source that a workspace may be made for; None where it must be there already.

    Raises ConfigError for options that no source can be opened with, before a workspace is made.
    """
    from scrapers.source import open_source

    if config.export is not None:
        return None
    for flag, path in (("--captions", config.captions), ("--page", config.page)):
        if path is not None and not path.is_file():
            raise ConfigError(f"{flag} {path} is not a file that can be read.")
    open_source(source_options(config))
    return config.source


def run_stage(name: str, call: Call, overrides: Mapping[str, Any]) -> StageReport:
    """Run one stage and show its report; `overrides` are set where its config has such a field."""
    fields = {field.name for field in dataclasses.fields(STAGES[name].config)}
    config = call.configure(name, {k: v for k, v in overrides.items() if k in fields})
    with call.screen.progress(name) as progress:
        report = STAGES[name].run(config, progress)
    call.screen.report(report)
    return report


def _overall(reports: Mapping[str, StageReport]) -> Outcome:
    outcomes = {report.outcome for name, report in reports.items() if name != "report"}
    if "incomplete" in outcomes:
        return "incomplete"
    return "unchanged" if outcomes == {"unchanged"} else "done"

"""`pipeline run`: all stages in order.

Each stage decides by its manifest whether it has anything to do. The options of the stages come from the
tables of the TOML file and the environment, as if each stage had been run on its own. A tokenizer and a
codec are trained only once: codes and shards depend on them, so new images alone don't retrain them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from pipeline.app.console import Screen
from pipeline.app.dry_run import RunPlan, SkipReason, forecast_stages, skip_reason
from pipeline.app.metrics import Metrics
from pipeline.app.next_steps import with_next
from pipeline.app.run_log import Clock, RunRecord, keep_record, tee
from pipeline.app.stages import STAGES
from pipeline.core.config import StageConfig, declared_options, option, plain_value
from pipeline.core.contracts import Outcome, StageReport
from pipeline.core.errors import ConfigError, ContractError
from pipeline.core.inventory import find_folders
from pipeline.core.remembered import (
    changes_output,
    describe_changes,
    flag_of,
    note_latest,
    recall,
    remembering,
    shown,
)
from pipeline.core.stage import Stage, load_function
from pipeline.core.stages import CONTRACTS
from pipeline.core.storage import read_manifest
from pipeline.core.suggestions import name_choices
from pipeline.core.workspace import Workspace


class Configure(Protocol):
    """Resolves a stage's config from environment, file and workspace; `overrides` take precedence."""

    def __call__(
        self, stage: str, overrides: Mapping[str, Any], *, recalled_from: Path | None = None
    ) -> StageConfig: ...


@dataclass(frozen=True, kw_only=True)
class Call:
    """The context of a command; `record` is set while it holds a workspace."""

    screen: Screen
    configure: Configure
    use_preset: Callable[[Path], None]
    clock: Clock = time.time
    metrics: Metrics = field(default_factory=Metrics)
    record: RunRecord | None = None
    forget: bool = False
    remembers: bool = True


@dataclass(frozen=True, kw_only=True)
class RunConfig(StageConfig):
    """All stages in order."""

    source: str | None = option(
        None, "Name of the source (default: the workspace's, or dalleblog for a new one)."
    )
    inputs: tuple[str, ...] = option(
        (),
        "What the source reads, as in `pipeline scrape SOURCE INPUT...`.",
        metavar="INPUT",
    )
    from_: str | None = option(None, "First stage to run.")
    until: str | None = option(None, "Last stage to run.")
    update: bool = option(
        False, "scrape --update: fetch the page again, and the images that are new on it."
    )
    refresh: bool = option(
        False, "scrape --refresh: check every URL again, and download what has changed."
    )
    retry_failed: bool = option(False, "scrape --retry-failed: only retry failed URLs.")
    retrain: bool = option(
        False, "Train a new tokenizer and codec if their training data has changed."
    )
    force: bool = option(
        False, "Start stages even if the disk seems too small for what they will write."
    )
    dry_run: bool = option(False, "Only print what would run, and why.")

    def __post_init__(self) -> None:
        """Raise ConfigError for unknown stages or a wrong order."""
        names = list(STAGES)
        for flag, name in (("--from", self.from_), ("--until", self.until)):
            if name is not None and name not in names:
                raise ConfigError(f"{flag} {name!r} is not a stage. {name_choices(name, names)}")
        if not self.stages():
            raise ConfigError(f"--from {self.from_} comes after --until {self.until}.")

    def stages(self) -> list[str]:
        """The stages from first to last."""
        names = list(STAGES)
        first = names.index(self.from_) if self.from_ else 0
        last = names.index(self.until) if self.until else len(names)
        return names[first : last + 1]


def run_pipeline(config: RunConfig, call: Call) -> StageReport:
    """Run every stage that has something to do, or with `dry_run` only print which ones do.

    Raises the error of the first failing stage; the stages before it stay done.
    """
    plan = make_plan(config, call)
    if config.dry_run:
        return show_forecast(plan, call)
    started = time.monotonic()
    root = open_workspace(plan).root
    reports: dict[str, StageReport] = {}
    with keep_record(root, "pipeline run", writes=("run",), clock=call.clock) as record:
        inner = dataclasses.replace(call, record=record)
        for name in plan.stages:
            reason = skip_reason(plan, name)
            reports[name] = (
                run_stage(name, inner, config=plan.configs[name])
                if reason is None
                else _skip_stage(name, reason, inner)
            )
        record.outcome = overall_outcome(reports)
    report = StageReport(
        stage="run",
        outcome=overall_outcome(reports),
        seconds=round(time.monotonic() - started, 3),
        details={name: report.as_dict() for name, report in reports.items()},
    )
    return with_next(report, root, _last_done(plan, reports))


def _last_done(plan: RunPlan, reports: Mapping[str, StageReport]) -> str:
    """The last stage, or the one before a stage that lacks the options without which it doesn't run."""
    names = list(STAGES)
    lacking = (name for name in plan.stages if STAGES[name].runs_only_with)
    skipped = next((name for name in lacking if "skipped" in reports[name].details), None)
    return plan.stages[-1] if skipped is None else names[names.index(skipped) - 1]


def make_plan(config: RunConfig, call: Call) -> RunPlan:
    """The chosen stages and the options of every stage; invalid ones are reported before any work."""
    passed_on = ("source", "inputs", "update", "refresh", "retry_failed", "force")
    asked = {"workspace": config.workspace} | {
        name: value
        for name in passed_on
        if (value := getattr(config, name)) not in (None, False, ())
    }
    configs = {}
    remembering = None if call.forget else config.workspace
    for name, stage in STAGES.items():
        known = declared_options(stage.config)
        overrides = {k: v for k, v in asked.items() if k in known}
        configs[name] = call.configure(name, overrides, recalled_from=remembering)
        stage.holds(configs[name])
    return RunPlan(
        root=config.workspace, stages=config.stages(), configs=configs, retrain=config.retrain
    )


def open_workspace(plan: RunPlan) -> Workspace:
    """The plan's workspace, created if a stage of the plan may do so. Raises WorkspaceError."""
    sources = (STAGES[name].source_to_open(plan.configs[name]) for name in plan.stages)
    return Workspace(plan.root).open(source=next(filter(None, sources), None))


def show_forecast(plan: RunPlan, call: Call) -> StageReport:
    """Print for every stage whether it would run, and why; nothing is written or requested."""
    forecasts = forecast_stages(plan)
    rows = [(name, forecast.action, forecast.why) for name, forecast in forecasts.items()]
    call.screen.table(f"{plan.root}: what would be done", ("stage", "action", "why"), rows)
    idle = all(forecast.action == "skip" for forecast in forecasts.values())
    return StageReport(
        stage="run",
        outcome="unchanged" if idle else "done",
        details={name: dataclasses.asdict(forecast) for name, forecast in forecasts.items()},
    )


def run_stage(
    name: str,
    call: Call,
    overrides: Mapping[str, Any] | None = None,
    *,
    config: StageConfig | None = None,
) -> StageReport:
    """Run one stage and print its report.

    It runs with `config`, or else with the result of `call.configure` and those `overrides` that are fields
    of its config.
    """
    if config is None:
        known = declared_options(STAGES[name].config)
        config = call.configure(name, {k: v for k, v in (overrides or {}).items() if k in known})
    report = watch_stage(name, config, call)
    call.screen.report(report)
    return report


def watch_stage(name: str, config: StageConfig, call: Call) -> StageReport:
    """Run one stage and report its progress to screen, record and metrics."""
    asked, config = config, run_first(STAGES[name], config, call)
    stage_metrics = call.metrics.begin(name)
    if call.record is None:
        with call.screen.progress(name) as shown:
            report = STAGES[name].run(config, tee(shown, stage_metrics))
    else:
        stage, root = STAGES[name], call.record.root
        with call.record.stage(name, **stage.holds(config)) as run:
            print_changes(root, stage, asked, call.screen)
            keeps = call.remembers and not getattr(asked, "plan", False)
            kept = remembering(root, name, asked) if keeps else contextlib.nullcontext()
            with kept, call.screen.progress(name) as shown:
                run.report = report = stage.run(config, tee(shown, stage_metrics, run))
        note_made(root, report)
    stage_metrics.end(report)
    return dataclasses.replace(
        report, details={**report.details, "metrics": stage_metrics.numbers()}
    )


def recall_and_print(
    root: Path, name: str, config: type[StageConfig], given: Mapping[str, Any], screen: Screen
) -> dict[str, Any]:
    """The stage options that the workspace remembers and that are not `given`; prints them in one line."""
    found = recall(root, name, config, given)
    options = declared_options(config)
    found = {option: value for option, value in found.items() if value != options[option].default}
    if found:
        words = " ".join(f"{flag_of(o)} {shown(plain_value(v))}" for o, v in sorted(found.items()))
        screen.say(f"{name}: using {words} (as before; --forget starts from the defaults)")
    return found


def note_made(root: Path, report: StageReport) -> None:
    """Record a stage's output as the latest; for codes and shards also their codec and tokenizer.

    Generating with an older model does not change what to encode with next.
    """
    folders = {folder.path: folder for folder in find_folders(root)} if report.outputs else {}
    made = folders.get(Path(report.outputs[0])) if report.outputs else None
    if made is None or made.manifest is None:
        return
    note_latest(root, made.contract, made.path)
    for folder in folders.values() if STAGES[report.stage].sets_latest_models else ():
        if folder.name in made.manifest.inputs and CONTRACTS[folder.contract].trained_once:
            note_latest(root, folder.contract, folder.path)


def print_changes(root: Path, stage: Stage, config: StageConfig, screen: Screen) -> None:
    """Print how the options of a stage differ from the previous ones, and the consequence.

    Raises ConfigError for differences that the stage does not allow.
    """
    changes = describe_changes(root, stage.name, config) if stage.on_change else []
    if not changes:
        return
    if stage.check_changes is not None:
        load_function(stage.check_changes)(config, root, changes)
    differences = f"{stage.name}: options differ from before: {'; '.join(changes)}."
    if not changes_output(root, stage.name, config):
        screen.say(differences)
        return
    screen.say(f"{differences} {stage.on_change}")
    for name in stage.holds(config)["writes"] if stage.rewrites else ():
        with contextlib.suppress(ContractError):
            files = read_manifest(root / name, str(stage.contract_name)).files
            screen.say(
                f"  Existing output: {len(files)} files, {sum(f.bytes for f in files) / 1e6:,.1f} MB."
            )


def run_first(stage: Stage, config: StageConfig, call: Call) -> StageConfig:
    """Run the stage that must come before, if there is one; return a config that names its output."""
    first = stage.runs_first(config) if stage.runs_first is not None else None
    if first is None:
        return config
    report = run_stage(first.stage, call, {"workspace": config.workspace, **first.options})
    named: dict[str, Any] = {first.names: Path(report.outputs[0]).name}
    return dataclasses.replace(config, **named)


def _skip_stage(name: str, reason: SkipReason, call: Call) -> StageReport:
    call.screen.say(f"{name}: {reason.why}")
    report = StageReport(
        stage=name, outcome="unchanged", counts=reason.counts, details={"skipped": reason.why}
    )
    if call.record is not None:
        call.record.note_skipped(name, reason.why)
    return report


def overall_outcome(reports: Mapping[str, StageReport]) -> Outcome:
    """The combined outcome of several stages."""
    outcomes = {report.outcome for report in reports.values()}
    if "incomplete" in outcomes:
        return "incomplete"
    return "unchanged" if outcomes == {"unchanged"} else "done"

"""The command line: one command per stage, and a few that inspect or chain them.

Exit codes: 0 done, 1 a stage failed, 2 usage error, 3 done but incomplete (failed items remain), 130
interrupted.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import typer

from pipeline.app.clean import CleanConfig, clean
from pipeline.app.command import Command
from pipeline.app.command_group import EXIT_USAGE, Group, is_usage_error
from pipeline.app.console import CurrentStderr, LogFormatter, Screen
from pipeline.app.doctor.command import DoctorConfig, diagnose
from pipeline.app.metrics import HOST as METRICS_HOST
from pipeline.app.metrics import serve_metrics
from pipeline.app.next_steps import with_next
from pipeline.app.option_files import Common
from pipeline.app.options import (
    build,
    check_quotes,
    configure_stage,
    given_options,
    options_of,
    read_values,
    use_preset,
    with_signature,
)
from pipeline.app.run_all import (
    Call,
    RunConfig,
    recall_and_print,
    run_pipeline,
    watch_stage,
)
from pipeline.app.run_log import keep_record
from pipeline.app.stages import STAGES, default_workspace
from pipeline.app.status import StatusConfig, show_status
from pipeline.app.transfer import (
    DownloadConfig,
    UploadConfig,
    download_workspace,
    upload_workspace,
)
from pipeline.app.verify import show_verify
from pipeline.core.config import StageConfig
from pipeline.core.contracts import StageReport
from pipeline.core.errors import ConfigError, PipelineError
from pipeline.core.interrupts import EXIT_INTERRUPTED, interruptible
from pipeline.core.outputs import leads_to_stdout
from pipeline.core.progress import no_progress
from pipeline.core.stage import Stage, load_entry_point, load_function
from pipeline.core.storage import known_error
from pipeline.core.version import __version__
from pipeline.core.workspace import Workspace
from pipeline.train.config import ExportConfig
from pipeline.verify.config import VerifyConfig
from scrapers.merging.config import MergeConfig

DEFAULT_WORKSPACE = default_workspace("dalleblog")
# What they log at level INFO is for whoever started the command.
_ANNOUNCING = (
    "pipeline.core.estimate",
    "pipeline.train.trainer",
    "scrapers.crawl.announcing",
    "scrapers.local.run",
    "scrapers.sources.urls.showing",
)
EXIT_FAILED, EXIT_INCOMPLETE = 1, 3

app = typer.Typer(
    name="pipeline",
    cls=Group,
    help="Scrape an image–caption dataset, prepare it, and train a DALL·E on it.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)


def _print_version(value: bool) -> None:
    if value:
        typer.echo(f"dalle-pipeline {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    _version: bool = typer.Option(
        False, "--version", help="Print the version.", is_eager=True, callback=_print_version
    ),
) -> None:
    """Scrape an image–caption dataset, prepare it, and train a DALL·E on it."""


# --- How every command runs ----------------------------------------------------------------------


@contextlib.contextmanager
def _errors_reported(screen: Screen, common: Common, command: str) -> Iterator[None]:
    """Report any error as one sentence and an exit code."""
    try:
        with interruptible():
            yield
    except typer.Exit:
        raise
    except BrokenPipeError:  # the reader of our output, such as `head`, has exited
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit from None
    except KeyboardInterrupt:
        screen.fail("stopped. Finished work is kept; run the same command again to continue.")
        raise typer.Exit(EXIT_INTERRUPTED) from None
    except Exception as error:
        if is_usage_error(error):
            raise
        _fail(error, screen, common, command)


def _fail(error: Exception, screen: Screen, common: Common, command: str) -> NoReturn:
    known = known_error(error)
    if common.debug:
        logging.getLogger("pipeline").error("traceback", exc_info=error)
    if isinstance(known, PipelineError):
        screen.fail(str(known))
    else:
        screen.fail(
            f"{type(error).__name__}: {error}. This is an unexpected error: run the command with "
            "--debug and report its output."
        )
    screen.emit(
        {
            "stage": command,
            "outcome": "failed",
            "error": {"type": type(known).__name__, "message": str(known)},
        }
    )
    raise typer.Exit(EXIT_USAGE if isinstance(known, ConfigError) else EXIT_FAILED) from error


def _set_up_logging(common: Common) -> None:
    level = logging.DEBUG if common.debug else logging.ERROR if common.quiet else logging.WARNING
    handler = logging.StreamHandler(CurrentStderr())
    handler.setFormatter(LogFormatter(whole=common.debug))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    # Announcements about requests to a real site are for the user who started the crawl.
    announced = logging.ERROR if common.quiet else logging.INFO
    for name in _ANNOUNCING:
        logging.getLogger(name).setLevel(announced)


def _exit_with(report: StageReport, screen: Screen) -> None:
    screen.report(report)
    screen.emit(report.as_dict())
    if report.outcome == "damaged":
        raise typer.Exit(EXIT_FAILED)
    if report.outcome == "incomplete":
        raise typer.Exit(EXIT_INCOMPLETE)


def _writes_to_stdout(values: Mapping[str, Any]) -> bool:
    """Whether the command's data go to standard output; then its messages must not."""
    if values.get("list_urls") and values.get("out") is None:
        return True
    named = [values.get(name) for name in ("out", "export")]
    return any(leads_to_stdout(Path(name)) for name in named if name)


def _add(command: Command) -> None:
    """Add a command to the command line."""
    name, config = command.name, command.config

    def function(ctx: typer.Context, **values: Any) -> None:
        common = Common(**{f.name: values[f.name] for f in dataclasses.fields(Common)})
        data_on_stdout = _writes_to_stdout(values)
        if _follows_another():
            common = dataclasses.replace(common, json=False, quiet=True)
        screen = Screen(json_mode=common.json, quiet=common.quiet, data_on_stdout=data_on_stdout)
        _set_up_logging(common)
        with _errors_reported(screen, common, name):
            check_quotes(ctx, values)
            values = read_values(ctx, name, values)
            if values.get("workspace") is None:
                if command.makes_workspace:
                    raise ConfigError(
                        f"`pipeline {name}` makes a new workspace: give its folder, --workspace NEW."
                    )
                source = values.get("source")
                values["workspace"] = default_workspace(source) if source else DEFAULT_WORKSPACE
            if name in STAGES and STAGES[name].remembers and not common.forget:
                given = given_options(ctx, name, values)
                values |= recall_and_print(values["workspace"], name, config, given, screen)
            call = Call(
                screen=screen,
                configure=functools.partial(configure_stage, ctx),
                use_preset=functools.partial(use_preset, ctx),
                clock=time.time,
                forget=common.forget,
                remembers=not common.no_remember,
            )
            started = time.monotonic()
            with serve_metrics(call.metrics, values.get("metrics_port")) as port:
                if port is not None:
                    screen.say(f"Metrics: http://{METRICS_HOST}:{port}/metrics")
                options = STAGES[name].build(values) if name in STAGES else build(config, values)
                report = command.run(options, call)
            if report is not None:
                seconds = report.seconds or round(time.monotonic() - started, 3)
                _exit_with(dataclasses.replace(report, seconds=seconds), screen)

    parameters = options_of(name, config, arguments=command.arguments, metrics=command.metrics)
    cls = None
    if name in STAGES and (maker := STAGES[name].command_class) is not None:
        cls = load_function(maker)(
            functools.partial(
                options_of, name, arguments=command.arguments, metrics=command.metrics
            )
        )
    app.command(name, cls=cls, help=command.help, rich_help_panel=command.panel)(
        with_signature(function, name, parameters)
    )


# --- The stages ----------------------------------------------------------------------------------


def _follows_another() -> bool:
    """Whether this process was started by torchrun and is not the first rank, which holds the workspace."""
    return os.environ.get("RANK", "0") != "0"


def _without_workspace(stage: Stage, config: StageConfig) -> StageConfig | None:
    """The config for a run without a workspace; None if there is one, or must be one."""
    if config.workspace != DEFAULT_WORKSPACE or config.workspace.exists():
        return None
    return stage.without_workspace(config)


def _stage_body(stage: Stage) -> Callable[[StageConfig, Call], StageReport]:
    def body(config: StageConfig, call: Call) -> StageReport:
        # Listing and inspecting change nothing, so they take no lock and leave no record.
        shows = ("list_urls", "inspect", "only_shows")
        if any(getattr(config, name, None) for name in shows):
            return stage.run(config)
        alone = _without_workspace(stage, config)
        if alone is not None:
            return watch_stage(stage.name, alone, call)
        root = Workspace(config.workspace).open(source=stage.source_to_open(config)).root
        if _follows_another():
            return stage.run(config)
        if stage.leaves_workspace(config):
            # The workspace may be read-only.
            return watch_stage(stage.name, config, call)
        with keep_record(root, f"pipeline {stage.name}", clock=call.clock) as record:
            inner = dataclasses.replace(call, record=record)
            report = watch_stage(stage.name, config, inner)
            record.outcome = report.outcome
        return with_next(report, root, stage.name, config)

    return body


def _merge(config: MergeConfig, call: Call) -> StageReport:
    with call.screen.progress("merge") as shown:
        report = load_entry_point("scrapers.merging.run:merge")(config, shown)
    return with_next(report, config.workspace, "scrape")


def _export(config: ExportConfig, _call: Call) -> StageReport:
    return load_entry_point("pipeline.train.export:export")(config, no_progress)


_STAGE_COMMANDS = tuple(
    Command(
        name=stage.name,
        config=stage.config,
        run=_stage_body(stage),
        help=stage.help,
        arguments=stage.positional,
        metrics=True,
        panel="Stages, in the order of the pipeline",
    )
    for stage in STAGES.values()
)
_OTHER_COMMANDS = (
    Command(
        name="run",
        config=RunConfig,
        run=run_pipeline,
        help="Run all stages in order; unchanged ones are skipped.",
        arguments=("source", "inputs"),
        metrics=True,
        panel="Whole pipeline and export",
    ),
    Command(
        name="export",
        config=ExportConfig,
        run=_export,
        help="Write a checkpoint in DALLE-pytorch's format, as dalle.pt.",
        panel="Whole pipeline and export",
    ),
    Command(
        name="merge",
        config=MergeConfig,
        run=_merge,
        help="Merge the raw stores of several workspaces, such as shards of a list, into a new one.",
        arguments=("inputs",),
        panel="Whole pipeline and export",
        makes_workspace=True,
    ),
    Command(
        name="upload",
        config=UploadConfig,
        run=upload_workspace,
        help="Copy the workspace to an object store; only what has changed is sent.",
        arguments=("url",),
        panel="Whole pipeline and export",
    ),
    Command(
        name="download",
        config=DownloadConfig,
        run=download_workspace,
        help="Copy a workspace from an object store into a new folder, and check every hash.",
        arguments=("url",),
        panel="Whole pipeline and export",
        makes_workspace=True,
    ),
    Command(
        name="verify",
        config=VerifyConfig,
        run=show_verify,
        help="Check a workspace: hashes, counts, contracts; --repair removes what is damaged.",
        panel="Inspect and check",
    ),
    Command(
        name="status",
        config=StatusConfig,
        run=show_status,
        help="Show the contents of a workspace.",
        panel="Inspect and check",
    ),
    Command(
        name="doctor",
        config=DoctorConfig,
        run=diagnose,
        help="Check this machine: packages, versions, disk, GPU, network. Says how to get what is missing.",
        panel="Inspect and check",
    ),
    Command(
        name="clean",
        config=CleanConfig,
        run=clean,
        help="List codecs, tokenizers, codes and runs that nothing uses any more; --yes removes them.",
        panel="Inspect and check",
    ),
)
# Packages above this one register their commands here.
_REGISTERED: tuple[str, ...] = (
    "pipeline.serve.commands:COMMANDS",
    "pipeline.demo.commands:COMMANDS",
)

for _command in (*_STAGE_COMMANDS, *_OTHER_COMMANDS):
    _add(_command)
for _name in _REGISTERED:
    for _command in load_function(_name):
        _add(_command)

"""The declaration of a stage: its options, its entry point, what it reads and writes.

An entry point is imported only when its stage runs, so that `pipeline --help` needs neither torch nor pandas.
"""

from __future__ import annotations

import dataclasses
import importlib
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.core.config import StageConfig, build_config, declared_options, option_values
from pipeline.core.contracts import Contract, StageReport
from pipeline.core.extras import missing_package
from pipeline.core.interrupts import raise_deferred
from pipeline.core.names import check_name
from pipeline.core.progress import Progress, no_progress

_NAMED_BY = re.compile(r"\{(\w+)\}")

EntryPoint = Callable[[StageConfig, Progress], StageReport]


class FirstRun(NamedTuple):
    """A stage to run before another one, with these options; the option `names` gets its output's name."""

    stage: str
    options: Mapping[str, Any]
    names: str


@dataclass(frozen=True, kw_only=True)
class Stage:
    """The declaration of a stage.

    `entry_point` is ``module:function``, called with the config and a progress. `positional` names the
    options that are given without a flag. `contract` describes its folder; None if it writes no manifest.
    `writes` and `reads` are the folders that it locks, exclusively or shared, with option names in braces;
    nothing of the workspace is written if the option `writes_elsewhere` is given, and with the option
    `alone_with` none is needed. `workspace_source` is a function of the config that returns the source for
    which the stage may create a workspace, or None. `on_change` says what happens to existing results if it
    is run with other options; "" if the stage itself prints that. `check_changes` is a function of the
    config, the workspace and these differences that raises ConfigError if they can't be combined.
    `on_incomplete` says what to do if items failed. `builder` makes the config from the option values, for
    stages whose config class depends on them; `command_class` makes the class of their command from a
    function that lists the parameters of a config. `runs_first` returns a stage to run before, or None.

    For `pipeline run`: `runs_only_with` are options of which at least one must be given; `trained_for` is
    the stage and the option that use a result which is trained only once; `numbered` says that new results
    are written beside existing ones as NAME-2, NAME-3, …; `chooses` are options that the stage chooses
    itself if they are not given or `auto`, such as the latest codec; `folder_name` is a function of the
    config and the workspace that names the folder up to a fingerprint; `why_run` is a function of the
    config and the manifest that says why the stage has work although options and inputs are unchanged, or
    returns None. `remembers` is false if the options of one call mean nothing to the next one. `rewrites`
    says that other options replace the existing output, whose size is then printed. With
    `sets_latest_models`, the codec and tokenizer that the output was made with become the default of later
    stages.

    For `pipeline verify`: `check` is a function of the folder, the workspace and a number of images that
    returns the faults and measurements of an undamaged folder's contents. `check_files` is a function of the
    folder that returns the faults of its files; by default they are compared with the manifest. `repair`
    repairs a damaged folder; by default its damaged files are deleted. `finish_repair` does what is left of a
    repair that was killed. `imports` is the contract of the third-party models that the stage imports, and
    the option that names them. Functions are given as ``module:function``.
    """

    name: str
    config: type[StageConfig]
    entry_point: str
    help: str
    positional: tuple[str, ...] = ()
    contract: Contract | None = None
    writes: tuple[str, ...]
    reads: tuple[str, ...] = ()
    writes_elsewhere: str | None = None
    alone_with: str | None = None
    workspace_source: str | None = None
    on_change: str = ""
    check_changes: str | None = None
    on_incomplete: str = ""
    builder: Callable[[Mapping[str, Any]], StageConfig] | None = None
    command_class: str | None = None
    runs_first: Callable[[Any], FirstRun | None] | None = None
    runs_only_with: tuple[str, ...] = ()
    trained_for: tuple[str, str] | None = None
    numbered: bool = False
    chooses: tuple[str, ...] = ()
    folder_name: str | None = None
    why_run: str | None = None
    remembers: bool = True
    rewrites: bool = False
    sets_latest_models: bool = False
    imports: tuple[str, str] | None = None
    check: str | None = None
    check_files: str | None = None
    repair: str | None = None
    finish_repair: str | None = None

    def build(self, values: Mapping[str, Any]) -> StageConfig:
        """The config with those `values` that are its options. Raises ConfigError for invalid ones."""
        known = declared_options(self.config)
        options = {name: value for name, value in values.items() if name in known}
        return build_config(self.config, options) if self.builder is None else self.builder(options)

    @property
    def contract_name(self) -> str | None:
        """The name of the contract of the stage's folders."""
        return self.contract.name if self.contract is not None else None

    @property
    def top(self) -> str:
        """The folder of the workspace that contains the stage's folders."""
        return self.writes[0].split("/")[0]

    def holds(self, config: StageConfig) -> dict[str, tuple[str, ...]]:
        """The folders that a run with `config` writes and reads, by their paths in the workspace.

        Raises ConfigError for an option that can't name one.
        """
        options = option_values(config)
        writes = () if self.leaves_workspace(config) else self.writes
        return {
            kind: tuple(filter(None, (self._folder(name, options) for name in names)))
            for kind, names in (("writes", writes), ("reads", self.reads))
        }

    def leaves_workspace(self, config: StageConfig) -> bool:
        """Whether a run with `config` writes nothing into the workspace."""
        return getattr(config, self.writes_elsewhere or "", None) is not None

    def without_workspace(self, config: StageConfig) -> StageConfig | None:
        """The config for a run without a workspace, which writes to ./TOP/NAME; None if it needs one."""
        if self.alone_with is None or getattr(config, self.alone_with) is None:
            return None
        if self.leaves_workspace(config):
            return config
        (folder,) = self.holds(config)["writes"]
        return dataclasses.replace(config, **{str(self.writes_elsewhere): Path(folder)})

    def source_to_open(self, config: StageConfig) -> str | None:
        """The source for which the stage may create a workspace; None if there must be one already.

        Raises ConfigError for options with which no source can be opened, before a workspace is created.
        """
        if self.workspace_source is None:
            return None
        source: str | None = load_function(self.workspace_source)(config)
        return source

    def _folder(self, pattern: str, options: Mapping[str, Any]) -> str | None:
        """The folder that the options name; None for a URL outside the workspace."""
        named = _NAMED_BY.search(pattern)
        if named is None:
            return pattern
        top, name = pattern.split("/")[0], str(options[named[1]])
        if "://" in name:
            return None
        levels = self.contract.name_levels if self.contract and self.top == top else 1
        return f"{top}/{check_name(name, option=f'--{named[1]}', levels=levels)}"

    def run(self, config: StageConfig, progress: Progress = no_progress) -> StageReport:
        """Run the stage.

        Raises DependencyError if a package of an extra is missing, and the errors of the stage.
        """
        started = time.monotonic()
        report = load_entry_point(self.entry_point)(config, progress)
        return dataclasses.replace(report, seconds=round(time.monotonic() - started, 3))


def load_entry_point(name: str) -> EntryPoint:
    """Import the entry point of a stage."""
    found: EntryPoint = load_function(name)
    return found


def load_function(name: str) -> Any:
    """Import ``module:function``; a missing third-party package raises DependencyError."""
    module, function = name.split(":")
    try:
        found = getattr(importlib.import_module(module), function)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] in ("pipeline", "scrapers"):
            raise
        raise missing_package("This command", error.name) from error
    raise_deferred()
    return found

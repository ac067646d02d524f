"""The command that makes a folder again, with the options that it was made with."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline.core.config import declared_options, plain_value
from pipeline.core.contracts import Manifest
from pipeline.core.errors import PipelineError
from pipeline.core.inventory import Folder
from pipeline.core.remembered import flag_of, recall
from pipeline.core.stage import Stage
from pipeline.core.workspace import Workspace


def command_for(folder: Folder, root: Path, stages: Mapping[str, Stage]) -> str:
    """The command line that makes the folder again, with every option that differs from what it implies.

    The options are unknown if the manifest can't be read.
    """
    makers = {stage.contract_name: stage for stage in stages.values()}
    if folder.manifest is not None and "family" in folder.manifest.config:  # a third-party model
        makers |= {stage.imports[0]: stage for stage in stages.values() if stage.imports}
    stage = makers[folder.contract]
    words = ["pipeline", stage.name]
    flags = ["--workspace", str(root)]
    if folder.manifest is not None:
        words += _positional(folder.manifest, stage)
        flags += _options(folder, folder.manifest, root, stage)
    elif "name" in declared_options(stage.config):
        flags += ["--name", folder.name.partition("/")[2]]
    return shlex.join([*words, *flags])


def _positional(manifest: Manifest, stage: Stage) -> Iterator[str]:
    for name in stage.positional:
        value = manifest.config.get(name, ())
        yield from [value] if isinstance(value, str) else map(str, value)


def _options(folder: Folder, manifest: Manifest, root: Path, stage: Stage) -> Iterator[str]:
    options = declared_options(stage.config)
    if stage.imports is not None and stage.imports[0] == folder.contract:
        files = ["FILE" for name in manifest.inputs if name.startswith("file-")]
        name = str(manifest.config.get("name"))
        yield from (flag_of(stage.imports[1]), f"{name}:{','.join(files)}" if files else name)
        for name in manifest.inputs:
            yield from (f"--{name}", "FILE") if name.replace("-", "_") in options else ()
        return
    config = dict(manifest.config)
    if "name" in options:
        config["name"] = folder.name.partition("/")[2]
    implied = _implied_options(root, stage, str(config.get("name", "")))
    for name, value in config.items():
        if name in implied and name not in stage.positional and plain_value(implied[name]) != value:
            yield from _flag(name, value)


def _implied_options(root: Path, stage: Stage, name: str) -> Mapping[str, Any]:
    """The values of options that are not given: those remembered by the workspace, else the defaults."""
    options = declared_options(stage.config)
    defaults = {option.name: option.default for option in options.values()}
    given = {"name": name} if "name" in options else {}
    try:
        kept = recall(Workspace(root).root, stage.name, stage.config, given)
    except PipelineError:
        kept = {}
    return {**defaults, **kept}


def _flag(name: str, value: Any) -> Iterator[str]:
    if isinstance(value, bool):
        yield flag_of(name) if value else f"--no-{flag_of(name)[2:]}"
    elif isinstance(value, list):
        for item in value:
            yield from (flag_of(name), str(item))
    elif value is not None:
        yield from (flag_of(name), str(value))

"""The remembered options of each stage, in `workspace.json`.

A stage's options are kept under its name and, if it has a `--name`, under that. A later command without them
uses the kept ones; `--forget` starts from the defaults. Only options that differ from their default are
kept, and only those that determine the output or are marked `remember` (such as the request rate).
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline.core.config import (
    Option,
    StageConfig,
    declared_options,
    option_values,
    plain_value,
)
from pipeline.core.errors import ConfigError, ContractError, PipelineError
from pipeline.core.locks import hold_file
from pipeline.core.option_values import from_plain
from pipeline.core.storage import read_manifest, write_json
from pipeline.core.workspace import Workspace, read_marker

Options = dict[str, Any]
_LAST_NAMED = "last_named"
_POSITIONAL = frozenset({"inputs"})


@contextlib.contextmanager
def remembering(root: Path, stage: str, config: StageConfig) -> Iterator[None]:
    """Remember the options of a stage from its start on, in place of those kept for the same name.

    The previous ones are restored if the stage fails; an interrupted stage keeps its own, for resuming.
    """
    name = _name_of(config)
    before, _ = _find_kept(root, stage, {"name": name})
    _keep(root, stage, name, kept_options(config))
    try:
        yield
    except PipelineError as error:
        if before is not None or isinstance(error, ConfigError):
            _keep(root, stage, name, before)
        raise


def _keep(root: Path, stage: str, name: str, options: Options | None) -> None:
    def change(marker: Options) -> None:
        by_name = marker.setdefault("options", {}).setdefault(stage, {})
        if options is None:
            by_name.pop(name, None)
        else:
            by_name[name] = options
            marker.setdefault(_LAST_NAMED, {})[stage] = name

    _update(root, change)


def note_latest(root: Path, contract: str, folder: Path) -> None:
    """Record the folder of a contract that was made last: the default for later stages."""
    if folder.parent.parent == root:
        _update(
            root, lambda marker: marker.setdefault("latest", {}).update({contract: folder.name})
        )


def recall(
    root: Path, stage: str, config: type[StageConfig], given: Mapping[str, Any]
) -> dict[str, Any]:
    """The kept options of a stage that are not `given`, as values for its config.

    Without a `name`, the default name is used if options are kept for it, else the one used last. Empty if
    nothing is kept.
    Raises WorkspaceError if workspace.json can't be read, ContractError if an option in it has another type
    than the stage's.
    """
    options = declared_options(config)
    default = str(options["name"].default) if "name" in options else ""
    kept, name = _find_kept(root, stage, given, default=default)
    if kept is None:
        return {}
    if _is_of_another_source(kept, options, given):
        return {}
    source = str(Workspace(root).marker)
    replaced = {other for name in given for other in options[name].metadata.get("instead_of", ())}
    found = {
        name: _from_plain(options[name], value, f"options of {stage}: {name}", source)
        for name, value in kept.items()
        if name in options and name not in given and name not in replaced
    }
    if "name" in options and "name" not in given and name != default:
        found["name"] = name
    return found


def _is_of_another_source(
    kept: Options, options: Mapping[str, Option], given: Mapping[str, Any]
) -> bool:
    """Whether the kept options are of another source than the given one, which has other options."""
    if "source" not in options or "source" not in given:
        return False
    return bool(kept.get("source", options["source"].default) != given["source"])


def kept_options(config: StageConfig) -> Options:
    """The options of a config to remember: those that differ from their default, as JSON values."""
    options = declared_options(type(config))
    return {
        name: plain_value(value)
        for name, value in option_values(config).items()
        if _is_kept(options[name]) and value != options[name].default
    }


def describe_changes(root: Path, stage: str, config: StageConfig) -> list[str]:
    """The differences between a stage's options and those kept for its name, as sorted texts."""
    return [
        f"{flag_of(name)} {shown(old)} → {shown(new)}"
        for name, old, new in _find_changes(root, stage, config)
    ]


def changes_output(root: Path, stage: str, config: StageConfig) -> bool:
    """Whether one of these differences may change what the stage writes into the workspace.

    A `runtime` option does so only if it is a path: the content of that file is an input.
    """
    options = declared_options(type(config))
    return any(
        not options[name].metadata.get("runtime", False)
        or options[name].hint in (Path, Path | None)
        for name, _, _ in _find_changes(root, stage, config)
    )


def _find_changes(root: Path, stage: str, config: StageConfig) -> list[tuple[str, Any, Any]]:
    """The options that differ: name, value kept before, value of `config`."""
    before, _ = _find_kept(root, stage, {"name": _name_of(config)})
    if before is None:
        return []
    after = kept_options(config)
    defaults = {
        name: plain_value(option.default)
        for name, option in declared_options(type(config)).items()
        if _is_kept(option)
    }
    names = sorted((before.keys() | after.keys()) & defaults.keys())
    changes = [
        (name, before.get(name, defaults[name]), after.get(name, defaults[name])) for name in names
    ]
    return [change for change in changes if change[1] != change[2]]


def flag_of(option: str) -> str:
    """The flag of an option, or its name if it is positional."""
    if option in _POSITIONAL:
        return option
    return f"--{option.rstrip('_').replace('_', '-')}"


def shown(value: Any) -> str:
    """An option's JSON value as text."""
    if value is None or value == []:
        return "(none)"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _name_of(config: StageConfig) -> str:
    return str(getattr(config, "name", ""))


def _is_kept(option: Option) -> bool:
    if option.name in ("workspace", "name"):
        return False
    remember = option.metadata.get("remember")
    return bool(not option.metadata.get("runtime", False) if remember is None else remember)


def _find_kept(
    root: Path, stage: str, given: Mapping[str, Any], *, default: str = ""
) -> tuple[Options | None, str]:
    """The options kept for a stage, and the name that they belong to."""
    if not Workspace(root).marker.exists():
        return None, ""
    marker = read_marker(root)
    by_name = _table(marker.get("options", {}).get(stage, {}))
    last = default if default in by_name else marker.get(_LAST_NAMED, {}).get(stage, default)
    name = str(given.get("name", last))
    if stage == "scrape" and "scrape" not in marker.get("options", {}):
        return _options_of_raw(root), name
    kept = by_name.get(name)
    return (None if kept is None else _table(kept)), name


def _options_of_raw(root: Path) -> Options | None:
    """The scrape options of a workspace of an earlier version, from its manifest."""
    try:
        config = read_manifest(Workspace(root).raw, "raw").config
    except ContractError:
        return None
    return _table(config)


def _table(value: Any) -> Options:
    return value if isinstance(value, dict) else {}


def _update(root: Path, change: Callable[[Options], None]) -> None:
    """Change workspace.json, one process at a time; it is only written if it differs."""
    with hold_file(root, "workspace.json"):
        before = read_marker(root)
        after = json.loads(json.dumps(before))
        change(after)
        if after != before:
            write_json(Workspace(root).marker, after)


def _from_plain(option: Option, value: Any, name: str, source: str) -> Any:
    """A JSON value as the option's type. Raises ContractError that names `source`."""
    try:
        return from_plain(option, value, name=name, source=source)
    except ConfigError as error:
        raise ContractError(
            f"{error} Restore the file, or give --forget to start from the defaults."
        ) from error

"""The settings of a task: environment, Variables, and the params of the run, checked on the worker.

The programs that run (`command`, `alert_command`) can only be set in the worker's environment or by a
Variable. A run's params may choose a workspace and an options file, below the allowed folders; an asset
event's extra is data like a param and is checked like one.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from airflow.sdk import Variable
from airflow.sdk.exceptions import AirflowFailException, ParamValidationError

from dalle_pipeline_airflow.assets import SHARDS
from dalle_pipeline_airflow.params import DEFAULTS, REFRESH, TRAIN

PREFIX = "DALLE_PIPELINE_"


@dataclass(frozen=True, kw_only=True)
class Place:
    """The command of a task and where it runs."""

    command: str
    workspace: Path
    config: Path | None


def setting(name: str) -> str | None:
    """A setting: `DALLE_PIPELINE_NAME` in the environment, else the Variable `dalle_pipeline_name`."""
    found = os.environ.get(PREFIX + name.upper())
    return found or Variable.get(PREFIX.lower() + name, default=None) or None


def choices(context: Mapping[str, Any]) -> dict[str, Any]:
    """The params of a run; null ones are replaced by the settings of the same names, else by defaults.

    Raises AirflowFailException for a setting that is invalid as a param.
    """
    found = dict(context["params"])
    for name in DEFAULTS.keys() & found.keys():
        if found[name] is None:
            found[name] = _choice(name)
    return found


def _choice(name: str) -> Any:
    text = setting(name)
    if text is None:
        return DEFAULTS[name]
    try:
        value = json.loads(text)
    except ValueError:
        value = text
    param = copy.copy({**REFRESH, **TRAIN}[name])
    try:
        return param.resolve(value)
    except ParamValidationError as error:
        raise AirflowFailException(f"{PREFIX}{name.upper()}={text!r}: {error}") from error


def place_of(context: Mapping[str, Any], event: Mapping[str, Any] | None = None) -> Place:
    """Resolve and check the settings for the task of `context`; `event` is the extra that it processes.

    Raises AirflowFailException, which is never retried, with a sentence.
    """
    check_run(context)
    params, event = context["params"], shards_event(context) if event is None else event
    configured = setting("workspace")
    chosen = params.get("workspace") or event.get("workspace") or configured
    if not chosen:
        raise AirflowFailException(
            f"No workspace: set {PREFIX}WORKSPACE on the workers (or the Variable "
            f"{PREFIX.lower()}workspace), or give the param `workspace`."
        )
    roots = allowed_roots(configured)
    workspace = _inside(chosen, roots, "workspace")
    asked = params.get("config") or event.get("config")
    own = setting("config")
    config = Path(own) if own else None
    if asked and asked != own:
        config = _inside(asked, roots, "config")
    return Place(command=setting("command") or "pipeline", workspace=workspace, config=config)


def check_run(context: Mapping[str, Any]) -> None:
    """Refuse keys in the conf that the DAG has no param for, and backfills."""
    run, dag = context.get("dag_run"), context.get("dag")
    if run is None or dag is None:
        return
    unknown = sorted(set(run.conf or {}) - set(dag.params))
    if unknown:
        raise AirflowFailException(
            f"The conf has {', '.join(unknown)}, which {dag.dag_id} has no param for. There are: "
            f"{', '.join(sorted(dag.params))}. `command` and `alert_command` can only be set on the workers."
        )
    if str(getattr(run.run_type, "value", run.run_type)) == "backfill":
        raise AirflowFailException(
            "A backfill makes no sense here: there are no past versions of the page. Trigger the DAG instead."
        )


def shards_events(context: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The extras of the events that triggered the run: the latest of each workspace, sorted by workspace.

    There are several if several workspaces had news while a training run was active, or while the DAG was
    paused.
    """
    events: Sequence[Any] = (context.get("triggering_asset_events") or {}).get(SHARDS, [])
    extras = [event.extra for event in events if isinstance(event.extra, Mapping)]
    latest = {str(extra.get("workspace", "")): extra for extra in extras}
    return [latest[workspace] for workspace in sorted(latest)]


def shards_event(context: Mapping[str, Any]) -> Mapping[str, Any]:
    """The extra that the task processes: tasks are mapped over them. Empty without one."""
    events, number = shards_events(context), getattr(context.get("ti"), "map_index", -1)
    if not isinstance(number, int) or number < 0:
        number = len(events) - 1
    return events[number] if 0 <= number < len(events) else {}


def allowed_roots(configured: str | None) -> list[Path]:
    """Folders below which a workspace may be, links resolved; by default the configured one's parent."""
    given = setting("roots")
    if given:
        return [Path(root).resolve() for root in given.split(os.pathsep) if root]
    if not configured:
        return []
    workspace = Path(configured).resolve()
    at_top = workspace.parent == workspace.parent.parent  # "/" would allow everything
    return [workspace if at_top else workspace.parent]


def _inside(path: Any, roots: Sequence[Path], name: str) -> Path:
    if not isinstance(path, str) or "\0" in path or not Path(path).is_absolute():
        raise AirflowFailException(
            f"{name} {path!r} is not an absolute path, such as /srv/data/blog."
        )
    resolved = Path(path).resolve()
    if any(resolved.is_relative_to(root) for root in roots):
        return resolved
    below = ", ".join(map(str, roots)) or f"nothing, as neither {PREFIX}ROOTS nor _WORKSPACE is set"
    raise AirflowFailException(
        f"{name} {path} is not below an allowed folder ({below}). {PREFIX}ROOTS on the workers allows more, "
        f"separated by '{os.pathsep}'."
    )

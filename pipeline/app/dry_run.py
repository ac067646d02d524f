"""Forecast what a run would do and why, from manifests alone.

`pipeline run --dry-run` prints it; `pipeline run` uses it to find the stages to skip.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pipeline.app.stages import STAGES
from pipeline.core.config import StageConfig, resolved
from pipeline.core.contracts import Manifest
from pipeline.core.inventory import Folder, find_folders
from pipeline.core.ownership import list_family
from pipeline.core.stage import load_function
from pipeline.core.workspace import Workspace

Action = Literal["run", "maybe", "skip"]
_UNCHANGED = "inputs and options are unchanged"


@dataclass(frozen=True, kw_only=True)
class RunPlan:
    """The stages of a run in order, and the options of all stages by name."""

    root: Path
    stages: Sequence[str]
    configs: Mapping[str, StageConfig]
    retrain: bool = False


@dataclass(frozen=True, kw_only=True)
class SkipReason:
    """Why a run skips a stage; `counts` are those of the existing result."""

    why: str
    counts: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What a run would do with a stage; `maybe` depends on the results of earlier stages."""

    action: Action
    why: str


def skip_reason(plan: RunPlan, name: str) -> SkipReason | None:
    """Why a run doesn't call this stage at all, None if it does."""
    config, stage = plan.configs[name], STAGES[name]
    needed = stage.runs_only_with
    if needed and not any(getattr(config, option) for option in needed):
        return SkipReason(why=f"no {needed[0]} are given")
    if stage.trained_for is None:
        return None
    taker, field_name = stage.trained_for
    own, taken = getattr(config, "name", ""), getattr(plan.configs[taker], field_name, None)
    if taken is not None and not _is_of_family(taken, own):
        return SkipReason(why=f"not needed: {taker} uses the {field_name} {taken}")
    manifest = None if plan.retrain else _manifest_of(plan, name)
    if manifest is None:
        return None
    changed = _changed_options(manifest, plan, name)
    others = f" with other options ({'; '.join(changed)})" if changed else ""
    return SkipReason(
        why=f"trained already{others}; --retrain trains it again", counts=manifest.counts
    )


def _is_of_family(name: str, own: str) -> bool:
    return bool(re.fullmatch(re.escape(own) + r"(-\d{1,6})?", name))


def forecast_stages(plan: RunPlan) -> dict[str, Forecast]:
    """For every stage of the plan, whether it would run and why."""
    folders = find_folders(plan.root) if plan.root.is_dir() else []
    forecasts: dict[str, Forecast] = {}
    for name in plan.stages:
        reason = skip_reason(plan, name)
        forecasts[name] = (
            Forecast(action="skip", why=reason.why)
            if reason is not None
            else _forecast(plan, name, folders, forecasts)
        )
    return forecasts


def _forecast(
    plan: RunPlan, name: str, folders: list[Folder], forecasts: Mapping[str, Forecast]
) -> Forecast:
    """The forecast of a stage: do options and inputs match today's, and does it know of other work?"""
    stage, manifest = STAGES[name], None
    if stage.contract is not None:
        there = _folders_of(plan, name, folders)
        finished = [folder for folder in there if folder.manifest is not None]
        if not finished:
            why = "it has not finished" if there else "it has not run yet"
            return Forecast(action="run", why=why)
        manifest = finished[-1].manifest
        assert manifest is not None
        if changed := _changed_options(manifest, plan, name):
            return Forecast(action="run", why=f"options have changed: {'; '.join(changed)}")
        if changed_inputs := finished[-1].stale or finished[-1].outgrown:
            return Forecast(action="run", why=f"{', '.join(changed_inputs)} changed since")
    before = _stages_before(manifest, forecasts)
    maybe = f"if {' or '.join(before)} yields something new" if before else None
    if manifest is None and maybe:
        return Forecast(action="maybe", why=maybe)
    if stage.why_run and (why_run := load_function(stage.why_run)(plan.configs[name], manifest)):
        return Forecast(action="run", why=why_run)
    return Forecast(action="maybe", why=maybe) if maybe else Forecast(action="skip", why=_UNCHANGED)


def _folders_of(plan: RunPlan, name: str, folders: list[Folder]) -> list[Folder]:
    """The folders that this stage writes with these options, finished or not."""
    config = plan.configs[name]
    mine = [folder for folder in folders if folder.contract == STAGES[name].contract_name]
    own = getattr(config, "name", None)
    if own is not None:
        if STAGES[name].numbered:  # the last one of NAME, NAME-2, … counts
            family = list_family(plan.root / STAGES[name].top / own)
            return sorted(
                (folder for folder in mine if folder.path in family),
                key=lambda folder: (_is_made_by(folder, plan, name), family.index(folder.path)),
            )
        return [folder for folder in mine if folder.name.split("/", 1)[1] == own]
    if (named := STAGES[name].folder_name) is not None:
        wanted = load_function(named)(config, Workspace(plan.root))
        return [folder for folder in mine if folder.path.name.rpartition("-")[0] == wanted]
    return mine


def _is_made_by(folder: Folder, plan: RunPlan, name: str) -> bool:
    """Whether a finished folder was made with exactly these options."""
    return folder.manifest is not None and not _changed_options(folder.manifest, plan, name)


def _manifest_of(plan: RunPlan, name: str) -> Manifest | None:
    if not plan.root.is_dir():
        return None
    finished = [
        folder.manifest
        for folder in _folders_of(plan, name, find_folders(plan.root))
        if folder.manifest is not None
    ]
    return finished[-1] if finished else None


def _changed_options(manifest: Manifest, plan: RunPlan, stage: str) -> list[str]:
    before, after = dict(manifest.config), resolved(plan.configs[stage])
    chosen = [name for name in STAGES[stage].chooses if after.get(name) in (None, "auto")]
    after |= {name: before.get(name) for name in chosen}
    names = sorted(name for name in before | after if before.get(name) != after.get(name))
    return [f"{name} {before.get(name)} → {after.get(name)}" for name in names]


def _stages_before(manifest: Manifest | None, forecasts: Mapping[str, Forecast]) -> list[str]:
    """The stages of the plan that may change an input of this manifest; without one, any may."""
    if manifest is None:
        return [name for name, forecast in forecasts.items() if forecast.action != "skip"]
    tops = {source.split("/")[0] for source in manifest.inputs}
    makers = [stage.name for stage in STAGES.values() if stage.top in tops]
    return [maker for maker in makers if maker in forecasts and forecasts[maker].action != "skip"]

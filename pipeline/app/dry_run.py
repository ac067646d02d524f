"""Forecast what a run would do and why, from manifests alone.

`pipeline run --dry-run` prints it; `pipeline run` uses it to find the stages to skip.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pipeline.app.stages import STAGES
from pipeline.core.config import StageConfig, resolved
from pipeline.core.contracts import Manifest
from pipeline.core.errors import ContractError
from pipeline.core.inventory import Folder, find_folders
from pipeline.core.ownership import list_family
from pipeline.core.stage import load_function
from pipeline.core.storage import read_manifest
from pipeline.core.workspace import Workspace
from pipeline.encode.config import codec_name

Action = Literal["run", "maybe", "skip"]
# Stages that train once: the stage and option that use the result, and the contract of its folder.
_TRAINED_FOR = {"train-tokenizer": ("shard", "tokenizer"), "train-codec": ("encode", "codec")}
# Stages that write NAME-2, NAME-3, … beside existing folders.
_NUMBERED = frozenset({*_TRAINED_FOR, "generate"})
# Options that a stage chooses itself if they are not given, such as the latest codec or tokenizer.
_CHOSEN_BY_STAGE = frozenset({"codec", "tokenizer", "dataset"})
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
    config = plan.configs[name]
    if name == "generate" and not any(
        getattr(config, n, None) for n in ("prompts", "prompts_file")
    ):
        return SkipReason(why="no prompts are given")
    if name not in _TRAINED_FOR:
        return None
    taker, field_name = _TRAINED_FOR[name]
    own, taken = getattr(config, "name", ""), getattr(plan.configs[taker], field_name, None)
    if taken is not None and not _is_of_family(taken, own):
        return SkipReason(why=f"not needed: {taker} uses the {field_name} {taken}")
    manifest = None if plan.retrain else _manifest_of(plan, name)
    if manifest is None:
        return None
    changed = _changed_options(manifest, config)
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
            else _FORECASTS.get(name, _forecast)(plan, name, folders, forecasts)
        )
    return forecasts


def _forecast(
    plan: RunPlan, name: str, folders: list[Folder], forecasts: Mapping[str, Forecast]
) -> Forecast:
    """The forecast of a stage from its manifest: do options and inputs match today's?"""
    there = _folders_of(plan, name, folders)
    finished = [folder for folder in there if folder.manifest is not None]
    if not finished:
        why = "it was not finished" if there else "it was never run"
        return Forecast(action="run", why=why)
    folder = finished[-1]
    assert folder.manifest is not None
    changed = _changed_options(folder.manifest, plan.configs[name])
    if changed:
        return Forecast(action="run", why=f"options have changed: {'; '.join(changed)}")
    if changed_inputs := folder.stale or folder.outgrown:
        return Forecast(action="run", why=f"{', '.join(changed_inputs)} changed since")
    if failed := folder.manifest.counts.get("failed", 0) if name == "encode" else 0:
        return Forecast(action="run", why=f"{failed:,} images failed and are tried again")
    before = _stages_before(folder.manifest, forecasts)
    if before:
        return Forecast(action="maybe", why=f"if {' or '.join(before)} yields something new")
    return Forecast(action="skip", why=_UNCHANGED)


def _forecast_scrape(plan: RunPlan, _name: str, _folders: object, _views: object) -> Forecast:
    config: Any = plan.configs["scrape"]
    for flag, given, what in (
        ("--refresh", config.refresh, "everything is requested again"),
        ("--update", config.update, "the page is requested again"),
    ):
        if given:
            return Forecast(action="run", why=f"{flag}: {what}")
    if not (plan.root / "raw").is_dir():
        return Forecast(action="run", why="it was never run")
    reads_files: Callable[[Any], bool] = load_function("scrapers.source:reads_files")
    if reads_files(config):
        return Forecast(action="maybe", why="if its files have changed")
    find_finished: Callable[[Any], Any] = load_function("scrapers.scrape:find_finished")
    if find_finished(config) is not None:
        return Forecast(action="skip", why=_UNCHANGED)
    return Forecast(action="run", why=_why_scrape(plan.root, config))


def _why_scrape(root: Path, config: Any) -> str:
    try:
        manifest = read_manifest(Workspace(root).raw, "raw")
    except ContractError:
        return "it was not finished"
    changed = _changed_options(manifest, config)
    if changed:
        return f"options have changed: {'; '.join(changed)}"
    waiting, failed = manifest.counts.get("pending", 0), _failed(manifest)
    if config.retry_failed and failed:
        return f"{failed:,} URLs failed and are requested again"
    if waiting:
        return f"{waiting:,} URLs are pending"
    if failed:
        return f"{failed:,} URLs failed: the plan is checked, but only pending URLs are requested"
    return "the page, the captions or the files of the raw store have changed"


def _failed(manifest: Manifest) -> int:
    states = ("failed", "truncated", "not_an_image")
    return sum(manifest.counts.get(state, 0) for state in states)


def _forecast_dedupe(
    plan: RunPlan, name: str, folders: list[Folder], forecasts: Mapping[str, Forecast]
) -> Forecast:
    """Dedupe also depends on the locations of bytes, which its own digest of the ledger covers."""
    forecast = _forecast(plan, name, folders, forecasts)
    if forecast.action != "skip":
        return forecast
    read_inputs: Callable[..., Any] = load_function("pipeline.dedupe.run:read_inputs")
    found = dict(read_manifest(Workspace(plan.root).dedupe, "dedupe").inputs)
    if found == read_inputs(Workspace(plan.root)):
        return forecast
    return Forecast(action="run", why="the ledger has changed since")


def _forecast_report(
    plan: RunPlan, _name: str, _folders: object, forecasts: Mapping[str, Forecast]
) -> Forecast:
    before = [name for name, forecast in forecasts.items() if forecast.action != "skip"]
    if before:
        return Forecast(action="maybe", why=f"if {' or '.join(before)} yields something new")
    is_current: Callable[..., Any] = load_function("pipeline.report.run:is_current")
    if is_current(plan.configs["report"]):
        return Forecast(action="skip", why=_UNCHANGED)
    return Forecast(action="run", why="the page shows an older state")


_FORECASTS: Mapping[str, Callable[..., Forecast]] = {
    "scrape": _forecast_scrape,
    "dedupe": _forecast_dedupe,
    "report": _forecast_report,
}


def _folders_of(plan: RunPlan, name: str, folders: list[Folder]) -> list[Folder]:
    """The folders that this stage writes with these options, finished or not."""
    config = plan.configs[name]
    mine = [folder for folder in folders if folder.contract == STAGES[name].contract]
    own = getattr(config, "name", None)
    if own is not None:
        if name in _NUMBERED:  # the last one of NAME, NAME-2, … counts
            family = list_family(plan.root / STAGES[name].top / own)
            return sorted(
                (folder for folder in mine if folder.path in family),
                key=lambda folder: (_is_of(folder, config), family.index(folder.path)),
            )
        return [folder for folder in mine if folder.name.split("/", 1)[1] == own]
    if name == "encode":
        given = getattr(config, "codec", None) or Workspace(plan.root).latest("codec") or ""
        codec = Path(codec_name(given)).name
        return [f for f in mine if f.path.name.rpartition("-")[0] == codec]
    return mine


def _is_of(folder: Folder, config: StageConfig) -> bool:
    """Whether a finished folder was made with exactly these options."""
    return folder.manifest is not None and not _changed_options(folder.manifest, config)


def _manifest_of(plan: RunPlan, name: str) -> Manifest | None:
    if not plan.root.is_dir():
        return None
    finished = [
        folder.manifest
        for folder in _folders_of(plan, name, find_folders(plan.root))
        if folder.manifest is not None
    ]
    return finished[-1] if finished else None


def _changed_options(manifest: Manifest, config: StageConfig) -> list[str]:
    before, after = dict(manifest.config), resolved(config)
    chosen_later = [name for name, value in after.items() if value is None and before.get(name)]
    after |= {name: before[name] for name in chosen_later if name in _CHOSEN_BY_STAGE}
    names = sorted(name for name in before | after if before.get(name) != after.get(name))
    return [f"{name} {before.get(name)} → {after.get(name)}" for name in names]


def _stages_before(manifest: Manifest, forecasts: Mapping[str, Forecast]) -> list[str]:
    """The stages of the plan that may change an input of this manifest."""
    tops = {source.split("/")[0] for source in manifest.inputs}
    makers = [stage.name for stage in STAGES.values() if stage.top in tops]
    return [maker for maker in makers if maker in forecasts and forecasts[maker].action != "skip"]

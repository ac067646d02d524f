"""A run's options and inputs, `plan.json`, and whether a new call resumes the existing run.

A resumed run may change only:

- `MONITORING`: what is logged, validated, sampled and kept. Training doesn't depend on it.
- `LENGTH`: how long it trains, and the samples per step, if the learning rate doesn't depend on the end
  (`--lr-decay constant` and `plateau`).

Any other change needs another run; `--resume-from` starts it from this one's weights and moments.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.core.config import resolved
from pipeline.core.contracts import Manifest
from pipeline.core.errors import ConfigError, ContractError
from pipeline.core.parsing import parse_json_file
from pipeline.core.storage import MANIFEST_NAME, find_manifest, read_manifest
from pipeline.models.checkpoints.native import list_checkpoints
from pipeline.train.config import TrainConfig
from pipeline.train.data import Position

Plan = dict[str, Any]
Changes = Mapping[str, tuple[Any, Any]]  # (old, new) by the name of the option or input

PLAN_NAME = "plan.json"
_HASH = re.compile("[0-9a-f]{64}")
MONITORING = frozenset(
    {
        "log_every",
        "val_every",
        "val_samples",
        "save_every",
        "keep_n_checkpoints",
        "sample_every",
        "sample_prompts",
    }
)
STEP_SIZE = frozenset({"batch_size", "ga_steps"})
LENGTH = frozenset({"steps", "epochs"}) | STEP_SIZE
OPEN_ENDED = ("constant", "plateau")


@dataclass(frozen=True, kw_only=True)
class _PlanFile:
    """The schema of `plan.json`."""

    config: Mapping[str, Any]
    inputs: Mapping[str, str]


def resolved_plan(config: TrainConfig, inputs: Mapping[str, str]) -> Plan:
    """A run's options and inputs as JSON values."""
    return {"config": resolved(config), "inputs": dict(inputs)}


def find_finished(root: Path, plan: Plan) -> Manifest | None:
    """The manifest of a run that finished with this plan, ignoring monitoring options."""
    manifest = find_manifest(root, "run")
    if manifest is None:
        return None
    found = {"config": dict(manifest.config), "inputs": dict(manifest.inputs)}
    return manifest if find_changes(found, plan).keys() <= MONITORING else None


def resume_changes(config: TrainConfig, root: Path, plan: Plan) -> Changes | None:
    """The changes with which `plan` resumes the run in `root`; None if the run starts from scratch.

    Nothing is written. A run without a checkpoint (say, one that ran out of memory in its first step) starts
    from scratch, since nothing is lost. Unless `on_change` is "restart", raises ConfigError if the run has
    another plan, ContractError if its plan can't be read.
    """
    has_progress = (root / MANIFEST_NAME).exists() or list_checkpoints(root / "checkpoints")
    may_start_over = config.on_change == "restart" or not has_progress
    try:
        found = read_plan(root)
    except ContractError:
        if may_start_over:
            return None
        raise
    if found is None:
        return None
    changes = find_changes(found, plan)
    if changes.keys() <= may_change(config):
        return changes
    if may_start_over:
        return None
    raise ConfigError(_refusal(root, changes, config))


def read_plan(root: Path) -> Plan | None:
    """The plan of the run in `root`; None if there is no run.

    Raises ContractError if it is damaged, or missing although the run has checkpoints.
    """
    path = root / PLAN_NAME
    if path.exists():
        plan = parse_json_file(path, _PlanFile, remedy=_remedy(root))
        return {"config": dict(plan.config), "inputs": dict(plan.inputs)}
    if (root / MANIFEST_NAME).exists():
        manifest = read_manifest(root, "run")
        return {"config": dict(manifest.config), "inputs": dict(manifest.inputs)}
    if list_checkpoints(root / "checkpoints"):
        raise ContractError(
            f"{path} is missing, which records how the checkpoints beside it were trained. {_remedy(root)}"
        )
    return None


def find_changes(found: Plan, plan: Plan) -> Changes:
    """The differences between two plans by name; options that an older version lacked had the default."""
    options = resolved(TrainConfig()) | found["config"]
    both = (options | found["inputs"], plan["config"] | plan["inputs"])
    names = sorted(set(both[0]) | set(both[1]))
    pairs = {name: (both[0].get(name), both[1].get(name)) for name in names}
    return {name: (old, new) for name, (old, new) in pairs.items() if old != new}


def describe_changes(changes: Changes) -> str:
    """Changes in words."""
    return "; ".join(
        f"{name} {_shown(old)} → {_shown(new)}" for name, (old, new) in changes.items()
    )


def _shown(value: object) -> str:
    """A value in a message; of a hash its beginning."""
    text = str(value)
    return f"{text[:12]}…" if _HASH.fullmatch(text) else text


def may_change(config: TrainConfig) -> frozenset[str]:
    """The options that may change when a run is resumed."""
    return MONITORING | LENGTH if config.lr_decay in OPEN_ENDED else MONITORING


def check_length(
    config: TrainConfig, changes: Changes, *, step: int, position: Position, left: int
) -> None:
    """Raise ConfigError if a run is already past its new length, or has no steps left for a new step size.

    `step` and `position` are the run's progress, `left` the steps left under the new options.
    """
    if config.steps is not None and step > config.steps:
        raise ConfigError(
            f"The run has already trained {step} steps, more than --steps {config.steps}. Give "
            f"--steps {step} or more, or another --name."
        )
    passes = position.epoch + bool(position.consumed)
    if config.steps is None and passes > config.epochs:
        raise ConfigError(
            f"The run is already in epoch {passes}, past --epochs {config.epochs}. "
            f"Give --epochs {passes} or more, or another --name."
        )
    resized = sorted(changes.keys() & STEP_SIZE)
    if resized and not left:
        raise ConfigError(
            f"The run has no steps left, so {', '.join(map(_flag, resized))} can't change. Also give "
            "more --steps or --epochs, or keep the old value."
        )


def _remedy(root: Path) -> str:
    return (
        "Restore it from a backup; or start another run from these weights: --name OTHER "
        f"--resume-from {root}; or delete the run and start over: --on-change restart."
    )


def _refusal(root: Path, changes: Changes, config: TrainConfig) -> str:
    reason = ""
    if changes.keys() & LENGTH and config.lr_decay not in OPEN_ENDED:
        reason = (
            f" With --lr-decay {config.lr_decay} the learning rate depends on the run's length, so "
            f"{', '.join(map(_flag, sorted(changes.keys() & LENGTH)))} can't change when a run is resumed."
        )
    return (
        f"{root} holds a run with other options or inputs ({describe_changes(changes)}). Nothing was "
        f"changed.{reason} Give the old options; or start another run from its weights: --name OTHER "
        f"--resume-from {root}; or delete it and start over: --on-change restart."
    )


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"

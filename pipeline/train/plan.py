"""What decides a run, `plan.json`, and whether another call goes on with the run that is there.

Options may change on a run as far as that leads to what its new options say:

- `WATCHED`: what is logged, validated, drawn and kept on the way. Nothing that is learnt depends on it.
- `LENGTH`: with a learning rate that doesn't depend on the end (`--lr-decay constant` and `plateau`), how
  long it trains, and by how many samples a step.

Any other option makes another run; `--resume-from` begins it with the weights and moments of this one.
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
from pipeline.core.storage import MANIFEST_NAME, read_manifest
from pipeline.models.checkpoints.native import list_checkpoints
from pipeline.train.config import TrainConfig
from pipeline.train.data import Position

Plan = dict[str, Any]
Changes = Mapping[
    str, tuple[Any, Any]
]  # what it was and what it is, by the name of an option or input

PLAN_NAME = "plan.json"
_HASH = re.compile("[0-9a-f]{64}")
WATCHED = frozenset(
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
    """`plan.json` as it is written."""

    config: Mapping[str, Any]
    inputs: Mapping[str, str]


def resolved_plan(config: TrainConfig, inputs: Mapping[str, str]) -> Plan:
    """What decides a run: its options and its inputs, as JSON values."""
    return {"config": resolved(config), "inputs": dict(inputs)}


def find_finished(root: Path, plan: Plan) -> Manifest | None:
    """The manifest of a run that finished with just this plan, whatever was watched on the way."""
    if not (root / MANIFEST_NAME).exists():
        return None
    try:
        manifest = read_manifest(root, "run")
    except ContractError:
        return None
    found = {"config": dict(manifest.config), "inputs": dict(manifest.inputs)}
    return manifest if find_changes(found, plan).keys() <= WATCHED else None


def goes_on(config: TrainConfig, root: Path, plan: Plan) -> Changes | None:
    """What has changed since the run in `root` that `plan` goes on with; None where it begins anew.

    Nothing is touched. A run that has no checkpoint yet (memory ran out in its first step) has nothing to
    lose. Raises ConfigError where another plan's run is there, ContractError where its plan can't be read,
    both only if `on_change` does not say "restart".
    """
    begun = (root / MANIFEST_NAME).exists() or list_checkpoints(root / "checkpoints")
    anew = config.on_change == "restart" or not begun
    try:
        found = read_plan(root)
    except ContractError:
        if anew:
            return None
        raise
    if found is None:
        return None
    changes = find_changes(found, plan)
    if changes.keys() <= may_change(config):
        return changes
    if anew:
        return None
    raise ConfigError(_refusal(root, changes, config))


def read_plan(root: Path) -> Plan | None:
    """The plan of the run in `root`; None where no run has been begun.

    Raises ContractError where it is damaged, or gone from a run that has checkpoints.
    """
    path = root / PLAN_NAME
    if path.exists():
        said = parse_json_file(path, _PlanFile, remedy=_remedy(root))
        return {"config": dict(said.config), "inputs": dict(said.inputs)}
    if (root / MANIFEST_NAME).exists():
        manifest = read_manifest(root, "run")
        return {"config": dict(manifest.config), "inputs": dict(manifest.inputs)}
    if list_checkpoints(root / "checkpoints"):
        raise ContractError(
            f"{path} is missing, which says how the checkpoints beside it were trained. {_remedy(root)}"
        )
    return None


def find_changes(found: Plan, plan: Plan) -> Changes:
    """What differs between two plans, by name; an option that an earlier version lacks had its default."""
    options = resolved(TrainConfig()) | found["config"]
    both = (options | found["inputs"], plan["config"] | plan["inputs"])
    names = sorted(set(both[0]) | set(both[1]))
    pairs = {name: (both[0].get(name), both[1].get(name)) for name in names}
    return {name: (old, new) for name, (old, new) in pairs.items() if old != new}


def list_changes(changes: Changes) -> str:
    """Changes in words."""
    return "; ".join(
        f"{name} {_shown(old)} → {_shown(new)}" for name, (old, new) in changes.items()
    )


def _shown(value: object) -> str:
    """A value in a message; of a hash its beginning."""
    text = str(value)
    return f"{text[:12]}…" if _HASH.fullmatch(text) else text


def may_change(config: TrainConfig) -> frozenset[str]:
    """The options that may change on a run."""
    return WATCHED | LENGTH if config.lr_decay in OPEN_ENDED else WATCHED


def check_length(
    config: TrainConfig, changes: Changes, *, step: int, position: Position, left: int
) -> None:
    """Raise ConfigError where a run has trained for longer than its new options say, or by other steps.

    `step` and `position` are where it is, `left` the steps that its new options leave.
    """
    if config.steps is not None and step > config.steps:
        raise ConfigError(
            f"The run has trained {step} steps already: --steps {config.steps} would take some back. Give "
            f"--steps {step} or more, or another --name."
        )
    passes = position.epoch + bool(position.consumed)
    if config.steps is None and passes > config.epochs:
        raise ConfigError(
            f"The run is in pass {passes} already: --epochs {config.epochs} would take some back. "
            f"Give --epochs {passes} or more, or another --name."
        )
    resized = sorted(changes.keys() & STEP_SIZE)
    if resized and not left:
        raise ConfigError(
            f"The run has nothing left to train, so {', '.join(map(_flag, resized))} can't change. Give "
            "more --steps or --epochs with it, or the old value."
        )


def _remedy(root: Path) -> str:
    return (
        "Bring it back from a copy; or begin another run with these weights: --name OTHER "
        f"--resume-from {root}; or throw the run away and begin it anew: --on-change restart."
    )


def _refusal(root: Path, changes: Changes, config: TrainConfig) -> str:
    reason = ""
    if changes.keys() & LENGTH and config.lr_decay not in OPEN_ENDED:
        reason = (
            f" With --lr-decay {config.lr_decay} the learning rate depends on the end, so "
            f"{', '.join(map(_flag, sorted(changes.keys() & LENGTH)))} can't change on a run."
        )
    return (
        f"{root} holds a run that began otherwise ({list_changes(changes)}). Nothing was touched.{reason} "
        "Give the old options; or train on from its weights with the new ones: --name OTHER --resume-from "
        f"{root}; or --on-change restart to throw it away and begin anew."
    )


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"

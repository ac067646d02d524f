"""How a run starts or resumes: which options may change, from which checkpoint, in which state.

A run's options and inputs are in `plan.json`. A resumed run may change only:

- `MONITORING`: what is logged, validated, sampled and kept. Training doesn't depend on it.
- `LENGTH`: how long it trains, and the samples per step, if the learning rate doesn't depend on the end
  (`--lr-decay constant` and `plateau`).

Any other change needs another run; `--resume-from` starts it from this one's weights and moments.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.core.config import declared_options, resolved
from pipeline.core.contracts import Manifest
from pipeline.core.errors import ConfigError, ContractError, ModelError
from pipeline.core.parsing import parse_json_file
from pipeline.core.remembered import flag_of
from pipeline.core.storage import MANIFEST_NAME, find_manifest, read_manifest
from pipeline.models.checkpoints.critic import critic_in
from pipeline.models.checkpoints.foreign import read_foreign
from pipeline.models.checkpoints.info import step_of_name
from pipeline.models.checkpoints.locate import find_own
from pipeline.models.checkpoints.native import (
    MODEL_FILE,
    OPTIMIZER_FILE,
    CheckpointInfo,
    last_checkpoint,
    list_checkpoints,
    read_critic,
    read_info,
    read_tensors,
)
from pipeline.models.checkpoints.series import checkpoint_path
from pipeline.models.dalle.config import DalleConfig
from pipeline.models.weights import check_tensors
from pipeline.train.config import LoggingOptions, TrainConfig
from pipeline.train.data import Position
from pipeline.train.distributed import Ranks
from pipeline.train.model import check_fit, make_model, new_model
from pipeline.train.precision import DTYPES
from pipeline.train.run_folder import PLAN_NAME, Plan, RunFolder, find_name, wrong_hints
from pipeline.train.state import TrainState, load_moments, load_weights, make_state, restore
from pipeline.webdata.index import ShardIndex

logger = logging.getLogger(__name__)
Changes = Mapping[str, tuple[Any, Any]]  # (old, new) by the name of the option or input
_HASH = re.compile("[0-9a-f]{64}")
MONITORING = frozenset(declared_options(LoggingOptions))
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


def keep_settled(config: TrainConfig, root: Path) -> TrainConfig:
    """The config in which `auto` is the precision and the batch size of the run in `root`, if there is one.

    So a run that moves to another device goes on as it began.
    """
    found: Plan | None = None
    if config.on_change != "restart":
        with contextlib.suppress(ContractError):  # which is raised where it matters
            found = read_plan(root)
    earlier = {} if found is None else found["config"]
    parallel, schedule = config.parallel, config.schedule
    if parallel.precision == "auto" and (kept := earlier.get("precision")) in DTYPES:
        parallel = dataclasses.replace(parallel, precision=kept)
    if schedule.batch == "auto" and "batch_size" in earlier:
        schedule = dataclasses.replace(schedule, batch=earlier["batch_size"])
    return dataclasses.replace(config, parallel=parallel, schedule=schedule)


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
    return MONITORING | LENGTH if config.schedule.lr_decay in OPEN_ENDED else MONITORING


def check_length(
    config: TrainConfig, changes: Changes, *, step: int, position: Position, left: int
) -> None:
    """Raise ConfigError if a run is already past its new length, or has no steps left for a new step size.

    `step` and `position` are the run's progress, `left` the steps left under the new options.
    """
    if config.schedule.steps is not None and step > config.schedule.steps:
        raise ConfigError(
            f"The run has already trained {step} steps, more than --steps {config.schedule.steps}. Give "
            f"--steps {step} or more, or another --name."
        )
    passes = position.epoch + bool(position.consumed)
    if config.schedule.steps is None and passes > config.schedule.epochs:
        raise ConfigError(
            f"The run is already in epoch {passes}, past --epochs {config.schedule.epochs}. "
            f"Give --epochs {passes} or more, or another --name."
        )
    resized = sorted(changes.keys() & STEP_SIZE)
    if resized and not left:
        raise ConfigError(
            f"The run has no steps left, so {', '.join(map(flag_of, resized))} can't change. Also give "
            "more --steps or --epochs, or keep the old value."
        )


def _remedy(root: Path) -> str:
    return (
        "Restore it from a backup; or start another run from these weights: --name OTHER "
        f"--resume-from {root}; or delete the run and start over: --on-change restart."
    )


def _refusal(root: Path, changes: Changes, config: TrainConfig) -> str:
    reason = ""
    if changes.keys() & LENGTH and config.schedule.lr_decay not in OPEN_ENDED:
        reason = (
            f" With --lr-decay {config.schedule.lr_decay} the learning rate depends on the run's length, so "
            f"{', '.join(map(flag_of, sorted(changes.keys() & LENGTH)))} can't change when a run is resumed."
        )
    return (
        f"{root} holds a run with other options or inputs ({describe_changes(changes)}). Nothing was "
        f"changed.{reason} Give the old options; or start another run from its weights: --name OTHER "
        f"--resume-from {root}; or delete it and start over: --on-change restart."
    )


def layout_seed(config: TrainConfig) -> int | None:
    """The seed for a new sparse attention layout; None if none may be drawn."""
    return config.seed if config.redraw_layout else None


def find_checkpoint(folder: RunFolder, config: TrainConfig, ranks: Ranks) -> Path | None:
    """The checkpoint to resume the run in `folder` from: its last intact one, the same for all ranks.

    None if there is none yet. If all are damaged: None with `--on-change restart`, else raises ModelError.
    """
    found = last_checkpoint(folder.checkpoints) if ranks.is_main else None
    mine = torch.tensor(
        [-1.0 if found is None else step_of_name(found) or 0.0], dtype=torch.float64
    )
    step = int(ranks.gather(mine)[0].item())
    if step >= 0:
        return checkpoint_path(folder.checkpoints, step)
    damaged = list_checkpoints(folder.checkpoints)
    if not damaged or config.on_change == "restart":
        return None
    raise ModelError(
        f"All checkpoints of {folder.root} are damaged: {', '.join(path.name for path in damaged)}. Nothing "
        "was changed. Restore one from a backup, or start over with --on-change restart."
    )


def start_state(
    config: TrainConfig, index: ShardIndex, checkpoint: Path | None, ranks: Ranks
) -> TrainState:
    """The state of the run's `checkpoint`, else of the one in `resume_from`, else a new one.

    Raises ModelError for a checkpoint that can't be used, ContractError for one that doesn't match the
    shards.
    """
    torch.manual_seed(config.seed)
    if checkpoint is not None:
        info = read_info(checkpoint)
        state = make_state(make_model(info.model, config, ranks), info.model, config, ranks)
        try:
            restore(state, info, checkpoint, ranks)
        except (LookupError, RuntimeError, TypeError, ValueError) as error:
            raise ModelError(
                f"Can't resume from {checkpoint} ({error!r}): its files don't belong together. Move it "
                "elsewhere to resume from the previous one."
            ) from error
        logger.info("Resuming from %s", checkpoint)
        return state
    if config.resume_from is None:
        hyperparameters = new_model(index, config.model)
        return make_state(
            make_model(hyperparameters, config, ranks), hyperparameters, config, ranks
        )
    warm_start = read_warm_start(config.resume_from, layout_seed=layout_seed(config))
    return state_from(warm_start, config, index, ranks)


def state_from(
    warm_start: WarmStart, config: TrainConfig, index: ShardIndex, ranks: Ranks
) -> TrainState:
    """A state before step 1, with the weights and moments of a checkpoint."""
    check_fit(
        warm_start.model,
        index,
        codec=warm_start.codec,
        tokenizer=warm_start.tokenizer,
        source=warm_start.source,
    )
    _warn_of_name(warm_start)
    model = make_model(warm_start.model, config, ranks)
    state = make_state(model, warm_start.model, config, ranks)
    load_weights(state, warm_start.weights, warm_start.source)
    load_moments(state, warm_start.moments)
    if state.average is not None:
        state.average.reset(model)
    state.passes = dict(warm_start.passes)
    state.critic = dict(warm_start.critic)
    return state


def _warn_of_name(warm_start: WarmStart) -> None:
    hints = find_name(Path(warm_start.source))
    for name, (claimed, actual) in wrong_hints(hints, warm_start.model).items() if hints else ():
        logger.warning(
            "The name of %s claims %s %d, but its tensors have %d: using the tensors'",
            warm_start.source,
            name,
            claimed,
            actual,
        )


@dataclass(frozen=True, kw_only=True)
class WarmStart:
    """Weights and moments to start from, under our names.

    `moments` may be empty; `codec` and `tokenizer` are fingerprints, "" if unknown; `passes` counts epochs
    so far by dataset; `critic` is the discriminator of the codec's training, kept for `export`.
    """

    source: str
    model: DalleConfig
    weights: Mapping[str, Tensor]
    moments: Mapping[str, Tensor] = field(default_factory=dict)
    codec: str = ""
    tokenizer: str = ""
    passes: Mapping[str, int] = field(default_factory=dict)
    critic: Mapping[str, Tensor] = field(default_factory=dict)


def read_warm_start(path: Path, *, layout_seed: int | None = None) -> WarmStart:
    """Read a checkpoint of ours (its folder or its run's folder), a dalle.pt, or a DeepSpeed folder.

    With `layout_seed`, a new sparse attention layout is drawn if the checkpoint has none. Raises ModelError
    for a checkpoint that can't be used.
    """
    own = find_own(path)
    if own is None:
        found = read_foreign(path, redraw_layout=layout_seed)
        check_tensors(found.moments or {}, path)
        return WarmStart(
            source=str(path),
            model=found.config,
            weights=found.weights,
            moments=found.moments or {},
            passes=named_passes(path),
            critic=critic_in(found.codec),
        )
    info = read_info(own)
    return WarmStart(
        source=str(path),
        model=info.model,
        weights=read_tensors(own, MODEL_FILE),
        moments=read_tensors(own, OPTIMIZER_FILE),
        codec=info.codec,
        tokenizer=info.tokenizer,
        passes=passes_of(info) or named_passes(path),
        critic=read_critic(own),
    )


def passes_of(info: CheckpointInfo) -> dict[str, int]:
    """Epochs by dataset that a checkpoint of ours records: before its run and in it."""
    passes = dict(info.training.get("passes", {}))
    name = info.training.get("dataset")
    return passes | ({name: passes.get(name, 0) + info.epoch} if name and info.epoch else {})


def named_passes(path: Path) -> dict[str, int]:
    """Epochs by dataset that the path's name claims; empty if it has no such name."""
    hints = find_name(path)
    return dict(hints.passes) if hints else {}

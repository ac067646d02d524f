"""The checkpoint that a run begins with: ours, or one of DALLE-pytorch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from pipeline.models.checkpoints.critic import critic_in
from pipeline.models.checkpoints.foreign import read_foreign
from pipeline.models.checkpoints.found import find_own
from pipeline.models.checkpoints.native import (
    MODEL_FILE,
    OPTIMIZER_FILE,
    CheckpointInfo,
    read_critic,
    read_info,
    read_tensors,
)
from pipeline.models.dalle.config import DalleConfig
from pipeline.models.weights import check_tensors
from pipeline.train.naming import find_name


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Weights and moments to go on with, under our names.

    `moments` may be empty; `codec` and `tokenizer` are fingerprints, "" where they are not known;
    `passes` counts the passes through named datasets so far; `critic` is kept for `export`.
    """

    source: str
    model: DalleConfig
    weights: Mapping[str, Tensor]
    moments: Mapping[str, Tensor] = field(default_factory=dict)
    codec: str = ""
    tokenizer: str = ""
    passes: Mapping[str, int] = field(default_factory=dict)
    critic: Mapping[str, Tensor] = field(default_factory=dict)


def read_origin(path: Path, *, layout_seed: int | None = None) -> Origin:
    """Read a checkpoint of ours (its folder, or its run's), a dalle.pt or a folder of DeepSpeed.

    `layout_seed` draws a new layout for sparse attention where the checkpoint carries none. Raises
    ModelError for a checkpoint that can't be used.
    """
    own = find_own(path)
    if own is None:
        found = read_foreign(path, redraw_layout=layout_seed)
        check_tensors(found.moments or {}, path)
        return Origin(
            source=str(path),
            model=found.config,
            weights=found.weights,
            moments=found.moments or {},
            passes=named_passes(path),
            critic=critic_in(found.codec),
        )
    info = read_info(own)
    return Origin(
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
    """The passes that our checkpoint tells of: those before its run, and its run's own."""
    passes = dict(info.training.get("passes", {}))
    name = info.training.get("dataset")
    return passes | ({name: passes.get(name, 0) + info.epoch} if name and info.epoch else {})


def named_passes(path: Path) -> dict[str, int]:
    """The passes that the names of a path claim, from its end; none where no name does."""
    hints = find_name(path)
    return dict(hints.passes) if hints else {}

"""How a run starts or resumes: its checkpoint, and the training state before its next step."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from pipeline.core.errors import ModelError
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
from pipeline.models.dalle.model import Dalle
from pipeline.models.devices import is_out_of_memory
from pipeline.models.weights import check_tensors
from pipeline.train.config import TrainConfig
from pipeline.train.dalle_pytorch_model import DallePytorchModel
from pipeline.train.distributed import Ranks
from pipeline.train.hyperparameters import check_fit, new_model
from pipeline.train.naming import find_name, wrong_hints
from pipeline.train.run_folder import RunFolder
from pipeline.train.state import TrainState, load_moments, load_weights, make_state, restore
from pipeline.webdata.index import ShardIndex

logger = logging.getLogger(__name__)


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
        hyperparameters = new_model(index, config)
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


def make_model(hyperparameters: DalleConfig, config: TrainConfig, ranks: Ranks) -> nn.Module:
    """A new model on its device: the same weights on every rank, different random numbers afterwards."""
    kind = DallePytorchModel if config.model == "dalle-pytorch" else Dalle
    try:
        model = kind(hyperparameters).to(ranks.device)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise ModelError(
            f"Not enough memory for a model with these hyper-parameters ({error}). Use a smaller one."
        ) from error
    pays = ranks.device.type == "cuda" and ranks.kind != "deepspeed"
    if config.compile == "yes" or (config.compile == "auto" and pays):
        model.compile()
    if ranks.rank:
        torch.manual_seed(config.seed + (ranks.rank << 32))
    return model


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

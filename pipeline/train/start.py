"""Where a run begins: its name, and the state before its next step."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from pipeline.models.checkpoints.ours import read_info
from pipeline.models.dalle import Dalle
from pipeline.models.dalle_config import DalleConfig
from pipeline.train.config import TrainConfig
from pipeline.train.hyperparameters import check_fit, new_model
from pipeline.train.naming import read_name, wrong_hints, zoo_name
from pipeline.train.origin import Origin, read_origin
from pipeline.train.ranks import Ranks, count_ranks
from pipeline.train.state import TrainState, load_moments, load_weights, make_state, restore
from pipeline.train.stock import StockDalle
from pipeline.webdata.index import ShardIndex
from pipeline.workspace import Workspace, read_marker

logger = logging.getLogger(__name__)


def choose_name(config: TrainConfig, index: ShardIndex) -> str:
    """The run's name: the one given, or for `auto` the zoo's."""
    if config.name != "auto":
        return config.name
    if config.resume_from is None:
        model, earlier = new_model(index, config), {}
    else:
        origin = read_origin(config.resume_from, layout_seed=layout_seed(config))
        model, earlier = origin.model, dict(origin.passes)
    passes = add_passes(earlier, config, index)
    return zoo_name(model, codec=index.codec.name, passes=passes)


def add_passes(
    earlier: Mapping[str, int], config: TrainConfig, index: ShardIndex
) -> dict[str, int]:
    """Epochs by dataset after this run."""
    samples = config.batch_size * config.ga_steps * count_ranks()
    epochs = config.epochs
    if config.steps is not None:
        epochs = max(1, round(config.steps * samples / max(1, index.samples["train"])))
    name = config.dataset or config.shards
    return {**earlier, name: earlier.get(name, 0) + epochs}


def dataset_name(config: TrainConfig, workspace: Workspace) -> str:
    """The data's name: the one given, the shards', or the workspace's source for default shards."""
    if config.dataset is not None:
        return config.dataset
    if config.shards != "default" or not workspace.marker.exists():
        return config.shards.rstrip("/").rpartition("/")[2]
    return str(read_marker(workspace.root)["source"])


def layout_seed(config: TrainConfig) -> int | None:
    """The seed of a new layout for sparse attention, where one may be drawn."""
    return config.seed if config.redraw_layout else None


def start_state(
    config: TrainConfig, index: ShardIndex, checkpoint: Path | None, ranks: Ranks
) -> TrainState:
    """The state of the run's last checkpoint, of the one to begin with, or a new one.

    Raises ModelError for a checkpoint that can't be used, ContractError for one that the shards don't fit.
    """
    torch.manual_seed(config.seed)
    if checkpoint is not None:
        info = read_info(checkpoint)
        state = make_state(make_model(info.model, config, ranks), info.model, config, ranks)
        restore(state, info, checkpoint, ranks)
        logger.info("Going on from %s", checkpoint)
        return state
    if config.resume_from is None:
        hyperparameters = new_model(index, config)
        return make_state(
            make_model(hyperparameters, config, ranks), hyperparameters, config, ranks
        )
    origin = read_origin(config.resume_from, layout_seed=layout_seed(config))
    return state_from(origin, config, index, ranks)


def state_from(origin: Origin, config: TrainConfig, index: ShardIndex, ranks: Ranks) -> TrainState:
    """A state before step 1 with the weights and moments of a checkpoint."""
    check_fit(
        origin.model,
        index,
        codec=origin.codec,
        tokenizer=origin.tokenizer,
        source=origin.source,
    )
    _warn_of_name(origin)
    model = make_model(origin.model, config, ranks)
    state = make_state(model, origin.model, config, ranks)
    load_weights(state, origin.weights, origin.source)
    load_moments(state, origin.moments)
    if state.average is not None:
        state.average.begin(model)
    state.passes = dict(origin.passes)
    state.critic = dict(origin.critic)
    return state


def make_model(hyperparameters: DalleConfig, config: TrainConfig, ranks: Ranks) -> nn.Module:
    """A new model on its device; the same weights on every rank, other random numbers after them."""
    kind = StockDalle if config.model == "dalle-pytorch" else Dalle
    model = kind(hyperparameters).to(ranks.device)
    pays = ranks.device.type == "cuda" and ranks.kind != "deepspeed"
    if config.compile == "yes" or (config.compile == "auto" and pays):
        model.compile()
    if ranks.rank:
        torch.manual_seed(config.seed + (ranks.rank << 32))
    return model


def _warn_of_name(origin: Origin) -> None:
    hints = read_name(Path(origin.source).name)
    for name, (said, true) in wrong_hints(hints, origin.model).items() if hints else ():
        logger.warning(
            "The name of %s says %s %d, its tensors %d: the tensors decide",
            origin.source,
            name,
            said,
            true,
        )

"""Where a run begins: its name, and the state before its next step."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from pipeline.core.errors import ModelError
from pipeline.core.workspace import Workspace, read_marker
from pipeline.models.checkpoints.info import step_of_name
from pipeline.models.checkpoints.native import last_checkpoint, list_checkpoints, read_info
from pipeline.models.checkpoints.series import checkpoint_path
from pipeline.models.codecs.load import find_codec, read_codec_json
from pipeline.models.dalle.config import DalleConfig
from pipeline.models.dalle.model import Dalle
from pipeline.models.devices import is_out_of_memory
from pipeline.train.config import TrainConfig
from pipeline.train.dalle_pytorch_loop import StockDalle
from pipeline.train.hyperparameters import check_fit, new_model
from pipeline.train.naming import codec_folder, dataset_slug, find_name, wrong_hints, zoo_name
from pipeline.train.origin import Origin, read_origin
from pipeline.train.ranks import Ranks, count_ranks
from pipeline.train.run_folder import RunFolder
from pipeline.train.state import TrainState, load_moments, load_weights, make_state, restore
from pipeline.webdata.index import ShardIndex

logger = logging.getLogger(__name__)


def choose_name(config: TrainConfig, workspace: Workspace, index: ShardIndex) -> str:
    """The run's name: the one given, or for `auto` the zoo's."""
    if config.name != "auto":
        return config.name
    if config.resume_from is None:
        model, earlier = new_model(index, config), {}
    else:
        origin = read_origin(config.resume_from, layout_seed=layout_seed(config))
        model, earlier = origin.model, dict(origin.passes)
    folder = codec_folder(find_kind(workspace, index), index.codec.name)
    return zoo_name(model, folder=folder, passes=add_passes(earlier, config, index))


def find_kind(workspace: Workspace, index: ShardIndex) -> str | None:
    """The kind of the shards' codec, where the workspace has it."""
    try:
        return read_codec_json(find_codec(workspace.codecs, index.codec.fingerprint)).kind
    except ModelError:
        return None


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
        return dataset_slug(config.dataset)
    if config.shards != "default" or not workspace.marker.exists():
        return dataset_slug(config.shards.rstrip("/").rpartition("/")[2])
    return dataset_slug(str(read_marker(workspace.root)["source"]))


def layout_seed(config: TrainConfig) -> int | None:
    """The seed of a new layout for sparse attention, where one may be drawn."""
    return config.seed if config.redraw_layout else None


def find_checkpoint(folder: RunFolder, config: TrainConfig, ranks: Ranks) -> Path | None:
    """The checkpoint that the run in `folder` goes on from: its last whole one, the same for all ranks.

    None where there is none yet, or none whole and the run is to begin anew then. Raises ModelError where
    there are damaged ones alone.
    """
    found = last_checkpoint(folder.checkpoints) if ranks.leads else None
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
        f"No checkpoint of {folder.root} is whole, of {', '.join(path.name for path in damaged)}. Nothing "
        "was touched: bring one back from a copy, or begin anew with --on-change restart."
    )


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
        try:
            restore(state, info, checkpoint, ranks)
        except (LookupError, RuntimeError, TypeError, ValueError) as error:
            raise ModelError(
                f"{checkpoint} can't be gone on with ({error!r}): its parts don't belong together. Move it "
                "elsewhere to go on from the one before."
            ) from error
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
    try:
        model = kind(hyperparameters).to(ranks.device)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise ModelError(
            f"There is no memory for a model of these hyper-parameters ({error}). Take a smaller one."
        ) from error
    pays = ranks.device.type == "cuda" and ranks.kind != "deepspeed"
    if config.compile == "yes" or (config.compile == "auto" and pays):
        model.compile()
    if ranks.rank:
        torch.manual_seed(config.seed + (ranks.rank << 32))
    return model


def _warn_of_name(origin: Origin) -> None:
    hints = find_name(Path(origin.source))
    for name, (said, true) in wrong_hints(hints, origin.model).items() if hints else ():
        logger.warning(
            "The name of %s says %s %d, its tensors %d: the tensors decide",
            origin.source,
            name,
            said,
            true,
        )

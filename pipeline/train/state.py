"""Everything that a training step changes, and saving and restoring it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.core.errors import ModelError
from pipeline.models.checkpoints.native import (
    AVERAGE_FILE,
    CRITIC_FILE,
    MODEL_FILE,
    OPTIMIZER_FILE,
    RNG_FILE,
    CheckpointInfo,
    read_critic,
    read_tensors,
)
from pipeline.models.dalle.config import DalleConfig
from pipeline.train.config import TrainConfig
from pipeline.train.data import Position, step_samples
from pipeline.train.deepspeed import make_engine_stepper, start_engine
from pipeline.train.distributed import (
    Ranks,
    copy_full,
    full_shape,
    full_tensor,
    gather_shards,
    shard_of,
)
from pipeline.train.model import DallePytorchModel, files_under_our_names, tensors_under_their_names
from pipeline.train.optimizer import (
    LossScale,
    Plateau,
    Stepper,
    TorchStepper,
    WeightAverage,
    make_optimizer,
)

Files = dict[str, dict[str, Tensor]]


@dataclass
class TrainState:
    """The model in memory, its optimizer, and the run's position in the data.

    `module` is called in training: the model itself, or DDP or DeepSpeed's engine around it. `passes`
    counts epochs by dataset before this run, and `critic` is the discriminator of the codec's training; both
    come from the checkpoint that the run started from. `samples` counts samples trained on so far; `unit` is
    the samples in the run's first step.
    """

    hyperparameters: DalleConfig
    model: nn.Module
    module: nn.Module
    optimizer: torch.optim.Optimizer
    stepper: Stepper
    plateau: Plateau | None
    average: WeightAverage | None
    unit: int
    step: int = 0
    samples: int = 0
    position: Position = field(default_factory=lambda: Position(epoch=0, consumed=0))
    passes: dict[str, int] = field(default_factory=dict)
    critic: dict[str, Tensor] = field(default_factory=dict)

    def weights_to_use(self) -> AbstractContextManager[None]:
        """Inside this context the model has the weights to sample with: their average, if one is kept."""
        if self.average is None:
            return nullcontext()
        return self.average.in_place_of_weights(self.model)

    def names_of_model(self, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Rename tensors from our names to the model's own."""
        if isinstance(self.model, DallePytorchModel):
            return tensors_under_their_names(tensors, self.hyperparameters)
        return tensors

    def as_dict(self) -> dict[str, Any]:
        """The state that is neither a tensor nor the position, as JSON values."""
        values: dict[str, Any] = {
            "passes": self.passes,
            "samples": self.samples,
            "step_samples": self.unit,
        }
        if scaler := self.stepper.scaler_state():
            values["scaler"] = scaler
        if self.plateau is not None:
            values["plateau"] = self.plateau.as_dict()
        return values


def make_state(
    model: nn.Module, hyperparameters: DalleConfig, config: TrainConfig, ranks: Ranks
) -> TrainState:
    """The state before the first step, for a model already on its device."""
    optimizer: torch.optim.Optimizer
    stepper: Stepper
    if ranks.kind == "deepspeed":
        module = start_engine(model, make_optimizer(model, config.optimizer), config, ranks.device)
        optimizer, stepper = module.optimizer, make_engine_stepper(module, model)
    else:
        module = ranks.wrap(model)
        in_graphs = config.parallel.compile == "graphs"
        optimizer = make_optimizer(model, config.optimizer, in_graphs=in_graphs)
        max_norm = config.optimizer.clip_grad_norm or float("inf")
        stepper = TorchStepper(
            model=model,
            optimizer=optimizer,
            max_norm=max_norm,
            loss_scale=LossScale(ranks.device) if config.parallel.precision == "fp16" else None,
        )
    return TrainState(
        hyperparameters=hyperparameters,
        model=model,
        module=module,
        optimizer=optimizer,
        stepper=stepper,
        plateau=Plateau(config.optimizer.learning_rate)
        if config.schedule.lr_decay == "plateau"
        else None,
        average=WeightAverage(model, config.optimizer.ema_decay)
        if config.optimizer.ema_decay
        else None,
        unit=step_samples(config.schedule, ranks.size),
    )


@torch.no_grad()
def state_files(state: TrainState, ranks: Ranks) -> Files:
    """The tensors of a checkpoint by file; all ranks must call this together."""
    weights = state.model.state_dict(keep_vars=True)
    files = {
        MODEL_FILE: {name: full_tensor(value).detach() for name, value in weights.items()},
        OPTIMIZER_FILE: state.stepper.moments(),
        RNG_FILE: _random_states(ranks),
    }
    if state.critic:
        files[CRITIC_FILE] = state.critic
    if state.average is not None:
        means = {
            name: gather_shards(state.average.tensors[name], parameter)
            for name, parameter in state.model.named_parameters()
        }
        files[AVERAGE_FILE] = (
            files[MODEL_FILE] | means
        )  # includes the buffers, which are not averaged
    if isinstance(state.model, DallePytorchModel):
        return files_under_our_names(files, state.hyperparameters)
    return files


def restore(state: TrainState, info: CheckpointInfo, folder: Path, ranks: Ranks) -> None:
    """Restore `state` from the checkpoint in `folder`.

    Raises ModelError for a damaged checkpoint or one of another model.
    """
    load_weights(state, read_tensors(folder, MODEL_FILE), str(folder))
    load_moments(state, read_tensors(folder, OPTIMIZER_FILE))
    if state.average is not None:
        load_average(state, state.average, read_tensors(folder, AVERAGE_FILE))
    _restore_random(read_tensors(folder, RNG_FILE), ranks)
    state.step = info.step
    state.position = Position(epoch=info.epoch, consumed=info.consumed)
    state.passes = dict(info.training.get("passes", {}))
    state.critic = read_critic(folder)
    before = state.unit // ranks.size * info.training.get("ranks", ranks.size)
    state.unit = info.training.get("step_samples", before)
    state.samples = info.training.get("samples", info.step * before)
    if "scaler" in info.training:
        state.stepper.load_scaler(info.training["scaler"])
    if state.plateau is not None and "plateau" in info.training:
        state.plateau.restore(info.training["plateau"])


@torch.no_grad()
def load_weights(state: TrainState, weights: Mapping[str, Tensor], source: str) -> None:
    """Load full weights, under our names, into the model; raises ModelError if they don't fit."""
    own = state.model.state_dict(keep_vars=True)
    weights = state.names_of_model(weights)
    differing = sorted(own.keys() ^ weights.keys()) or sorted(
        name for name, value in own.items() if full_shape(value) != weights[name].shape
    )
    if differing:
        raise ModelError(
            f"The weights of {source} don't match its hyper-parameters: {', '.join(differing[:3])}"
            f"{' and more' if len(differing) > 3 else ''}. Use another checkpoint."
        )
    for name, value in own.items():
        copy_full(weights[name], value)


def load_moments(state: TrainState, moments: Mapping[str, Tensor]) -> None:
    """Load the optimizer's moments and step counts, `<parameter>/<state>`, under our names."""
    state.stepper.load_moments(state.names_of_model(moments))


def load_average(state: TrainState, average: WeightAverage, tensors: Mapping[str, Tensor]) -> None:
    """Load the averaged weights of a checkpoint."""
    tensors = state.names_of_model(tensors)
    for name, parameter in state.model.named_parameters():
        average.tensors[name].copy_(shard_of(tensors[name], parameter))


def device_states(device: torch.device) -> Iterable[tuple[str, Tensor]]:
    """The states of this process's random number generators, by name."""
    yield "cpu", torch.get_rng_state()
    if device.type == "cuda":
        yield "cuda", torch.cuda.get_rng_state(device)


def _random_states(ranks: Ranks) -> dict[str, Tensor]:
    """`cpu` and `cuda` for rank 0; `cpu.1`, … for the others."""
    return {
        name if rank == 0 else f"{name}.{rank}": value
        for name, mine in device_states(ranks.device)
        for rank, value in enumerate(ranks.gather(mine))
    }


def _restore_random(states: Mapping[str, Tensor], ranks: Ranks) -> None:
    """Ranks that the checkpoint doesn't have keep their current state."""
    suffix = f".{ranks.rank}" if ranks.rank else ""
    if f"cpu{suffix}" in states:
        torch.set_rng_state(states[f"cpu{suffix}"])
    if f"cuda{suffix}" in states and ranks.device.type == "cuda":
        torch.cuda.set_rng_state(states[f"cuda{suffix}"], ranks.device)

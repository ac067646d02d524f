"""Everything that a training step changes, and how it goes to a checkpoint and comes back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from pipeline.models.checkpoints.ours import (
    MODEL_FILE,
    OPTIMIZER_FILE,
    RNG_FILE,
    load_weights,
    read_info,
    read_tensors,
)
from pipeline.models.dalle import Dalle
from pipeline.train.config import TrainConfig


@dataclass
class TrainState:
    """Model, optimizer, and where the run stands in its data."""

    model: Dalle
    optimizer: torch.optim.AdamW
    step: int = 0
    epoch: int = 0
    consumed: int = 0

    @property
    def device(self) -> torch.device:
        """Where the model lies."""
        return self.model.to_logits.weight.device


def make_optimizer(model: Dalle, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW with the matrices decayed; norms, biases and scales are left alone."""
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, config.beta2), fused=True)


def state_files(state: TrainState) -> dict[str, dict[str, Tensor]]:
    """The tensors of a checkpoint, by file."""
    moments = {
        f"{name}/{key}": value
        for name, parameter in state.model.named_parameters()
        for key, value in state.optimizer.state[parameter].items()
    }
    return {
        MODEL_FILE: state.model.state_dict(),
        OPTIMIZER_FILE: moments,
        RNG_FILE: dict(_random_states()),
    }


def restore(state: TrainState, folder: Path) -> None:
    """Make `state` what it was when the checkpoint in `folder` was written.

    Raises ModelError for a checkpoint that is damaged or of another model.
    """
    info = read_info(folder)
    load_weights(state.model, read_tensors(folder, MODEL_FILE), folder)
    _restore_moments(state, read_tensors(folder, OPTIMIZER_FILE))
    _restore_random(read_tensors(folder, RNG_FILE))
    state.step, state.epoch, state.consumed = info.step, info.epoch, info.consumed


def _restore_moments(state: TrainState, moments: Mapping[str, Tensor]) -> None:
    parameters = dict(state.model.named_parameters())
    for name, value in moments.items():
        parameter_name, _, key = name.rpartition("/")
        parameter = parameters[parameter_name]
        state.optimizer.state[parameter][key] = value.to(parameter.device)


def _random_states() -> Iterator[tuple[str, Tensor]]:
    yield "cpu", torch.get_rng_state()
    if torch.cuda.is_available():
        yield "cuda", torch.cuda.get_rng_state()


def _restore_random(states: Mapping[str, Tensor]) -> None:
    torch.set_rng_state(states["cpu"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])

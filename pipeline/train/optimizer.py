"""From a loss to updated weights: the optimizer step with torch, and the moving average of the weights.

The same step with DeepSpeed is in `deepspeed_engine`.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from pipeline.train.sharded_tensors import full_tensor, local_shard, shard_changed, sharded_like


class Stepper(Protocol):
    """Accumulates gradients and updates the weights with them."""

    @property
    def scale(self) -> float | None:
        """The loss scale of fp16; None for other precisions."""

    def backward(self, loss: Tensor) -> None:
        """Add a loss's gradients."""

    def step(self) -> float:
        """Update the weights with the clipped gradients; returns the gradients' norm before clipping.

        If the norm is not finite the weights stay as they are, and the loss scale, if any, is lowered.
        """

    def moments(self) -> dict[str, Tensor]:
        """The optimizer's full state as `<parameter>/<state>`; all ranks must call this together."""

    def load_moments(self, moments: Mapping[str, Tensor]) -> None:
        """The inverse of `moments`; parameters that are not named keep their state."""

    def scaler_state(self) -> dict[str, Any]:
        """The loss scale's state as JSON values; empty without one."""

    def load_scaler(self, state: Mapping[str, Any]) -> None:
        """The inverse of `scaler_state`."""


@dataclass(frozen=True, kw_only=True)
class TorchStepper:
    """Steps with torch: a single process, DDP or FSDP. Gradients are clipped to the norm `max_norm`."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    max_norm: float

    @property
    def scale(self) -> float | None:
        """The loss scale of fp16; None for other precisions."""
        return self.scaler.get_scale() if self.scaler.is_enabled() else None

    def backward(self, loss: Tensor) -> None:
        """Add a loss's gradients."""
        self.scaler.scale(loss).backward()

    def step(self) -> float:
        """Update the weights with the clipped gradients; returns the norm before clipping."""
        self.scaler.unscale_(self.optimizer)
        parameters = self.model.parameters()
        norm = float(full_tensor(torch.nn.utils.clip_grad_norm_(parameters, self.max_norm)))
        if self.scaler.is_enabled() or math.isfinite(norm):
            self.scaler.step(self.optimizer)
            self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        return norm

    def moments(self) -> dict[str, Tensor]:
        """The optimizer's full state as `<parameter>/<state>`."""
        return {
            f"{name}/{key}": full_tensor(value)
            for name, parameter in self.model.named_parameters()
            for key, value in self.optimizer.state.get(parameter, {}).items()
        }

    def load_moments(self, moments: Mapping[str, Tensor]) -> None:
        """The inverse of `moments`."""
        parameters = dict(self.model.named_parameters())
        for name, value in moments.items():
            parameter_name, _, key = name.rpartition("/")
            if parameter_name not in parameters:  # another name of a shared parameter
                continue
            parameter = parameters[parameter_name]
            fits = value.shape == parameter.shape
            self.optimizer.state[parameter][key] = (
                sharded_like(value, parameter) if fits else value.to(parameter.device)
            )

    def scaler_state(self) -> dict[str, Any]:
        """The loss scale's state as JSON values; empty without one."""
        return self.scaler.state_dict() if self.scaler.is_enabled() else {}

    def load_scaler(self, state: Mapping[str, Any]) -> None:
        """The inverse of `scaler_state`."""
        self.scaler.load_state_dict(dict(state))


class WeightAverage:
    """After every step: mean ← decay · mean + (1 - decay) · weights. It starts as a copy of the weights."""

    tensors: dict[str, Tensor]

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.reset(model)

    def reset(self, model: nn.Module) -> None:
        """Reset the mean to the model's weights."""
        self.tensors = {name: tensor.detach().clone() for name, tensor in _parts(model)}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Add the weights after a step to the mean."""
        for name, tensor in _parts(model):
            self.tensors[name].lerp_(tensor, 1 - self.decay)

    @contextlib.contextmanager
    def in_place_of_weights(self, model: nn.Module) -> Iterator[None]:
        """Inside this context `model` has the averaged weights."""
        self._swap(model)
        try:
            yield
        finally:
            self._swap(model)

    @torch.no_grad()
    def _swap(self, model: nn.Module) -> None:
        for name, parameter in model.named_parameters():
            tensor = local_shard(parameter)
            kept = tensor.detach().clone()
            tensor.copy_(self.tensors[name])
            self.tensors[name].copy_(kept)
            shard_changed(parameter)


def _parts(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """This rank's shard of every parameter, by name; shared parameters appear once."""
    return ((name, local_shard(parameter)) for name, parameter in model.named_parameters())

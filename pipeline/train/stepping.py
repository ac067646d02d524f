"""From losses to changed weights: by torch's optimizer here, by DeepSpeed's engine in `deepspeed_engine`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from pipeline.train.sharded_tensors import parted_like, whole


class Stepper(Protocol):
    """What gathers gradients and changes the weights by them."""

    @property
    def scale(self) -> float | None:
        """What fp16 multiplies losses by; None in other precisions."""

    def backward(self, loss: Tensor) -> None:
        """Add a loss's gradients."""

    def step(self) -> float:
        """Change the weights by the gradients, cut to length; returns the norm that they had.

        Where it is not finite nothing is changed; with a scale, that is then lowered.
        """

    def moments(self) -> dict[str, Tensor]:
        """What the optimizer keeps, whole, as `<parameter>/<state>`; all ranks call this together."""

    def load_moments(self, moments: Mapping[str, Tensor]) -> None:
        """The inverse of `moments`; parameters that are not named keep what they have."""

    def scaler_state(self) -> dict[str, Any]:
        """The state of the scale as JSON values; empty without one."""

    def load_scaler(self, state: Mapping[str, Any]) -> None:
        """The inverse of `scaler_state`."""


@dataclass(frozen=True, kw_only=True)
class TorchStepper:
    """Of one process, of DDP and of FSDP. Gradients are cut to `longest`."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    longest: float

    @property
    def scale(self) -> float | None:
        """See Stepper."""
        return self.scaler.get_scale() if self.scaler.is_enabled() else None

    def backward(self, loss: Tensor) -> None:
        """See Stepper."""
        self.scaler.scale(loss).backward()

    def step(self) -> float:
        """See Stepper."""
        self.scaler.unscale_(self.optimizer)
        parameters = self.model.parameters()
        norm = float(whole(torch.nn.utils.clip_grad_norm_(parameters, self.longest)))
        if self.scaler.is_enabled() or math.isfinite(norm):
            self.scaler.step(self.optimizer)
            self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        return norm

    def moments(self) -> dict[str, Tensor]:
        """See Stepper."""
        return {
            f"{name}/{key}": whole(value)
            for name, parameter in self.model.named_parameters()
            for key, value in self.optimizer.state.get(parameter, {}).items()
        }

    def load_moments(self, moments: Mapping[str, Tensor]) -> None:
        """See Stepper."""
        parameters = dict(self.model.named_parameters())
        for name, value in moments.items():
            parameter_name, _, key = name.rpartition("/")
            if parameter_name not in parameters:  # another name of a shared one
                continue
            parameter = parameters[parameter_name]
            fits = value.shape == parameter.shape
            self.optimizer.state[parameter][key] = (
                parted_like(value, parameter) if fits else value.to(parameter.device)
            )

    def scaler_state(self) -> dict[str, Any]:
        """See Stepper."""
        return self.scaler.state_dict() if self.scaler.is_enabled() else {}

    def load_scaler(self, state: Mapping[str, Any]) -> None:
        """See Stepper."""
        self.scaler.load_state_dict(dict(state))

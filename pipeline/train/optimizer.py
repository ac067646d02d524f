"""From a loss to updated weights: the learning rate, the optimizer's step, the weights' average.

A step reads nothing back from the device: torch's fused optimizers divide the gradients by `grad_scale` and
change nothing where `found_inf` is set, and both are tensors. The same step with DeepSpeed is in `deepspeed`.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from pipeline.train.config import OptimizerOptions, TrainConfig
from pipeline.train.distributed import (
    full_tensor,
    local_shard,
    shard_changed,
    sharded_like,
)


def learning_rate(step: float, *, total_steps: float, config: TrainConfig) -> float:
    """The learning rate of step `step` (from 1): warm-up over `warmup_steps`, then `lr_decay` towards 0.

    Steps are those of `RunLength`, and fractional if the run was resumed with another batch size. The
    factor of `plateau` is not included. For `cosine` and `linear` the last step's rate is just above 0.
    """
    iteration, warmup = step - 1, config.schedule.warmup_steps
    if iteration < warmup:
        return config.optimizer.learning_rate * warmup_factor(
            iteration, warmup, config.schedule.warmup_type
        )
    left = max(0.0, (total_steps - iteration) / max(1, total_steps - warmup))
    factors = {"cosine": 0.5 - 0.5 * math.cos(math.pi * left), "linear": left}
    return config.optimizer.learning_rate * factors.get(config.schedule.lr_decay, 1.0)


def warmup_factor(iteration: float, warmup_steps: int, kind: str) -> float:
    """The factor, 0 to 1, of the peak rate in iteration `iteration` (from 0) of the warm-up.

    With linear decay this is the curve of DeepSpeed's `WarmupDecayLR` with `warmup_min_lr` 0
    (deepspeed/runtime/lr_schedules.py), whose default `warmup_type` is log.
    """
    if kind == "log":
        return math.log(iteration + 1) / math.log(max(2, warmup_steps))
    return iteration / warmup_steps


class Plateau:
    """Halves the learning rate after epochs without improvement, as DALLE-pytorch's train_dalle.py does.

    torch's ReduceLROnPlateau with that script's constants, fed the last loss of each epoch.
    """

    def __init__(self, learning_rate: float) -> None:
        self._peak = learning_rate
        dummy = torch.optim.SGD([torch.zeros(1)], lr=learning_rate)
        self._scheduler = ReduceLROnPlateau(
            dummy, mode="min", factor=0.5, patience=10, cooldown=10, min_lr=1e-6
        )

    @property
    def factor(self) -> float:
        """The current factor on the learning rate, 0 to 1."""
        rate: float = self._scheduler.optimizer.param_groups[0]["lr"]
        return rate / self._peak if self._peak else 1.0

    def end_epoch(self, loss: float) -> None:
        """Record an epoch's last loss."""
        self._scheduler.step(loss)

    def as_dict(self) -> dict[str, Any]:
        """The state as JSON values."""
        state = self._scheduler.state_dict()
        names = ("cooldown_counter", "num_bad_epochs", "last_epoch")
        best = float(state["best"])
        rate = self._scheduler.optimizer.param_groups[0]["lr"]
        known = {"best": best if math.isfinite(best) else None, "rate": rate}
        return known | {name: state[name] for name in names}

    def restore(self, state: Mapping[str, Any]) -> None:
        """The inverse of `as_dict`."""
        values = dict(state)
        self._scheduler.optimizer.param_groups[0]["lr"] = values.pop("rate")
        best = values.pop("best")
        self._scheduler.load_state_dict({**values, "best": math.inf if best is None else best})


def make_optimizer(
    model: nn.Module, options: OptimizerOptions, *, in_graphs: bool = False
) -> torch.optim.Optimizer:
    """Adam or AdamW with weight decay on matrices only, not on norms, biases and scales.

    With `in_graphs`, a CUDA graph may contain its step: the learning rate is then a tensor.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {
            "params": [p for p in trained if p.ndim > 1],
            "weight_decay": options.weight_decay,
        },
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    kind = torch.optim.AdamW if options.kind == "adamw" else torch.optim.Adam
    rate: float | Tensor = options.learning_rate
    if in_graphs:
        rate = torch.tensor(rate, device=trained[0].device)
    return kind(groups, lr=rate, betas=(0.9, options.beta2), fused=True, capturable=in_graphs)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of the next step."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


class Stepper(Protocol):
    """Accumulates gradients and updates the weights with them."""

    @property
    def scale(self) -> Tensor | None:
        """The loss scale of fp16 (a scalar); None for other precisions."""

    def backward(self, loss: Tensor) -> None:
        """Add a loss's gradients."""

    def step(self, broken: Tensor) -> Tensor:
        """Update the weights with the clipped gradients; returns the gradients' norm before clipping.

        The weights stay as they are if `broken` (bool) is set, that is if a loss is not finite, or if the
        norm is not finite; in fp16 the loss scale is lowered then.
        """

    def moments(self) -> dict[str, Tensor]:
        """The optimizer's full state as `<parameter>/<state>`; all ranks must call this together."""

    def load_moments(self, moments: Mapping[str, Tensor]) -> None:
        """The inverse of `moments`; parameters that are not named keep their state."""

    def scaler_state(self) -> dict[str, Any]:
        """The loss scale's state as JSON values; empty without one."""

    def load_scaler(self, state: Mapping[str, Any]) -> None:
        """The inverse of `scaler_state`."""


class LossScale:
    """The factor on fp16's losses, which keeps small gradients from vanishing.

    Halved by every step whose gradients overflow, doubled after `INTERVAL` steps without one: the constants
    of torch's GradScaler, and the state's names are its too.
    """

    START = 2.0**16
    GROWTH, BACKOFF, INTERVAL = 2.0, 0.5, 2000

    def __init__(self, device: torch.device) -> None:
        self.value = torch.full((), self.START, device=device)
        self._healthy = torch.zeros((), device=device, dtype=torch.int32)  # steps since a change

    def update(self, overflow: Tensor) -> None:
        """Adapt to a step; `overflow` (bool) is whether its gradients overflowed."""
        self._healthy += 1
        grown = self._healthy >= self.INTERVAL
        self.value *= torch.where(grown, self.GROWTH, 1.0).masked_fill(overflow, self.BACKOFF)
        self._healthy.masked_fill_(grown | overflow, 0)

    def state(self) -> dict[str, Any]:
        """The state as JSON values."""
        return {
            "scale": self.value.item(),
            "growth_factor": self.GROWTH,
            "backoff_factor": self.BACKOFF,
            "growth_interval": self.INTERVAL,
            "_growth_tracker": int(self._healthy.item()),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state`; the constants stay ours."""
        self.value.fill_(state["scale"])
        self._healthy.fill_(state["_growth_tracker"])


@dataclass(kw_only=True)
class TorchStepper:
    """Steps with torch: a single process, DDP or FSDP. Gradients are clipped to the norm `max_norm`.

    `optimizer` must be fused. After a step that failed for another reason than fp16's overflow, all later
    steps change nothing either, so that the failure can be read later.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    max_norm: float
    loss_scale: LossScale | None = None
    _failed: Tensor | None = None

    @property
    def scale(self) -> Tensor | None:
        """The loss scale of fp16; None for other precisions."""
        return None if self.loss_scale is None else self.loss_scale.value

    def backward(self, loss: Tensor) -> None:
        """Add a loss's gradients."""
        (loss if self.scale is None else loss * self.scale).backward()

    def step(self, broken: Tensor) -> Tensor:
        """Update the weights with the clipped gradients; returns the norm before clipping."""
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        norm = full_tensor(torch.nn.utils.get_total_norm(gradients))
        if self.scale is not None:
            norm = norm / self.scale
        overflow = ~norm.isfinite()
        failed = broken if self.scale is not None else broken | overflow
        # In place, as all that a step changes: a CUDA graph repeats it on the same tensors.
        self._failed = failed.clone() if self._failed is None else self._failed.logical_or_(failed)
        # As torch's clip_grad_norm_, which multiplies by the inverse.
        divisor = ((norm + 1e-6) / self.max_norm).clamp(min=1)
        optimizer: Any = self.optimizer
        optimizer.grad_scale = divisor if self.scale is None else divisor * self.scale
        optimizer.found_inf = (self._failed | overflow).float()
        optimizer.step()
        if self.loss_scale is not None:
            self.loss_scale.update(overflow)
        optimizer.zero_grad(set_to_none=True)
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
        return {} if self.loss_scale is None else self.loss_scale.state()

    def load_scaler(self, state: Mapping[str, Any]) -> None:
        """The inverse of `scaler_state`."""
        if self.loss_scale is not None:
            self.loss_scale.restore(state)


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

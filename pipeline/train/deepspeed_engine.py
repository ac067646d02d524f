"""Training with DeepSpeed: ZeRO shards the moments (stage 1), also the gradients (2), also the weights (3).

Checkpoints hold full, gathered weights and moments, so they are interchangeable with those of other runs.
As with DDP, bf16 is autocast over float32 weights. With fp16 the model holds fp16 weights with float32
copies, and DeepSpeed scales the losses. The package is imported only when it is chosen.
"""

from __future__ import annotations

import importlib
import logging
import math
import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.core.errors import ConfigError, DependencyError
from pipeline.train.config import TrainConfig
from pipeline.train.deepspeed_options import engine_options, zero_stage
from pipeline.train.optimizer import Stepper, TorchStepper
from pipeline.train.sharded_tensors import full_shape, sharded_by_zero, zero_shard

MOMENTS = ("exp_avg", "exp_avg_sq")
SCALER = ("cur_scale", "cur_iter", "last_overflow_iter", "cur_hysteresis")


def start_engine(
    model: nn.Module, optimizer: torch.optim.Optimizer, config: TrainConfig, device: torch.device
) -> Any:
    """DeepSpeed's engine around a full model on its device.

    Raises DependencyError if DeepSpeed can't be imported, ConfigError for options that it rejects.
    """
    if config.precision == "fp16" and not has_fp16(device):
        raise ConfigError(
            f"--precision fp16: DeepSpeed scales losses only on CUDA, and the device is {device.type}. Use "
            "bf16 or fp32, or --parallel ddp."
        )
    deepspeed = import_deepspeed(device)
    options = engine_options(config)
    try:
        engine, *_ = deepspeed.initialize(
            model=model, optimizer=optimizer, config=options, dist_init_required=False
        )
    except (AssertionError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"DeepSpeed rejects its options ({type(error).__name__}: {error}). "
            "Check --deepspeed-config."
        ) from error
    if config.precision == "fp16":
        # DeepSpeed itself would stop at 1. Below 1 our loop stops, and names the samples.
        engine.optimizer.loss_scaler.min_scale = 0.5
    if zero_stage(config):
        _begin_moments(engine.optimizer)
    return engine


def has_fp16(device: torch.device) -> bool:
    """Whether DeepSpeed supports fp16 on this device."""
    return device.type == "cuda"


def import_deepspeed(device: torch.device) -> Any:
    """Import the package, without its log noise and without compiling extensions for the CPU.

    Raises DependencyError if it is not installed.
    """
    # It would use any GPU that it finds, whatever --device says.
    os.environ.setdefault("DS_ACCELERATOR", device.type)
    try:
        package = importlib.import_module("deepspeed")
    except ImportError as error:
        raise DependencyError(
            f"--parallel deepspeed needs the package deepspeed, which can't be imported ({error}). "
            "Install it with: pip install 'dalle-pipeline[deepspeed]'."
        ) from error
    for handler in logging.getLogger("DeepSpeed").handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setStream(sys.stderr)  # the command's own output is on stdout
    # torch warns at every step about deprecated functions that DeepSpeed calls.
    warnings.filterwarnings("ignore", r"`torch\.distributed\.\w+` is deprecated", FutureWarning)
    if device.type == "cpu":
        # An all-reduce for inference: compiling it takes a minute, or fails.
        package.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return package


@dataclass(frozen=True, kw_only=True)
class EngineStepper:
    """Steps with DeepSpeed's ZeRO, stages 1 to 3."""

    engine: Any
    model: nn.Module

    @property
    def scale(self) -> float | None:
        """The loss scale of fp16; None for other precisions."""
        return self._scaler.cur_scale if self.engine.fp16_enabled() else None

    def backward(self, loss: Tensor) -> None:
        """Add a loss's gradients."""
        self.engine.backward(loss, scale_wrt_gas=False)

    def step(self) -> float:
        """Update the weights with the clipped gradients; returns the norm before clipping."""
        self.engine.step()
        return float(self.engine.get_global_grad_norm())

    def moments(self) -> dict[str, Tensor]:
        """The optimizer's full state as `<parameter>/<state>`."""
        from deepspeed.utils import safe_get_full_optimizer_state

        steps = next(state["step"] for _, state in _states(self.engine.optimizer))
        found: dict[str, Tensor] = {}
        for name, parameter in self._trained():
            for key in MOMENTS:
                found[f"{name}/{key}"] = safe_get_full_optimizer_state(parameter, key)
            found[f"{name}/step"] = steps.clone()
        return found

    def load_moments(self, moments: Mapping[str, Tensor]) -> None:
        """Load moments; all parameters get the same step count, because ZeRO keeps just one."""
        for name, parameter in self._trained():
            for key in MOMENTS:
                if f"{name}/{key}" in moments:
                    _put_moment(moments[f"{name}/{key}"], parameter, key)
        steps = next((value for name, value in moments.items() if name.endswith("/step")), None)
        if steps is not None:
            for _, state in _states(self.engine.optimizer):
                state["step"].copy_(steps)

    def scaler_state(self) -> dict[str, Any]:
        """The loss scale's state as JSON values; empty without one."""
        if not self.engine.fp16_enabled():
            return {}
        return {name: getattr(self._scaler, name) for name in SCALER if hasattr(self._scaler, name)}

    def load_scaler(self, state: Mapping[str, Any]) -> None:
        """The inverse of `scaler_state`."""
        for name in SCALER:
            if name in state and hasattr(self._scaler, name):
                setattr(self._scaler, name, state[name])

    @property
    def _scaler(self) -> Any:
        return self.engine.optimizer.loss_scaler

    def _trained(self) -> Iterator[tuple[str, nn.Parameter]]:
        return ((n, p) for n, p in self.model.named_parameters() if p.requires_grad)


@dataclass(frozen=True, kw_only=True)
class WholeEngineStepper(TorchStepper):
    """Steps with DeepSpeed without ZeRO (stage 0): torch's optimizer, unsharded moments."""

    engine: Any

    def backward(self, loss: Tensor) -> None:
        """Add a loss's gradients."""
        self.engine.backward(loss, scale_wrt_gas=False)

    def step(self) -> float:
        """Update the weights with the clipped gradients; returns the norm before clipping."""
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        norm = float(torch.nn.utils.get_total_norm(gradients))  # the engine reports none
        if math.isfinite(norm):
            self.engine.step()
        return norm


def make_engine_stepper(engine: Any, model: nn.Module) -> Stepper:
    """The stepper for an engine around `model`."""
    if engine.zero_optimization():
        return EngineStepper(engine=engine, model=model)
    return WholeEngineStepper(
        engine=engine,
        model=model,
        optimizer=engine.optimizer,
        scaler=torch.amp.GradScaler(enabled=False),
        max_norm=float("inf"),
    )


# --- Moments -----------------------------------------------------------------------------------------


def _states(optimizer: Any) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
    """This rank's flat vectors that ZeRO's optimizer updates, each with its Adam state."""
    vectors = getattr(optimizer, "fp32_partitioned_groups_flat", None)  # stage 3
    for vector in optimizer.single_partition_of_fp32_groups if vectors is None else vectors:
        yield vector, optimizer.optimizer.state[vector]


def _begin_moments(optimizer: Any) -> None:
    """Create the moments before the first step, so that they can be loaded and read.

    If Adam creates them in its first step, DeepSpeed 0.19 links only those of the first parameter group.
    """
    for vector, state in _states(optimizer):
        state["step"] = torch.zeros((), dtype=torch.float32, device=vector.device)
        for key in MOMENTS:
            state[key] = torch.zeros_like(vector)
    if hasattr(optimizer, "single_partition_of_fp32_groups"):
        optimizer._lazy_init_hp_params_optimizer_state()


def _put_moment(value: Tensor, parameter: nn.Parameter, key: str) -> None:
    from deepspeed.utils import safe_set_full_optimizer_state, safe_set_local_optimizer_state

    assert value.shape == full_shape(parameter)
    if sharded_by_zero(parameter):
        safe_set_local_optimizer_state(parameter, zero_shard(value, parameter), key)
    else:
        safe_set_full_optimizer_state(parameter, value.to(parameter.device, torch.float32), key)

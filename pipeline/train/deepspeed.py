"""Training with DeepSpeed: its configuration, and steps with its engine.

ZeRO shards the moments (stage 1), also the gradients (2), also the weights (3). Checkpoints hold full,
gathered weights and moments, so they are interchangeable with those of other runs. As with DDP, bf16 is
autocast over float32 weights. With fp16 the model holds fp16 weights with float32 copies, and DeepSpeed
scales the losses. The package is imported only when it is chosen.
"""

from __future__ import annotations

import importlib
import json
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

from pipeline.core.errors import ConfigError, ContractError
from pipeline.core.extras import missing_package
from pipeline.core.parsing import parse_json_file
from pipeline.core.remembered import flag_of
from pipeline.train.config import TrainConfig
from pipeline.train.distributed import full_shape, sharded_by_zero, zero_shard
from pipeline.train.optimizer import Stepper, TorchStepper

DEFAULT_STAGE = 1  # shards the moments, with no more communication than without ZeRO
# In elements. DeepSpeed's defaults, 0.05 to 1 billion, suit models of many billions of parameters: they
# take a 2 GB buffer to reduce gradients in, and would never release a model of a billion parameters.
BUFFERS = {
    "reduce_bucket_size": 2**24,
    "allgather_bucket_size": 2**24,
    "stage3_prefetch_bucket_size": 2**24,
    "stage3_max_live_parameters": 2**27,
    "stage3_max_reuse_distance": 2**27,
}
# Sections and keys of the JSON that would conflict with options.
RESERVED = {
    "optimizer": "--optimizer, --learning-rate and --weight-decay",
    "scheduler": "--lr-decay and --warmup-steps",
    "train_batch_size": "--batch-size, --ga-steps and the number of processes",
    "bfloat16": "--precision bf16",
    "amp": "--precision",
}


def check_engine(config: TrainConfig) -> None:
    """Raise ConfigError early for DeepSpeed options that can't be used."""
    if config.parallel.kind != "deepspeed":
        for name in ("zero_stage", "deepspeed_config"):
            if getattr(config.parallel, name) is not None:
                raise ConfigError(
                    f"{flag_of(name)} is for --parallel deepspeed. Give both, or leave it out."
                )
        return
    if config.parallel.compile in ("on", "graphs"):
        raise ConfigError(
            f"--compile {config.parallel.compile} can't be combined with --parallel deepspeed. Leave it out."
        )
    if config.parallel.precision == "fp16" and zero_stage(config) == 0:
        raise ConfigError(
            "--precision fp16 with DeepSpeed needs ZeRO: give --zero-stage 1, 2 or 3."
        )
    if config.parallel.precision == "fp16" and config.optimizer.ema_decay:
        raise ConfigError(
            "--ema-decay with DeepSpeed's fp16 would average fp16 weights. Use --precision bf16."
        )
    engine_options(config)


def zero_stage(config: TrainConfig) -> int:
    """The ZeRO stage: from the option, else from the JSON, else DEFAULT_STAGE."""
    if config.parallel.zero_stage is not None:
        return config.parallel.zero_stage
    stage = _section(_read(config), "zero_optimization").get("stage", DEFAULT_STAGE)
    return DEFAULT_STAGE if stage == "auto" else int(stage)


def engine_options(config: TrainConfig) -> dict[str, Any]:
    """The config dict for `deepspeed.initialize`.

    Raises ConfigError for a JSON file that can't be read or that contradicts the options.
    """
    given = _read(config)
    _refuse(given, config)
    options = {
        "steps_per_print": None,
        # Otherwise offloading to the CPU demands DeepSpeed's own Adam, which must be compiled.
        "zero_force_ds_cpu_optimizer": False,
        **given,
        "zero_optimization": {**BUFFERS, **_section(given, "zero_optimization")},
    }
    for path, (value, _) in _set_by_options(config).items():
        section, _, key = path.rpartition(".")
        if section:
            options[section] = {**_section(options, section), key: value}
        else:
            options[key] = value
    if config.parallel.precision == "bf16":  # gradients are summed in float32, as with DDP
        autocast = {"dtype": "bfloat16", "lower_precision_safe_modules": []}
        options["torch_autocast"] = {**autocast, **options["torch_autocast"]}
    return options


def _set_by_options(config: TrainConfig) -> Mapping[str, tuple[object, str]]:
    """JSON keys that options set: the value, and the option's name."""
    return {
        "train_micro_batch_size_per_gpu": (config.schedule.batch_size, "--batch-size"),
        "gradient_accumulation_steps": (config.schedule.ga_steps, "--ga-steps"),
        "gradient_clipping": (config.optimizer.clip_grad_norm, "--clip-grad-norm"),
        "zero_optimization.stage": (zero_stage(config), "--zero-stage"),
        "fp16.enabled": (config.parallel.precision == "fp16", "--precision"),
        "bf16.enabled": (False, "--precision bf16"),
        "torch_autocast.enabled": (config.parallel.precision == "bf16", "--precision"),
    }


def _refuse(given: Mapping[str, Any], config: TrainConfig) -> None:
    file = config.parallel.deepspeed_config
    for key, option in RESERVED.items():
        if key in given:
            raise ConfigError(f"{file}: `{key}` is set by {option}. Remove it from the file.")
    for path, (value, option) in _set_by_options(config).items():
        section, _, key = path.rpartition(".")
        found = (_section(given, section) if section else given).get(key, "auto")
        if found not in ("auto", value):
            raise ConfigError(
                f"{file}: `{path}` is {json.dumps(found)}, but {option} sets it to {json.dumps(value)}. "
                'Remove it from the file (or write "auto"), or change the option.'
            )
    zero = _section(given, "zero_optimization")
    for name in ("offload_optimizer", "offload_param"):
        if _section(zero, name).get("device") == "nvme":
            raise ConfigError(f"{file}: `{name}` to nvme is not supported. Use the device cpu.")


def _read(config: TrainConfig) -> dict[str, Any]:
    if config.parallel.deepspeed_config is None:
        return {}
    try:
        return parse_json_file(
            config.parallel.deepspeed_config, dict[str, Any], remedy="Give a JSON file."
        )
    except ContractError as error:
        raise ConfigError(f"--deepspeed-config: {error}") from error


def _section(given: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = given.get(name) or {}
    if not isinstance(section, Mapping):
        raise ConfigError(
            f"--deepspeed-config: `{name}` must be a JSON object, not {section!r}. Correct the file."
        )
    return section


MOMENTS = ("exp_avg", "exp_avg_sq")
SCALER = ("cur_scale", "cur_iter", "last_overflow_iter", "cur_hysteresis")


def start_engine(
    model: nn.Module, optimizer: torch.optim.Optimizer, config: TrainConfig, device: torch.device
) -> Any:
    """DeepSpeed's engine around a full model on its device.

    Raises DependencyError if DeepSpeed can't be imported, ConfigError for options that it rejects.
    """
    if config.parallel.precision == "fp16" and not has_fp16(device):
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
    if config.parallel.precision == "fp16":
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
        why = f"can't be imported ({error})"
        raise missing_package("--parallel deepspeed", "deepspeed", why) from error
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
    def scale(self) -> Tensor | None:
        """The loss scale of fp16; None for other precisions."""
        return torch.tensor(self._scaler.cur_scale) if self.engine.fp16_enabled() else None

    def backward(self, loss: Tensor) -> None:
        """Add a loss's gradients."""
        self.engine.backward(loss, scale_wrt_gas=False)

    def step(self, broken: Tensor) -> Tensor:
        """Update the weights with the clipped gradients; returns the norm before clipping."""
        if broken:
            return torch.tensor(math.nan)
        self.engine.step()
        return torch.tensor(float(self.engine.get_global_grad_norm()))

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


@dataclass(kw_only=True)
class WholeEngineStepper(TorchStepper):
    """Steps with DeepSpeed without ZeRO (stage 0): torch's optimizer, unsharded moments."""

    engine: Any

    def backward(self, loss: Tensor) -> None:
        """Add a loss's gradients."""
        self.engine.backward(loss, scale_wrt_gas=False)

    def step(self, broken: Tensor) -> Tensor:
        """Update the weights with the clipped gradients; returns the norm before clipping."""
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)  # the engine reports none
        if norm.isfinite() and not broken:
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
        max_norm=float("inf"),
    )


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

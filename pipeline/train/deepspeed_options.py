"""DeepSpeed's configuration: the user's JSON, completed from the options of `pipeline train`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pipeline.core.errors import ConfigError, ContractError
from pipeline.core.parsing import parse_json_file
from pipeline.train.config import TrainConfig

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
    if config.parallel != "deepspeed":
        for name in ("zero_stage", "deepspeed_config"):
            if getattr(config, name) is not None:
                raise ConfigError(
                    f"--{name.replace('_', '-')} is for --parallel deepspeed. Give both, or leave it out."
                )
        return
    if config.compile == "yes":
        raise ConfigError(
            "--compile yes can't be combined with --parallel deepspeed. Leave it out."
        )
    if config.precision == "fp16" and zero_stage(config) == 0:
        raise ConfigError(
            "--precision fp16 with DeepSpeed needs ZeRO: give --zero-stage 1, 2 or 3."
        )
    if config.precision == "fp16" and config.ema_decay:
        raise ConfigError(
            "--ema-decay with DeepSpeed's fp16 would average fp16 weights. Use --precision bf16."
        )
    engine_options(config)


def zero_stage(config: TrainConfig) -> int:
    """The ZeRO stage: from the option, else from the JSON, else DEFAULT_STAGE."""
    if config.zero_stage is not None:
        return config.zero_stage
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
    if config.precision == "bf16":  # gradients are summed in float32, as with DDP
        autocast = {"dtype": "bfloat16", "lower_precision_safe_modules": []}
        options["torch_autocast"] = {**autocast, **options["torch_autocast"]}
    return options


def _set_by_options(config: TrainConfig) -> Mapping[str, tuple[object, str]]:
    """JSON keys that options set: the value, and the option's name."""
    return {
        "train_micro_batch_size_per_gpu": (config.batch_size, "--batch-size"),
        "gradient_accumulation_steps": (config.ga_steps, "--ga-steps"),
        "gradient_clipping": (config.clip_grad_norm, "--clip-grad-norm"),
        "zero_optimization.stage": (zero_stage(config), "--zero-stage"),
        "fp16.enabled": (config.precision == "fp16", "--precision"),
        "bf16.enabled": (False, "--precision bf16"),
        "torch_autocast.enabled": (config.precision == "bf16", "--precision"),
    }


def _refuse(given: Mapping[str, Any], config: TrainConfig) -> None:
    file = config.deepspeed_config
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
    if config.deepspeed_config is None:
        return {}
    try:
        return parse_json_file(config.deepspeed_config, dict[str, Any], remedy="Give a JSON file.")
    except ContractError as error:
        raise ConfigError(f"--deepspeed-config: {error}") from error


def _section(given: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = given.get(name) or {}
    if not isinstance(section, Mapping):
        raise ConfigError(
            f"--deepspeed-config: `{name}` must be a JSON object, not {section!r}. Correct the file."
        )
    return section

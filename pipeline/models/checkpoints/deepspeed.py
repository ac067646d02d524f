"""Read the checkpoints that DeepSpeed wrote when it trained DALLE-pytorch's DALLE.

    dalle-ds-cp/
      latest                        the name of the last step's folder
      auxiliary.pt                  hyper-parameters; no weights
      pytorch_model.bin             consolidated weights, if zero_to_fp32.py was run (`consolidated.py`)
      global_step1200/
        mp_rank_00_model_states.pt  weights in training precision; without ZeRO also the optimizer
        zero_pp_rank_R_mp_rank_00_optim_states.pt   rank R's shard of float32 weights and moments

With ZeRO 1 and 2 each parameter group is one flat vector, split into equal shards; with ZeRO 3 each
parameter is split separately. Format: DeepSpeed 0.3 to 0.9, `zero/stage2.py`, `utils/zero_to_fp32.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.core.errors import ModelError
from pipeline.models.checkpoints.consolidated import find_consolidated, read_consolidated
from pipeline.models.checkpoints.dalle_pytorch import (
    DallePytorchCheckpoint,
    Moments,
    adam_moments,
    is_frozen,
    learning_rate,
    model_tensors,
    trainable_names,
)
from pipeline.models.description import Description
from pipeline.models.torch_files import check_regular, read_torch_file
from pipeline.models.weights import bare_name

LATEST = "latest"
AUXILIARY = "auxiliary.pt"
_ADVICE = "Copy the complete folder that DeepSpeed wrote."
_LONGEST_NAME = 1000  # bytes of `latest`
KEYS = ("exp_avg", "exp_avg_sq")
BY_GROUP, BY_PARAMETER = "single_partition_of_fp32_groups", "fp32_flat_groups"

Shapes = Mapping[str, torch.Size]
# Float32 weights, Adam's moments, the learning rate.
Merged = tuple[dict[str, Tensor], Mapping[str, Moments] | None, float | None]


def read_deepspeed(folder: Path) -> DallePytorchCheckpoint:
    """Read a folder with `latest`, a single step's folder, or one with consolidated weights.

    Raises ModelError for a folder that lacks a file or has an unknown layout.
    """
    consolidated = find_consolidated(folder)
    if consolidated is not None and not (folder / LATEST).exists():
        return with_auxiliary(read_consolidated(consolidated), consolidated)
    path = _model_file(_step_folder(folder))
    return read_states(read_torch_file(path), path)


def is_states(saved: Any) -> bool:
    """Whether `saved` was loaded from DeepSpeed's `mp_rank_00_model_states.pt`."""
    return isinstance(saved, Mapping) and isinstance(saved.get("module"), Mapping)


def with_auxiliary(weights: Mapping[str, Tensor], path: Path) -> DallePytorchCheckpoint:
    """The checkpoint of consolidated weights from `path`, with the `auxiliary.pt` beside it."""
    auxiliary = _auxiliary(path.parent)
    hparams = _hparams(auxiliary.get("hparams"), path)
    return DallePytorchCheckpoint(hparams=hparams, weights=weights, facts=auxiliary)


def read_states(states: Any, path: Path) -> DallePytorchCheckpoint:
    """The checkpoint whose `mp_rank_00_model_states.pt` at `path` holds `states`.

    Raises ModelError if it isn't one, or if the files that belong beside it are missing.
    """
    if not is_states(states):
        raise ModelError(f"{path} has no weights (`module`). {_ADVICE}")
    auxiliary = _auxiliary(path.parent)
    facts = {**auxiliary, **{k: states[k] for k in ("epoch", "version") if k in states}}
    weights = model_tensors(states["module"], path)
    try:
        masters, moments, rate = _optimizer(states, weights, path.parent)
    except (TypeError, ValueError, LookupError, AttributeError, RuntimeError) as error:
        raise ModelError(
            f"{path.parent} has an optimizer state with an unknown layout "
            f"({type(error).__name__}: {str(error)[:200]}). {_ADVICE}"
        ) from error
    if masters:  # they replace weights in half precision, or with ZeRO 3 empty ones
        weights = {name: t for name, t in weights.items() if is_frozen(name)} | masters
    if any(not tensor.numel() for name, tensor in weights.items() if not is_frozen(name)):
        raise ModelError(
            f"{path} has empty tensors: with ZeRO 3 the weights are in the zero_pp_rank_… files, which are "
            f"missing. {_ADVICE}"
        )
    return DallePytorchCheckpoint(
        hparams=_hparams(states.get("hparams") or auxiliary.get("hparams"), path),
        weights=weights,
        moments=moments,
        learning_rate=rate,
        facts=facts,
    )


def _hparams(found: Any, path: Path) -> Description:
    if found is None:
        raise ModelError(
            f"{path} has no hyper-parameters, and there is no {AUXILIARY} with them beside it or one level "
            f"up. Put the training's {AUXILIARY} there. {_ADVICE}"
        )
    return Description.of(found, path, "hparams", _ADVICE)


def _optimizer(states: Mapping[str, Any], weights: Mapping[str, Tensor], step: Path) -> Merged:
    shapes = _group_shapes(states.get("param_shapes"), weights)
    shares = [_load_shard(path) for path in _shard_files(step)]
    if shares:
        return _merge_shards(shares, shapes, step)
    return _whole_optimizer(states.get("optimizer"), shapes)


def _load_shard(path: Path) -> Mapping[str, Any]:
    saved = read_torch_file(path)
    share = saved.get("optimizer_state_dict") if isinstance(saved, Mapping) else None
    if not isinstance(share, Mapping):
        raise ModelError(f"{path} holds no optimizer_state_dict. {_ADVICE}")
    return share


def _step_folder(folder: Path) -> Path:
    latest = folder / LATEST
    if not latest.exists():
        return folder
    check_regular(latest)
    with latest.open("rb") as file:
        name = file.read(_LONGEST_NAME).decode("utf-8", errors="replace").strip().strip("\ufeff")
    if not re.fullmatch(r"\w[\w.-]{0,127}", name) or not (folder / name).is_dir():
        raise ModelError(f"{latest} names {name[:80]!r}, but there is no such folder. {_ADVICE}")
    return folder / name


def _model_file(step: Path) -> Path:
    found = sorted(step.glob("*mp_rank_00_model_states.pt"))
    if not found:
        raise ModelError(
            f"{step} holds no mp_rank_00_model_states.pt. Give a DeepSpeed folder: the one with the "
            f"file `{LATEST}`, or a single step's."
        )
    return found[0]


def _shard_files(step: Path) -> list[Path]:
    """ZeRO's shards, in rank order."""
    found = {
        int(match[1]): path
        for path in step.glob("*optim_states.pt")
        if (match := re.search(r"zero_pp_rank_(\d+)_mp_rank_00_?optim_states\.pt$", path.name))
    }
    missing = sorted(set(range(len(found))) - set(found))
    if missing:
        raise ModelError(f"{step} lacks the shard of rank {missing[0]}. {_ADVICE}")
    return [found[rank] for rank in sorted(found)]


def _auxiliary(step: Path) -> Mapping[str, Any]:
    for folder in (step, step.parent):
        if (folder / AUXILIARY).exists():
            saved = read_torch_file(folder / AUXILIARY)
            return saved if isinstance(saved, Mapping) else {}
    return {}


def _group_shapes(given: Any, weights: Mapping[str, Tensor]) -> list[Shapes]:
    """The parameters of each group, in their order in its flat vector."""
    if not given:
        return [{name: weights[name].shape for name in trainable_names(weights)}]
    groups = [given] if isinstance(given, Mapping) else list(given)
    return [
        {bare_name(name): torch.Size(shape) for name, shape in group.items()} for group in groups
    ]


# --- ZeRO ----------------------------------------------------------------------------------------


def _merge_shards(
    shares: Sequence[Mapping[str, Any]], shapes: Sequence[Shapes], step: Path
) -> Merged:
    count = shares[0].get("partition_count", len(shares))
    count = max(count) if isinstance(count, Sequence) else count
    if count != len(shares):
        raise ModelError(f"{step} holds {len(shares)} of {count} shards. {_ADVICE}")
    by_parameter = (
        BY_PARAMETER in shares[0]
    )  # the saved stage may be a number or a DeepSpeed object
    key = BY_PARAMETER if by_parameter else BY_GROUP
    if any(key not in share for share in shares):
        raise ModelError(
            f"{step} has ZeRO shards without {key}; expected stage 1 to 3 of DeepSpeed 0.3.16 or later. "
            "Convert it with the zero_to_fp32.py beside it."
        )
    merge = _merge_parameters if by_parameter else _merge_groups
    masters = merge([list(share[key]) for share in shares], shapes)
    states = [_group_states(share) for share in shares]
    vectors = {
        name: merge([[group[name] for group in share] for share in states], shapes) for name in KEYS
    }
    steps = states[0][0].get("step", 0)
    moments = {
        name: {**{key: vectors[key][name] for key in KEYS}, "step": steps} for name in masters
    }
    return masters, moments, _learning_rate(shares[0])


def _group_states(share: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Adam's state of each group: a separate list, or part of the optimizer's `state_dict`."""
    state = share.get("base_optimizer_state", share.get("optimizer_state_dict"))
    if isinstance(state, Mapping):
        return [state["state"][number] for number in sorted(state["state"])]
    return list(state or [])


def _merge_groups(
    shares: Sequence[Sequence[Tensor]], shapes: Sequence[Shapes]
) -> dict[str, Tensor]:
    """Parameters from flat group vectors of which each rank has a slice."""
    merged: dict[str, Tensor] = {}
    for group, group_shapes in enumerate(shapes):
        vector = torch.cat([share[group].flatten() for share in shares])
        merged |= dict(_cut(vector, group_shapes))
    return merged


def _merge_parameters(
    shares: Sequence[Sequence[Tensor]], shapes: Sequence[Shapes]
) -> dict[str, Tensor]:
    """Parameters of which each rank has a slice, concatenated in its own vector."""
    vectors = [torch.cat([part.flatten() for part in share]) for share in shares]
    merged, start = {}, 0
    for name, shape in (item for group in shapes for item in group.items()):
        size = -(-shape.numel() // len(shares))
        parts = [vector[start : start + size] for vector in vectors]
        merged[name] = torch.cat(parts)[: shape.numel()].view(shape)
        start += size
    return merged


def _cut(vector: Tensor, shapes: Shapes) -> Iterator[tuple[str, Tensor]]:
    start = 0
    for name, shape in shapes.items():
        yield name, vector[start : start + shape.numel()].view(shape)
        start += shape.numel()


# --- Without ZeRO --------------------------------------------------------------------------------


def _whole_optimizer(state: Any, shapes: Sequence[Shapes]) -> Merged:
    """Float32 weights and moments of an unsharded optimizer; flat vectors if it was fused fp16."""
    if not isinstance(state, Mapping):
        return {}, None, None
    flat = {name: shape for group in shapes for name, shape in group.items()}
    if "fp32_groups_flat" not in state:
        moments, rate = adam_moments(state.get("optimizer_state_dict", state), flat)
        unfused = (tensor for group in state.get("fp32_groups", []) for tensor in group)
        return dict(zip(flat, unfused, strict=False)), moments, rate
    masters = _merge_groups([state["fp32_groups_flat"]], shapes)
    groups = _group_states(state)
    if not groups:
        return masters, None, _learning_rate(state)
    vectors = {key: _merge_groups([[group[key] for group in groups]], shapes) for key in KEYS}
    moments = {
        name: {**{key: vectors[key][name] for key in KEYS}, "step": groups[0].get("step", 0)}
        for name in masters
    }
    return masters, moments, _learning_rate(state)


def _learning_rate(state: Mapping[str, Any]) -> float | None:
    optimizer = state.get("base_optimizer_state", state.get("optimizer_state_dict"))
    return learning_rate(optimizer.get("param_groups")) if isinstance(optimizer, Mapping) else None

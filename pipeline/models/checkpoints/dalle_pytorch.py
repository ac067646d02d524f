"""Read the files that DALLE-pytorch's `train_dalle.py` writes, without executing code from them.

A `dalle.pt` is a dict with `hparams`, `vae_params`, `weights` (since 0.9), `epoch`, `opt_state`,
`scheduler_state` (0.14), `version`, `vae_class_name` (1.1.6). Some hold the image codec as an object in
`hparams["vae"]`. Source: `save_model` in github.com/lucidrains/DALLE-pytorch, April 2021 to May 2023.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.core.errors import ModelError
from pipeline.models.checkpoints.dalle_pytorch_names import LAYOUT_LEAF
from pipeline.models.description import Description, plain
from pipeline.models.weights import strip_prefix, tensors_in

CODEC_PREFIX = "vae."
ADVICE = "Give a dalle.pt as train_dalle.py wrote it."
_ANCHOR = "to_logits.1.weight"
_BUFFERS = ("logits_mask", "pos_emb", "static_mask", LAYOUT_LEAF)

Moments = Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class DallePytorchCheckpoint:
    """The contents of such a file, under dalle-pytorch's names.

    `moments` holds `exp_avg`, `exp_avg_sq` and `step` for each parameter that Adam has updated.
    """

    hparams: Description
    weights: Mapping[str, Tensor]
    moments: Mapping[str, Moments] | None = None
    learning_rate: float | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)


def parse_dalle_pt(saved: Any, path: Path) -> DallePytorchCheckpoint:
    """The checkpoint in `saved`, which was loaded from a `dalle.pt` at `path`.

    Raises ModelError if it has no model, like the `auxiliary.pt` of a DeepSpeed folder.
    """
    values = saved if isinstance(saved, Mapping) else {}
    hparams, weights = values.get("hparams"), values.get("weights")
    if isinstance(weights, str):
        raise ModelError(
            f"{path} holds no weights: they are in the DeepSpeed folder {path.parent}. Give that."
        )
    if hparams is None or not isinstance(weights, Mapping):
        raise ModelError(
            f"{path} is not a checkpoint of DALLE-pytorch: it lacks `hparams` or `weights`. {ADVICE}"
        )
    tensors = model_tensors(weights, path)
    shapes = {name: tensors[name].shape for name in trainable_names(tensors)}
    moments, rate = adam_moments(values.get("opt_state"), shapes)
    return DallePytorchCheckpoint(
        hparams=Description.of(hparams, path, "hparams", ADVICE),
        weights=tensors,
        moments=moments,
        learning_rate=rate,
        facts=values,
    )


def model_tensors(weights: Any, path: Path) -> dict[str, Tensor]:
    """A model's tensors under the names of `DALLE`, without the prefixes of any wrapper."""
    return strip_prefix(tensors_in(weights, str(path)), _ANCHOR, str(path))


def is_frozen(name: str) -> bool:
    """Whether a tensor belongs to the image codec or is a buffer."""
    return name.startswith(CODEC_PREFIX) or name.endswith(_BUFFERS)


def trainable_names(weights: Mapping[str, Tensor]) -> list[str]:
    """The trained parameters, each once, in the order in which the optimizer got them."""
    seen, names = set(), []
    for name, tensor in weights.items():
        if is_frozen(name):
            continue
        place = (tensor.untyped_storage().data_ptr(), tensor.storage_offset(), tensor.shape)
        if place not in seen or tensor.numel() == 0:
            names.append(name)
        seen.add(place)
    return names


def adam_moments(
    state: Any, shapes: Mapping[str, torch.Size]
) -> tuple[Mapping[str, Moments] | None, float | None]:
    """The moments in an optimizer's `state_dict` by parameter, and its learning rate.

    `shapes` are the parameters' shapes in the order in which the optimizer got them. Either result is None
    if it is missing; the moments also if they don't match these parameters in this order.
    """
    if not isinstance(state, Mapping) or not is_list(state.get("param_groups"), Mapping):
        return None, None
    groups, states = state["param_groups"], state.get("state")
    numbers = [number for group in groups for number in group.get("params") or ()]
    rate = learning_rate(groups)
    if len(numbers) != len(shapes) or not isinstance(states, Mapping) or not states:
        return None, rate
    moments = {
        name: states[number]
        for name, number in zip(shapes, numbers, strict=True)
        if number in states
    }
    fits = all(_are_moments(found, shapes[name]) for name, found in moments.items())
    return moments if fits else None, rate


def learning_rate(groups: Any) -> float | None:
    """The learning rate of an optimizer's first parameter group; None if it has none."""
    rate = groups[0].get("lr") if is_list(groups, Mapping) else None
    return float(rate) if isinstance(rate, (int, float)) else None


def is_list(value: Any, kind: type) -> bool:
    """Whether `value` is a non-empty list of `kind`."""
    is_sequence = isinstance(value, Sequence) and not isinstance(value, (str, bytes))
    return is_sequence and bool(value) and all(isinstance(item, kind) for item in value)


def _are_moments(found: Any, shape: torch.Size) -> bool:
    """Whether a parameter's optimizer state is Adam's."""
    if not isinstance(found, Mapping) or not isinstance(plain(found.get("step")), (int, float)):
        return False
    vectors = [found.get(key) for key in ("exp_avg", "exp_avg_sq")]
    return all(isinstance(vector, Tensor) and vector.shape == shape for vector in vectors)

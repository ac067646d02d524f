"""Read the files that DALLE-pytorch's `train_dalle.py` writes, without running what they hold. Floor 3.

A `dalle.pt` is a dict: `hparams`, `vae_params`, `weights` (0.9), `epoch`, `opt_state`, `scheduler_state`
(0.14), `version`, `vae_class_name` (1.1.6). Some carry the image codec as an object in `hparams["vae"]`.
The format's source: github.com/lucidrains/DALLE-pytorch, `save_model`, from April 2021 to May 2023.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.errors import ModelError
from pipeline.models.checkpoints.stock_names import LAYOUT_LEAF
from pipeline.models.codecs.torch_files import read_torch_file

CODEC_PREFIX = "vae."
# Objects that may lie in such files and of which nothing is used; none of their code is loaded.
HUSKS = (
    "dalle_pytorch.",
    "taming.",
    "dall_e.",
    "omegaconf.",
    "pytorch_lightning.",
    "lightning.",
    "deepspeed.",
    "apex.",
    "argparse.Namespace",
    "functools.partial",
    "torch.nn.modules.",
    "torch.nn.functional.",
    "pathlib.PosixPath",
)
_ZIP_BEGINS = b"PK\x03\x04"
_BUFFERS = ("logits_mask", "pos_emb", "static_mask", LAYOUT_LEAF)

Moments = Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class StockCheckpoint:
    """What such a file says, under its own names.

    `moments` holds `exp_avg`, `exp_avg_sq` and `step` of each parameter that Adam has changed.
    """

    hparams: Mapping[str, Any]
    weights: Mapping[str, Tensor]
    moments: Mapping[str, Moments] | None = None
    learning_rate: float | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)


def read_pickle(path: Path) -> Any:
    """What `torch.save` put into `path`.

    Raises ModelError for a file that is missing, cut short, or asks for anything but tensors.
    """
    try:
        with path.open("rb") as file:
            begins = file.read(len(_ZIP_BEGINS))
    except OSError as error:
        raise ModelError(f"{path} can't be read ({error}). Give a checkpoint.") from error
    if begins == _ZIP_BEGINS and not zipfile.is_zipfile(path):
        raise ModelError(f"{path} is cut short: the end of its archive is missing. Copy it again.")
    return read_torch_file(path, husks=HUSKS)


def read_dalle_pt(path: Path) -> StockCheckpoint:
    """Read one `dalle.pt`.

    Raises ModelError for a file that holds no model, as the `auxiliary.pt` of a DeepSpeed folder.
    """
    saved = read_pickle(path)
    hparams, weights = (
        saved.get(name) if isinstance(saved, Mapping) else None for name in ("hparams", "weights")
    )
    if isinstance(weights, str):
        raise ModelError(
            f"{path} holds no weights: they lie in the DeepSpeed folder {path.parent}. Give that."
        )
    if not isinstance(hparams, Mapping) or not isinstance(weights, Mapping):
        raise ModelError(
            f"{path} is no checkpoint of DALLE-pytorch: it has no `hparams` and `weights`."
        )
    shapes = {name: weights[name].shape for name in trainable_names(weights)}
    moments, rate = adam_moments(saved.get("opt_state"), shapes)
    return StockCheckpoint(
        hparams=hparams, weights=weights, moments=moments, learning_rate=rate, facts=saved
    )


def is_frozen(name: str) -> bool:
    """Whether a tensor is the image codec's or a buffer."""
    return name.startswith(CODEC_PREFIX) or name.endswith(_BUFFERS)


def trainable_names(weights: Mapping[str, Tensor]) -> list[str]:
    """The parameters in the order in which an optimizer was given them: each once, no codec's."""
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

    `shapes` are those of the parameters, in the order in which the optimizer was given them. None where
    there is none or it is of others, or of these in another order.
    """
    if not isinstance(state, Mapping) or not state.get("param_groups"):
        return None, None
    groups = state["param_groups"]
    numbers = [number for group in groups for number in group["params"]]
    rate = groups[0].get("lr")
    if len(numbers) != len(shapes) or not state.get("state"):
        return None, rate
    moments = {
        name: state["state"][number]
        for name, number in zip(shapes, numbers, strict=True)
        if number in state["state"]
    }
    fits = all(shapes[name] == states["exp_avg"].shape for name, states in moments.items())
    return moments if fits else None, rate

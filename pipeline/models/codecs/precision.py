"""How precisely a codec encodes. Floor 3."""

from __future__ import annotations

import os
from typing import Literal, cast

import torch

from pipeline.core.errors import ConfigError
from pipeline.models.codecs.base import Codec

Precision = Literal["fp32", "tf32", "bf16"]


def pick_precision(name: str, device: torch.device) -> Precision:
    """The precision `name`, `fp32`, `tf32` or `bf16`; `auto` is bf16 on CUDA and fp32 elsewhere.

    Raises ConfigError for one that the device does not have.
    """
    if name == "auto":
        return "bf16" if device.type == "cuda" else "fp32"
    if name == "tf32" and device.type != "cuda":
        raise ConfigError("--precision tf32: only CUDA devices have it. Use fp32 or bf16.")
    return cast("Precision", name)


def use_precision(codec: Codec, precision: Precision) -> None:
    """Let the trunk of a codec compute in `precision` from now on; its weights are rounded to bf16.

    Whether float32 may mean TF32 is a switch of all of torch.
    """
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    codec.trunk.to(torch.bfloat16 if precision == "bf16" else torch.float32)


def use_huge_pages() -> None:
    """Let torch ask for huge pages for large tensors on the CPU, unless the user says otherwise.

    A VQGAN's layers are 33 MB for a picture and freed at once; with pages of 4 kB, a fifth of the time
    of an encoder went into getting them anew. Heeded if it comes before torch's first tensor.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

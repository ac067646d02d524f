"""The precision that a codec encodes in."""

from __future__ import annotations

import os
from typing import Literal, cast

import torch

from pipeline.core.errors import ConfigError
from pipeline.models.codecs.base import Codec

Precision = Literal["fp32", "tf32", "bf16"]


def pick_precision(name: str, device: torch.device) -> Precision:
    """Resolve `name` (`fp32`, `tf32`, `bf16` or `auto`); `auto` is bf16 on CUDA and fp32 elsewhere.

    Raises ConfigError if the device does not support it.
    """
    if name == "auto":
        return "bf16" if device.type == "cuda" else "fp32"
    if name == "tf32" and device.type != "cuda":
        raise ConfigError("--precision tf32 is supported only on CUDA. Use fp32 or bf16.")
    return cast("Precision", name)


def use_precision(codec: Codec, precision: Precision) -> None:
    """Make a codec's trunk compute in `precision`; bf16 rounds its weights in place.

    Whether float32 may use TF32 is a global switch of torch.
    """
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    codec.trunk.to(torch.bfloat16 if precision == "bf16" else torch.float32)


def decode_in_bf16(codec: Codec) -> None:
    """Make a codec's `decoder`, if it has one, compute in bf16; its weights are rounded in place."""
    decoder = getattr(codec, "decoder", None)
    if decoder is not None:
        decoder.to(torch.bfloat16)


def use_huge_pages() -> None:
    """Have torch use huge pages for large tensors on the CPU, unless the user has set otherwise.

    A VQGAN's layers take 33 MB per image and are freed at once; with 4 kB pages, allocating them again took
    a fifth of the encoder's time. Effective only before torch's first tensor.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

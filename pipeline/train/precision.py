"""The precision that a run computes in.

Weights, their gradients, and Adam's moments are float32; bf16 and fp16 are autocast over them. What stays
float32 on CUDA may use TF32.
"""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager
from typing import Literal, cast

import torch

logger = logging.getLogger(__name__)

Precision = Literal["fp32", "bf16", "fp16"]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def pick_precision(name: str, device: torch.device) -> Precision:
    """Resolve `name`; `auto` is bf16 on a CUDA device that has it, and fp32 elsewhere."""
    if name != "auto":
        return cast("Precision", name)
    if device.type != "cuda":
        return "fp32"
    if torch.cuda.is_bf16_supported(including_emulation=False):
        return "bf16"
    logger.warning("The GPU has no bf16: training in fp32. --precision fp16 is faster.")
    return "fp32"


def allow_tf32(device: torch.device) -> None:
    """Let float32 products on CUDA use TF32: a global switch of torch."""
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.allow_tf32 = True


def autocast(precision: str, device: torch.device) -> AbstractContextManager[None]:
    """A context whose products are computed in `precision`."""
    name = pick_precision(precision, device)
    return torch.autocast(device.type, DTYPES[name], enabled=name != "fp32")

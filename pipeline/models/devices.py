"""Choosing the device, and its limits: memory, and results that depend on the batch size."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pipeline.core.errors import ConfigError

# Matrix products with fewer rows use other routines, whose sums differ in the last bits. From 4 to 300 rows
# each row's result was bit-identical (fp32, AVX-512; in bf16 always).
MIN_ROWS = 4


def pick_device(name: str) -> torch.device:
    """The device `name`, `cpu` or `cuda`; `auto` is CUDA if available.

    Raises ConfigError if CUDA is requested but not available.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda: torch finds no CUDA device. Use --device cpu or auto.")
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(name)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that a device or the CPU ran out of memory."""
    return (
        isinstance(error, torch.OutOfMemoryError | MemoryError)
        or "can't allocate memory" in str(error)  # the CPU allocator's RuntimeError
    )


def fill_rows(items: Sequence[int]) -> list[int]:
    """Pad `items` to `MIN_ROWS` by repeating the last one, so that small batches compute the same bits."""
    return [*items, *[items[-1]] * (MIN_ROWS - len(items))]

"""Which device computes, and what it can't help. Floor 3."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pipeline.core.errors import ConfigError

# Matrix products of fewer rows go through other routines, whose sums differ in the last bits: from 4
# rows on, 1 to 300 rows gave the same bits each (fp32, AVX-512; bf16 always).
MIN_ROWS = 4


def pick_device(name: str) -> torch.device:
    """The device `name`, `cpu` or `cuda`; `auto` is CUDA where there is any.

    Raises ConfigError where it is asked for and not there.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "--device cuda: torch sees no CUDA device here. Use --device cpu or auto."
        )
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(name)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device, or the CPU's allocator, had no room."""
    return (
        isinstance(error, torch.OutOfMemoryError | MemoryError)
        or "can't allocate memory" in str(error)  # what the CPU's allocator says in a RuntimeError
    )


def fill_rows(items: Sequence[int]) -> list[int]:
    """At least `MIN_ROWS` items, the last one repeated: so few give the same numbers as many."""
    return [*items, *[items[-1]] * (MIN_ROWS - len(items))]

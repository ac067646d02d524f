"""When memory runs out: the batch size that would fit."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable

import torch

from pipeline.core.errors import ModelError
from pipeline.models.devices import is_out_of_memory

# Of <malloc.h>: blocks of more bytes are mapped by themselves, and more free bytes at the end given back.
M_MMAP_THRESHOLD, M_TRIM_THRESHOLD = -3, -1
LARGEST = 2**31 - 1


def keep_freed_memory() -> None:
    """Let the C library keep what is freed for the next step, where it can be told to (glibc).

    Otherwise it gives large blocks back to the system, which clears them again at every step: of a step of
    the blog's model in bf16 on two cores, 185,000 page faults and 0.4 of 3.4 s; afterwards 8 and 0.05 s.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:  # musl has none
        mallopt(M_MMAP_THRESHOLD, LARGEST)
        mallopt(M_TRIM_THRESHOLD, LARGEST)


def out_of_memory(
    error: RuntimeError, try_samples: Callable[[int], None], *, batch_size: int, ga_steps: int
) -> ModelError:
    """The sentence for a batch that doesn't fit, after trying smaller ones.

    `try_samples(n)` runs forward and backward of n samples, and raises as `error` does if they don't fit.
    """
    fitting = largest_that_fits(try_samples, batch_size)
    found = f"Out of memory with --batch-size {batch_size}"
    if fitting is None:
        return ModelError(
            f"{found}, and a single sample does not fit either ({error}). Take a smaller model, "
            "--reversible, --precision bf16, or --parallel fsdp on several devices."
        )
    more = -(-batch_size * ga_steps // fitting)
    return ModelError(
        f"{found}; {fitting} would fit. Give --batch-size {fitting}, with --ga-steps {more} for steps "
        "of about as many samples. The last checkpoint is safe."
    )


def out_of_memory_of_ranks(
    error: RuntimeError, *, batch_size: int, ga_steps: int, ranks: int
) -> ModelError:
    """The sentence for one of several processes: nothing is tried, as the others would have to try too."""
    found = f"Out of memory in one of {ranks} processes with --batch-size {batch_size} ({error})"
    if batch_size == 1:
        return ModelError(
            f"{found}, and there is no smaller one. Take a smaller model, --reversible, "
            "--precision bf16, or --parallel fsdp on more devices. The last checkpoint is safe."
        )
    half = batch_size // 2
    more = -(-batch_size * ga_steps // half)
    return ModelError(
        f"{found}. Try half: --batch-size {half}, with --ga-steps {more} for steps of about as many "
        "samples. The last checkpoint is safe."
    )


def largest_that_fits(try_samples: Callable[[int], None], batch_size: int) -> int | None:
    """The largest n below `batch_size` for which `try_samples(n)` has room, by bisection."""
    fits, fails = 0, batch_size
    while fails - fits > 1:
        middle = (fits + fails) // 2
        try:
            try_samples(middle)
            fits = middle
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            fails = middle
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    return fits or None

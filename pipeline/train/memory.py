"""When memory runs out: the batch size that would fit."""

from __future__ import annotations

from collections.abc import Callable

import torch

from pipeline.errors import ModelError
from pipeline.models.devices import is_out_of_memory


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

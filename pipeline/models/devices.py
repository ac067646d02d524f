"""Choosing the device; its memory, its speed, and results that depend on the batch size."""

from __future__ import annotations

import ctypes
import functools
import resource
import sys
import time
from collections.abc import Callable, Sequence

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


def reason_of(error: BaseException) -> str:
    """The first line of an error's message; of a compiler's error that of the one behind it."""
    error = getattr(error, "inner_exception", error)
    return str(error).strip().splitlines()[0] if str(error).strip() else repr(error)


def fill_rows(items: Sequence[int]) -> list[int]:
    """Pad `items` to `MIN_ROWS` by repeating the last one, so that small batches compute the same bits."""
    return [*items, *[items[-1]] * (MIN_ROWS - len(items))]


def peak_bytes(device: torch.device) -> int:
    """Peak memory: of the GPU, or of this process on a CPU."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    unit = 1024 if sys.platform == "linux" else 1
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


@functools.cache
def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """FLOPs per second of large square matrix products: the best of several, measured once."""
    side, repeats = (8192, 10) if device.type == "cuda" else (1024, 5)
    a, b = (torch.randn(side, side, device=device, dtype=torch.float32).to(dtype) for _ in range(2))
    best = float("inf")
    for _ in range(repeats):
        _wait_for(device)
        began = time.perf_counter()
        a @ b
        _wait_for(device)
        best = min(best, time.perf_counter() - began)
    return 2.0 * side**3 / best


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


# From <malloc.h>: the block size above which malloc uses mmap, and the free bytes at the heap's top above
# which it returns memory to the system.
M_MMAP_THRESHOLD, M_TRIM_THRESHOLD = -3, -1
LARGEST = 2**31 - 1


def keep_freed_memory() -> None:
    """Have glibc's malloc keep freed memory for the next step.

    By default it returns large blocks to the system, which zeroes them again at every step. Measured on a
    step of 3.4 s (the blog's model, bf16, two cores): 185,000 page faults taking 0.4 s; with this call, 8
    page faults and 0.05 s.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:  # musl has none
        mallopt(M_MMAP_THRESHOLD, LARGEST)
        mallopt(M_TRIM_THRESHOLD, LARGEST)


def largest_that_fits(try_samples: Callable[[int], None], batch_size: int) -> int | None:
    """The largest n below `batch_size` for which `try_samples(n)` fits in memory, by bisection."""
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

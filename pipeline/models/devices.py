"""Choosing the device; its memory, its speed, and results that depend on the batch size."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import logging
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence

import torch

from pipeline.core.errors import ConfigError, ModelError
from pipeline.core.estimate import memory_so_far

logger = logging.getLogger(__name__)

# Matrix products with fewer rows use other routines, whose sums differ in the last bits. From 4 to 300 rows
# each row's result was bit-identical (fp32, AVX-512; in bf16 always).
MIN_ROWS = 4
# Below this share of free memory, others use a GPU: torch and the driver themselves take less than 1 GB.
SHARE_FREE = 0.9
_MEASURED_S = 0.5


def pick_device(name: str) -> torch.device:
    """The device `name`, `cpu` or `cuda`; `auto` is CUDA if available.

    Raises ConfigError if CUDA is requested but can't be used. If `auto` does not use a GPU because of its
    driver, a warning says so.
    """
    if name == "cpu":
        return torch.device("cpu")
    fault = cuda_fault()
    if fault is None:
        return torch.device("cuda")
    if name == "cuda":
        raise ConfigError(f"--device cuda: {fault} Use --device cpu or auto.")
    if "driver" in fault:
        logger.warning("Using the CPU: %s", fault)
    return torch.device("cpu")


def cuda_fault() -> str | None:
    """Why CUDA can't be used, in a sentence; None if it can.

    torch says in a warning why it leaves out a device that is there, such as a driver that is too old.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if torch.cuda.is_available():
            return None
    if torch.version.cuda is None:
        return "this build of torch has no CUDA."
    said = [str(each.message).partition("(Triggered")[0].strip() for each in caught]
    return said[-1] if said else "torch finds no CUDA device."


def claim_gpu(device: torch.device) -> None:
    """Use a GPU for the first time; warns if other processes use its memory.

    Raises ConfigError if it can't be used, because another process has it to itself, for example.
    """
    if device.type != "cuda":
        return
    try:
        free, total = torch.cuda.mem_get_info(device)
    except RuntimeError as error:
        raise ConfigError(
            f"The GPU can't be used ({reason_of(error)}). See with nvidia-smi what uses it, or give "
            "--device cpu."
        ) from error
    if free < SHARE_FREE * total:
        logger.warning(
            "Other processes use %.1f of the GPU's %.1f GB; nvidia-smi lists them",
            (total - free) / 1e9,
            total / 1e9,
        )


def is_gpu_failure(error: BaseException) -> bool:
    """Whether an error means that a GPU, or the link between several, failed; it can't be used again."""
    failure = getattr(torch, "AcceleratorError", None)  # torch 2.8
    is_failure = failure is not None and isinstance(error, failure)
    text = str(error)
    return is_failure or (
        isinstance(error, RuntimeError) and ("CUDA error" in text or "NCCL" in text)
    )


@contextlib.contextmanager
def gpu_failures(kept: str, when: Callable[[], str] = str) -> Iterator[None]:
    """Inside, the failure of a GPU becomes a ModelError; `kept` says what the same command resumes from.

    `when` is called after a failure, for what the message says of its time.
    """
    try:
        yield
    except RuntimeError as error:
        if not is_gpu_failure(error):
            raise
        raise ModelError(
            f"The GPU failed{when()} ({reason_of(error)}). {kept}: the same command resumes from there, "
            "once the GPU works again (nvidia-smi, dmesg)."
        ) from error


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


@contextlib.contextmanager
def keep_thread_count() -> Iterator[None]:
    """Restore torch's number of threads at the end: the process's sums depend on it in their last bits."""
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def fill_rows(items: Sequence[int]) -> list[int]:
    """Pad `items` to `MIN_ROWS` by repeating the last one, so that small batches compute the same bits."""
    return [*items, *[items[-1]] * (MIN_ROWS - len(items))]


def count_parameters(module: torch.nn.Module) -> int:
    """The numbers in the parameters of a module."""
    return sum(parameter.numel() for parameter in module.parameters())


def peak_bytes(device: torch.device) -> int:
    """Peak memory: of the GPU, or of this process on a CPU."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return memory_so_far()


@functools.cache
def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """FLOPs per second of large square matrix products: the best of several, measured once.

    Takes at most `_MEASURED_S` and one product more; the random numbers are its own.
    """
    side, repeats = (8192, 10) if device.type == "cuda" else (1024, 5)
    own = torch.Generator(device).manual_seed(0)
    a, b = (torch.randn(side, side, device=device, generator=own).to(dtype) for _ in range(2))
    times: list[float] = []
    while len(times) < repeats and sum(times) < _MEASURED_S:
        wait_for(device)
        began = time.perf_counter()
        a @ b
        wait_for(device)
        times.append(time.perf_counter() - began)
    return 2.0 * side**3 / min(times)


def wait_for(device: torch.device) -> None:
    """Wait until a GPU has done all of its work."""
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

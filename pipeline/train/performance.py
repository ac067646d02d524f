"""Training speed and memory: tokens per second, peak memory, MFU on a GPU, and out-of-memory errors.

FLOPs are the model's, not the implementation's: a product of m×k and k×n counts 2·m·k·n, attention counts
as causal and full, recomputation counts nothing, and backward counts twice forward. A sample of T + N
positions costs 3 · (Σ layers (T + N) · (8·D·H·K + 24·D²) + 2·H·K·(T + N)² + 2·D·(T·Vt + N·Vi)), where
24·D² are the GEGLU's two products of width 4·D, and each position counts only the logits of its vocabulary.

MFU (model FLOPs utilization) is relative to the measured rate of plain matrix products. It is shown only on
a GPU, which the process has to itself; CPU cores are shared with other processes, including those of the
same run.

Legend: T text positions, N codes, D model width, H heads, K width of a head, Vt, Vi vocabularies.
"""

from __future__ import annotations

import ctypes
import functools
import resource
import sys
import time
from collections import deque
from collections.abc import Callable

import torch

from pipeline.core.errors import ModelError
from pipeline.models.dalle.config import DalleConfig
from pipeline.models.devices import is_out_of_memory

WINDOW = 20  # the speed is the median over this many steps
MEASURE_MFU_AFTER_S = 5.0  # measuring the device takes a moment, which short runs can do without
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Meter:
    """Times the steps and computes their speed."""

    def __init__(
        self, model: DalleConfig, *, samples: int, size: int, precision: str, device: torch.device
    ) -> None:
        """`samples` is the number per step over all `size` ranks."""
        self._tokens = samples * model.total_seq_len
        self._flops = samples * training_flops(model) / size
        self._precision, self._device = precision, device
        self._seconds: deque[float] = deque(maxlen=WINDOW)
        self._born = self._began = time.monotonic()

    def begin_step(self) -> None:
        """Mark the start of a step."""
        self._began = time.monotonic()

    def end_step(self) -> None:
        """Mark the end of a step; the device must have finished its work."""
        self._seconds.append(time.monotonic() - self._began)

    def values(self) -> dict[str, float]:
        """tokens_per_s, memory_gb, and mfu on a GPU once training has run for some seconds."""
        seconds = sorted(self._seconds)[len(self._seconds) // 2]
        values = {
            "tokens_per_s": self._tokens / seconds,
            "memory_gb": peak_bytes(self._device) / 1e9,
        }
        alone = self._device.type == "cuda"
        if alone and time.monotonic() - self._born > MEASURE_MFU_AFTER_S:
            rate = matmul_rate(self._device, DTYPES[self._precision])
            values["mfu"] = self._flops / seconds / rate
        return values

    def notes(self) -> dict[str, str]:
        """The same values, formatted for the progress line."""
        values = self.values()
        notes = {
            "tokens/s": f"{values['tokens_per_s']:,.0f}",
            "memory": f"{values['memory_gb']:.1f} GB",
        }
        return notes | ({"MFU": f"{values['mfu']:.0%}"} if "mfu" in values else {})


def training_flops(model: DalleConfig) -> float:
    """FLOPs of one sample's forward and backward pass, by the formula above."""
    length, inner, dim = model.total_seq_len, model.heads * model.dim_head, model.dim
    layer = length * (8 * dim * inner + 24 * dim**2) + 2 * inner * length**2
    logits = 2 * dim * model.text_seq_len * model.total_text_tokens
    logits += 2 * dim * model.image_seq_len * model.num_image_tokens
    return 3.0 * (model.depth * layer + logits)


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


def out_of_memory(
    error: RuntimeError, try_samples: Callable[[int], None], *, batch_size: int, ga_steps: int
) -> ModelError:
    """The error for a batch that doesn't fit, naming a batch size that does.

    `try_samples(n)` runs forward and backward on n samples, and raises like `error` if they don't fit.
    """
    fitting = largest_that_fits(try_samples, batch_size)
    found = f"Out of memory with --batch-size {batch_size}"
    if fitting is None:
        return ModelError(
            f"{found}, and a single sample does not fit either ({error}). Use a smaller model, "
            "--reversible, --precision bf16, or --parallel fsdp on several devices."
        )
    more = -(-batch_size * ga_steps // fitting)
    return ModelError(
        f"{found}; {fitting} would fit. Use --batch-size {fitting}, with --ga-steps {more} for about as "
        "many samples per step. The last checkpoint is safe."
    )


def out_of_memory_of_ranks(
    error: RuntimeError, *, batch_size: int, ga_steps: int, ranks: int
) -> ModelError:
    """The same for one of several ranks. No smaller size is tried: all ranks would have to take part."""
    found = f"Out of memory in one of {ranks} processes with --batch-size {batch_size} ({error})"
    if batch_size == 1:
        return ModelError(
            f"{found}, and there is no smaller one. Use a smaller model, --reversible, "
            "--precision bf16, or --parallel fsdp on more devices. The last checkpoint is safe."
        )
    half = batch_size // 2
    more = -(-batch_size * ga_steps // half)
    return ModelError(
        f"{found}. Try half: --batch-size {half}, with --ga-steps {more} for about as many samples per "
        "step. The last checkpoint is safe."
    )


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

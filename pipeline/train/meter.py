"""How fast training goes: tokens a second, memory, and on a GPU the share of its speed (MFU).

FLOPs are those of the model, not of the code: a matrix product of m×k and k×n counts 2·m·k·n, attention
counts as causal and full, recomputation counts nothing, and backward counts twice forward. A sample of
T + N positions thus costs 3 · (Σ layers (T + N) · (8·D·H·K + 24·D²) + 2·H·K·(T + N)² + 2·D·(T·Vt + N·Vi)),
where 24·D² are the GEGLU's two products of 4·D, and each position has the logits that it can have.

MFU compares with the products that the device makes in a second when it makes nothing else. Only a GPU, which
a process has to itself, can be measured so: the cores of processors are shared with other processes, those
of the same run among them, so that no MFU is shown there.

Legend: T text positions, N codes, D model width, H heads, K width of a head, Vt, Vi vocabularies.
"""

from __future__ import annotations

import functools
import resource
import sys
import time
from collections import deque

import torch

from pipeline.models.dalle.config import DalleConfig

WINDOW = 20  # steps that the speed is the median of
MEASURE_MFU_AFTER_S = 5.0  # what ends sooner needs none, and measuring the device takes a moment
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Meter:
    """Told when steps begin and end; says how fast they are."""

    def __init__(
        self, model: DalleConfig, *, samples: int, size: int, precision: str, device: torch.device
    ) -> None:
        """`samples` is how many all of `size` ranks together use in a step."""
        self._tokens = samples * model.total_seq_len
        self._flops = samples * training_flops(model) / size
        self._precision, self._device = precision, device
        self._seconds: deque[float] = deque(maxlen=WINDOW)
        self._born = self._began = time.monotonic()

    def begin_step(self) -> None:
        """A step begins."""
        self._began = time.monotonic()

    def end_step(self) -> None:
        """It has ended, and the device has done its work."""
        self._seconds.append(time.monotonic() - self._began)

    def values(self) -> dict[str, float]:
        """tokens_per_s, memory_gb and, on a GPU once training has lasted some seconds, mfu."""
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
        """The same for the progress line."""
        values = self.values()
        notes = {
            "tokens/s": f"{values['tokens_per_s']:,.0f}",
            "memory": f"{values['memory_gb']:.1f} GB",
        }
        return notes | ({"MFU": f"{values['mfu']:.0%}"} if "mfu" in values else {})


def training_flops(model: DalleConfig) -> float:
    """FLOPs of forward and backward of one sample, by the formula above."""
    length, inner, dim = model.total_seq_len, model.heads * model.dim_head, model.dim
    layer = length * (8 * dim * inner + 24 * dim**2) + 2 * inner * length**2
    logits = 2 * dim * model.text_seq_len * model.total_text_tokens
    logits += 2 * dim * model.image_seq_len * model.num_image_tokens
    return 3.0 * (model.depth * layer + logits)


def peak_bytes(device: torch.device) -> int:
    """The most memory that was in use: of the device, or of this process on a CPU."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    unit = 1024 if sys.platform == "linux" else 1
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


@functools.cache
def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """FLOPs a second of large square matrix products here: the best of some, measured once."""
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

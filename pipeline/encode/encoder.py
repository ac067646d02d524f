"""Encode pixels to codes on a device, in batches that fit in its memory.

Legend: B images of a batch, H = W pixels, C = 3 colours, N codes of an image.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.core.errors import ModelError
from pipeline.models.codecs.base import Codec
from pipeline.models.codecs.pixels import Pixels, to_images
from pipeline.models.devices import is_gpu_failure, is_out_of_memory, reason_of

log = logging.getLogger(__name__)

_LAYERS_AT_ONCE = 6  # widest layers held in memory at the same time
# One image of a VQGAN at 256 pixels; more at once are no faster on a CPU, and take more memory.
_CPU_NUMBERS = 1 << 23
_CPU_MOST, _CUDA_MOST = 64, 256
_WORTH_COMPILING = 5000  # images: a CUDA device encodes as many in the minute that compiling takes


class Encoder:
    """Encodes `batch_size` images at once; halves the batch size when the device runs out of memory.

    On CUDA, and if compiled, smaller batches are filled up: a graph is compiled for one shape.
    """

    def __init__(self, codec: Codec, batch_size: int) -> None:
        self.codec = codec
        self.batch_size = batch_size
        self.device = codec.device
        self._compiled = False

    def compile(self, backend: str | Callable = "inductor") -> None:
        """Compile the trunk at its first call; if that fails, it runs uncompiled."""
        self.codec.trunk.compile(dynamic=False, backend=backend)
        self._compiled = True

    def encode(self, pixels_BHWC: Pixels) -> Tensor:
        """Encode uint8 [B, H, W, 3] to codes int64 [B, N] on the device.

        Raises ModelError if not even one image fits in memory.
        """
        codes = [torch.empty((0, self.codec.num_codes), dtype=torch.int64, device=self.device)]
        start = 0
        while start < len(pixels_BHWC):
            part_BHWC = pixels_BHWC[start : start + self.batch_size]
            found_BN = self._try(part_BHWC)
            if (
                found_BN is None
            ):  # not in the except clause, which would keep the batch's memory alive
                self._halve_batch()
                continue
            codes.append(found_BN)
            start += len(part_BHWC)
        return torch.cat(codes)

    def _try(self, pixels_BHWC: Pixels) -> Tensor | None:
        """The codes; None if memory ran out. After a failed compilation it retries without."""
        try:
            images_BCHW = to_images(self._filled(pixels_BHWC), self.device)
            return self.codec.encode(images_BCHW)[: len(pixels_BHWC)]
        except Exception as error:
            if is_out_of_memory(error):
                return None
            if not self._compiled or is_gpu_failure(error):
                raise
            log.warning(
                "The encoder can't be compiled (%s): running it uncompiled.", reason_of(error)
            )
        self.codec.trunk._compiled_call_impl = None
        self._compiled = False
        return self._try(pixels_BHWC)

    def _filled(self, pixels_BHWC: Pixels) -> Pixels:
        missing = self.batch_size - len(pixels_BHWC)
        if missing <= 0 or not (self._compiled or self.device.type == "cuda"):
            return pixels_BHWC
        return np.concatenate((pixels_BHWC, np.zeros((missing, *pixels_BHWC.shape[1:]), np.uint8)))

    def _halve_batch(self) -> None:
        if self.batch_size == 1:
            raise ModelError(
                f"The device {self.device} does not have the memory to encode one image of "
                f"{self.codec.image_size} pixels. Free some memory, or use --device cpu, --precision bf16 or "
                "a smaller --image-size."
            )
        half = self.batch_size // 2
        log.warning(
            "The device %s does not have the memory for %d images at once: continuing with %d.",
            self.device,
            self.batch_size,
            half,
        )
        self.batch_size = half
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


class Fetched:
    """Codes on their way from a device; they are copied as soon as they are computed.

    `.cpu()` later would wait for the batch that was started in between.
    """

    def __init__(self, codes_BN: Tensor) -> None:
        self._codes_BN = codes_BN
        self._event: torch.cuda.Event | None = None
        if codes_BN.device.type == "cuda":
            self._codes_BN = torch.empty(codes_BN.shape, dtype=codes_BN.dtype, pin_memory=True)
            self._codes_BN.copy_(codes_BN, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record()

    def wait(self) -> npt.NDArray[np.int64]:
        """The codes int64 [B, N]."""
        if self._event is not None:
            self._event.synchronize()
        return self._codes_BN.numpy()


def pick_batch_size(wanted: str, codec: Codec) -> int:
    """The number `wanted`, or for `auto` an estimate of how many images fit on the device."""
    if wanted != "auto":
        return int(wanted)
    if codec.device.type != "cuda":
        return min(_CPU_MOST, max(1, _CPU_NUMBERS // codec.widest_layer))
    free_bytes, _ = torch.cuda.mem_get_info(codec.device)
    number_bytes = next(codec.trunk.parameters(), torch.empty(0)).element_size()
    image_bytes = _LAYERS_AT_ONCE * number_bytes * codec.widest_layer
    return min(_CUDA_MOST, max(1, free_bytes // image_bytes))


def should_compile(wanted: str, images: int, device: torch.device) -> bool:
    """Whether to compile the encoder: if asked to, or with `auto` on CUDA for many images."""
    if wanted == "auto":
        return device.type == "cuda" and images >= _WORTH_COMPILING
    return wanted == "on"

"""A codec at work: pixels → codes on a device, in batches that have room there.

Legend: B images of a batch, H = W pixels, C = 3 colours, N codes of an image.
"""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from pipeline.core.errors import ModelError
from pipeline.models.codecs.base import Codec
from pipeline.models.codecs.pixels import Pixels, to_images
from pipeline.models.devices import is_out_of_memory

log = logging.getLogger(__name__)

_LAYERS_AT_ONCE = 6  # of the widest ones, that lie in memory together
# One picture of a VQGAN at 256 pixels; more of them are no faster on a CPU, and take their memory.
_CPU_NUMBERS = 1 << 23
_CPU_MOST, _CUDA_MOST = 64, 256
_WORTH_COMPILING = 5000  # images: what a minute of compiling takes on a CUDA device


class Encoder:
    """Encodes with `codec`, `batch_size` images at once; fewer from when the device had no room."""

    def __init__(self, codec: Codec, batch_size: int) -> None:
        self.codec = codec
        self.batch_size = batch_size
        self.device = codec.device
        self._compiled = False

    def compile(self) -> None:
        """Compile the trunk at its first call; where that fails, it runs as it is."""
        self.codec.trunk.compile(dynamic=False)
        self._compiled = True

    def encode(self, pixels_BHWC: Pixels) -> Tensor:
        """Codes int64 [B, N] on the device of uint8 [B, H, W, 3].

        Raises ModelError where there is no room even for one image.
        """
        codes = [torch.empty((0, self.codec.num_codes), dtype=torch.int64, device=self.device)]
        start = 0
        while start < len(pixels_BHWC):
            part_BHWC = pixels_BHWC[start : start + self.batch_size]
            found_BN = self._try(part_BHWC)
            if (
                found_BN is None
            ):  # outside of the except clause, which would hold the batch's memory
                self._make_room()
                continue
            codes.append(found_BN)
            start += len(part_BHWC)
        return torch.cat(codes)

    def _try(self, pixels_BHWC: Pixels) -> Tensor | None:
        """The codes, or None where something has to be changed first."""
        try:
            return self.codec.encode(to_images(pixels_BHWC, self.device))
        except Exception as error:
            if is_out_of_memory(error):
                return None
            if not self._compiled:
                raise
            reason = str(error).splitlines()[0] if str(error) else repr(error)
            log.warning("The encoder can't be compiled (%s): it runs uncompiled.", reason)
        self.codec.trunk._compiled_call_impl = None
        self._compiled = False
        return self._try(pixels_BHWC)

    def _make_room(self) -> None:
        if self.batch_size == 1:
            raise ModelError(
                f"The device {self.device} has no room to encode one image of {self.codec.image_size} "
                "pixels. Free its memory, or give --device cpu, --precision bf16 or a smaller "
                "--image-size."
            )
        half = self.batch_size // 2
        log.warning(
            "The device %s has no room for %d images at once: going on with %d.",
            self.device,
            self.batch_size,
            half,
        )
        self.batch_size = half
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def pick_batch_size(wanted: str, codec: Codec) -> int:
    """The number `wanted`, or for `auto` as many images as the device should have room for."""
    if wanted != "auto":
        return int(wanted)
    if codec.device.type != "cuda":
        return min(_CPU_MOST, max(1, _CPU_NUMBERS // codec.widest_layer))
    free_bytes, _ = torch.cuda.mem_get_info(codec.device)
    number_bytes = next(codec.trunk.parameters(), torch.empty(0)).element_size()
    image_bytes = _LAYERS_AT_ONCE * number_bytes * codec.widest_layer
    return min(_CUDA_MOST, max(1, free_bytes // image_bytes))


def pays_to_compile(wanted: str, images: int, device: torch.device) -> bool:
    """Whether to compile the encoder: if told so, or on CUDA for many images."""
    if wanted == "auto":
        return device.type == "cuda" and images >= _WORTH_COMPILING
    return wanted == "on"

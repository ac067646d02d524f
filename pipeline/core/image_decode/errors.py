"""Decoding errors, and the type of a raster."""

from __future__ import annotations

import re

import numpy as np
import numpy.typing as npt

from pipeline.core.errors import PipelineError

Pixels = npt.NDArray[np.uint8]


class DecodeError(PipelineError):
    """A file that has no raster; the message says why. In a stage it becomes a row."""


class TooLargeError(DecodeError):
    """A file whose header announces more pixels than the limit."""

    def __init__(self, width: int, height: int, max_pixels: int) -> None:
        super().__init__(f"{width}×{height} is more than {max_pixels} pixels: not decoded")
        self.width, self.height = width, height


class MissingDecoderError(DecodeError):
    """A file of a format whose decoder is not installed; with it, the same bytes may have a raster."""


def check_size(width: int, height: int, max_pixels: int | None) -> None:
    """Raise DecodeError for an image without pixels, TooLargeError for more than `max_pixels`."""
    if width < 1 or height < 1:
        raise DecodeError(f"an image of {width}×{height} pixels")
    if max_pixels is not None and width * height > max_pixels:
        raise TooLargeError(width, height, max_pixels)


def tidy(error: Exception) -> str:
    """An error's message without parts that change from run to run."""
    text = re.sub(r"<[^>]* at 0x[0-9a-f]+>", "the file", str(error))
    return f"{type(error).__name__}: {text}" if text else type(error).__name__

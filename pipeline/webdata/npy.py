"""Fast `.npy` members: the header is computed once for a whole dataset.

Format: NEP 1, version 1.0, https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
"""

from __future__ import annotations

import functools
import io
import math
from typing import Literal

import numpy as np

Dtype = Literal["<u2", "<i4"]


@functools.lru_cache(maxsize=64)
def npy_header(dtype: str, *shape: int) -> bytes:
    """The bytes before the data of an array [*shape] of a little-endian `dtype` such as `<u2`."""
    file = io.BytesIO()
    np.save(file, np.zeros(shape, dtype=dtype), allow_pickle=False)
    return file.getvalue()[: -math.prod(shape) * np.dtype(dtype).itemsize]


def smallest_dtype(values: int) -> Dtype:
    """The dtype for ids 0..values-1: `<u2` up to 65,536 of them, else `<i4`."""
    return "<u2" if values <= 1 << 16 else "<i4"

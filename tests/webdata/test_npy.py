"""Arrays in shards: their bytes are numpy's, their dtype is the smallest that holds all ids."""

from __future__ import annotations

import io

import numpy as np
import pytest

from pipeline.webdata.npy import npy_header, smallest_dtype
from tests.helpers.webdata import encode_npy


@pytest.mark.parametrize(
    ("values", "dtype"),
    [(1, "<u2"), (65_535, "<u2"), (65_536, "<u2"), (65_537, "<i4"), (1 << 24, "<i4")],
)
def test_the_dtype_holds_the_last_id_and_is_the_smallest(values: int, dtype: str) -> None:
    found = smallest_dtype(values)
    assert found == dtype
    assert np.array([values - 1]).astype(found)[0] == values - 1


@pytest.mark.parametrize("dtype", ["<u2", "<i4"])
@pytest.mark.parametrize("shape", [(1,), (1024,), (2, 3), (10, 1024)])
def test_the_bytes_are_those_that_numpy_writes(dtype: str, shape: tuple[int, ...]) -> None:
    array = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    file = io.BytesIO()
    np.save(file, array)
    assert encode_npy(array) == file.getvalue()
    assert file.getvalue().startswith(npy_header(dtype, *shape))

"""The sizes of the chunks that losses are computed in."""

from __future__ import annotations

import pytest

from pipeline.models.dalle import losses


@pytest.mark.parametrize(
    ("rows", "most", "multiple", "size"),
    [
        (100, 1000, 1, 10),
        (95, 1000, 1, 10),  # 10 chunks, of at most 10
        (100, 10**6, 1, 100),
        (100, 10**6, 8, 104),
        (100, 3200, 8, 32),  # 32 at most fit: 4 chunks of 25, rounded up
        (100, 3000, 8, 24),  # 30 at most fit, which is no multiple
        (100, 300, 8, 3),  # fewer than 8 fit
        (0, 1000, 8, 8),
    ],
)
def test_chunks_are_few_and_of_whole_multiples(
    rows: int, most: int, multiple: int, size: int
) -> None:
    found = losses._chunk_size(rows, 100, most=most, multiple=multiple)
    assert found == size
    assert found * 100 <= most or rows < found


@pytest.mark.parametrize(
    ("gigabytes", "most"), [(139, 2**30), (20, 20 * 2**23), (1, 10 * 2**20), (80, 80 * 2**23)]
)
def test_a_chunk_takes_a_share_of_a_gpus_memory(gigabytes: int, most: int) -> None:
    assert losses.most_cuda_logits(gigabytes * 2**30) == most

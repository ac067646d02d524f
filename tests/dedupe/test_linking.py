"""Connected components, and the memory that finding them takes."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from pipeline.dedupe import linking
from pipeline.dedupe.linking import link, new_groups


@pytest.mark.parametrize("links_at_once", [1, 7, 10_000])
def test_groups_do_not_depend_on_the_number_of_links_per_block(
    links_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linking, "LINKS", links_at_once)
    pairs = np.random.default_rng(0).integers(0, 300, (200, 2), dtype=np.int32)
    expected = list(range(300))
    for one, other in pairs.tolist() * 300:  # as long as any chain
        expected[one] = expected[other] = min(expected[one], expected[other])
    assert link(new_groups(300), pairs[:, 0], pairs[:, 1]).tolist() == expected


def test_many_links_take_no_more_memory_than_a_block() -> None:
    pairs = np.random.default_rng(0).integers(0, 1000, (4_000_000, 2), dtype=np.int32)
    tracemalloc.start()
    try:
        link(new_groups(1000), pairs[:, 0], pairs[:, 1])
        assert tracemalloc.get_traced_memory()[1] < 64 * 2**20
    finally:
        tracemalloc.stop()

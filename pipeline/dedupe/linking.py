"""Connected components with union–find on arrays, many links at once."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Positions = npt.NDArray[np.int64]

# Links processed at once; each takes about 60 bytes meanwhile.
LINKS = 2**19


def new_groups(count: int) -> Positions:
    """`count` groups of one."""
    return np.arange(count, dtype=np.int64)


def link(
    parent: Positions, first: npt.NDArray[np.integer], second: npt.NDArray[np.integer]
) -> Positions:
    """Join the groups of each `first[i]` and `second[i]`; a group is named by its smallest position.

    `parent` and the result hold the name of the group for every position.
    """
    for start in range(0, len(first), LINKS):
        parent = _link(parent, first[start : start + LINKS], second[start : start + LINKS])
    return parent


def _link(
    parent: Positions, first: npt.NDArray[np.integer], second: npt.NDArray[np.integer]
) -> Positions:
    while True:
        one, other = parent[first], parent[second]
        apart = one != other
        if not apart.any():
            return parent
        first, second = first[apart], second[apart]
        low, high = np.minimum(one[apart], other[apart]), np.maximum(one[apart], other[apart])
        np.minimum.at(parent, high, low)
        parent = roots(parent)


def roots(parent: Positions) -> Positions:
    """Point every position directly at the head of its group."""
    while True:
        above = parent[parent]
        if np.array_equal(above, parent):
            return parent
        parent = above

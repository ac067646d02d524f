"""Groups of what is linked: union–find on arrays, many links at once."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Positions = npt.NDArray[np.int64]

# Links that are looked at together: some 60 bytes each meanwhile.
_LINKS = 2**19


def new_groups(count: int) -> Positions:
    """`count` groups of one."""
    return np.arange(count, dtype=np.int64)


def link(
    parent: Positions, first: npt.NDArray[np.integer], second: npt.NDArray[np.integer]
) -> Positions:
    """Join the groups of each `first[i]` and `second[i]`; the smallest position names a group.

    `parent` holds for every position the name of its group, and so does what is returned.
    """
    for start in range(0, len(first), _LINKS):
        parent = _link(parent, first[start : start + _LINKS], second[start : start + _LINKS])
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
    """Let every position name the head of its group directly."""
    while True:
        above = parent[parent]
        if np.array_equal(above, parent):
            return parent
        parent = above

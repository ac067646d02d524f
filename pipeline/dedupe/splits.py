"""Assign every caption to train or val, so that look-alikes are never in both.

Each caption draws by its own hash: val for a share of `val_fraction`, train otherwise. Two captions are
**linked** if an image of one is within the radius of an image of the other, directly or through further
images. A caption goes to val only if it and every caption linked to it drew val; otherwise all of them go to
train. So no caption, no near-duplicate cluster and no pair within the radius is in both splits.

When data is added, links are only ever gained. A caption in train therefore stays in train forever (nothing
trained on is ever validated on), and a caption in val stays there unless a new image links it to one in
train. Captions without links keep their draw. The cost: the share of val is a little below `val_fraction`. In
return, one large group of look-alikes can't take over the split.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.dedupe.linking import link, new_groups

Numbers = npt.NDArray[np.uint64]


def draw_val(captions: Numbers, val_fraction: float) -> npt.NDArray[np.bool_]:
    """Whether each caption, by the 64-bit number of its id, draws val."""
    if val_fraction >= 1:
        return np.ones(len(captions), dtype=np.bool_)
    result: npt.NDArray[np.bool_] = captions < np.uint64(int(val_fraction * 2**64))
    return result


def split_captions(
    numbers: Numbers, links: npt.NDArray[np.integer], *, val_fraction: float
) -> npt.NDArray[np.bool_]:
    """Whether each caption is in val, given the 64-bit numbers of their ids.

    `links` [links, 2] are indices of captions that have look-alike images.
    """
    joined = link(new_groups(len(numbers)), links[:, 0], links[:, 1])
    trains = np.zeros(len(numbers), dtype=np.bool_)
    trains[joined[~draw_val(numbers, val_fraction)]] = True
    return ~trains[joined]

"""Train or val, for every caption, so that nothing alike stands on both sides.

Each caption draws by its own hash: val for a share of `val_fraction`, train else. Captions are
**linked** when an image of one is within the radius of an image of the other (directly, or through
further images). A caption goes to val only if it and every caption linked to it drew val; otherwise
all of them train. So no caption, no near-duplicate cluster and no pair within the radius stands on
both sides.

What stays when data is added: links are only ever gained, so a caption in train stays in train for
ever (what was trained on is never validated on), and a caption in val stays there unless a new image
links it to one that trains. Captions without links keep their draw. The price is that the share of
val is a little below `val_fraction`; one large group of look-alikes can't swallow it, though.
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

    `links` [links, 2] are indices of captions of which images are alike.
    """
    joined = link(new_groups(len(numbers)), links[:, 0], links[:, 1])
    trains = np.zeros(len(numbers), dtype=np.bool_)
    trains[joined[~draw_val(numbers, val_fraction)]] = True
    return ~trains[joined]

"""Statistics of near-duplicate clusters: those within one caption, and those across captions.

The 32 samples of one caption and the frames of a rotating head are expected to look alike; look-alikes
with different captions are the ones worth a person's attention.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.dedupe.column_file import POSITION, Positions32
from pipeline.dedupe.rows import KEPT_CODE, Rows

_LARGEST = 20


@dataclass(frozen=True, kw_only=True)
class ClusterStats:
    """Clusters of at least two images, counted before any image is dropped.

    `largest` has (index of the leader, images, captions) for each of the largest clusters.
    """

    clusters_within_captions: int
    images_within_captions: int
    clusters_across_captions: int
    images_across_captions: int
    largest: tuple[tuple[int, int, int], ...]


def summarize_clusters(rows: Rows, cluster: Positions32, caption: Positions32) -> ClusterStats:
    """Count the clusters among the rows that are not rejected so far.

    `cluster` holds the index of each row's leader, `caption` the number of its caption.
    """
    members = _find_members(rows, cluster)
    leaders, number, images = np.unique(cluster[members], return_inverse=True, return_counts=True)
    captions = _count_captions(caption[members], number, len(leaders))
    across = captions > 1
    order = np.lexsort((leaders, -images))[:_LARGEST]
    return ClusterStats(
        clusters_within_captions=int((~across).sum()),
        images_within_captions=int(images[~across].sum()),
        clusters_across_captions=int(across.sum()),
        images_across_captions=int(images[across].sum()),
        largest=tuple((int(leaders[n]), int(images[n]), int(captions[n])) for n in order),
    )


def _find_members(rows: Rows, cluster: Positions32) -> Positions32:
    """The rows in clusters of at least two."""
    follows = np.flatnonzero(cluster != np.arange(len(cluster), dtype=POSITION))
    kept = follows[rows.reason[follows] == KEPT_CODE]
    members: Positions32 = np.union1d(kept, cluster[kept])
    return members


def _count_captions(
    captions: Positions32, number: npt.NDArray[np.int64], clusters: int
) -> npt.NDArray[np.int64]:
    """The number of different captions in each cluster."""
    order = np.lexsort((captions, number))
    captions, number = captions[order], number[order]
    new = np.ones(len(order), dtype=np.bool_)
    new[1:] = (captions[1:] != captions[:-1]) | (number[1:] != number[:-1])
    return np.bincount(number[new], minlength=clusters)

"""What is said of near duplicates: clusters within one caption and across captions, apart.

The 32 samples of one caption and the frames of a rotating head are alike by nature; look-alikes of
different captions are the ones that a person wants to see.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.dedupe.column_file import POSITION, Places
from pipeline.dedupe.rows import KEPT_CODE, Rows

_LARGEST = 20


@dataclass(frozen=True, kw_only=True)
class AlikeFacts:
    """Clusters of two images or more, counted before any is dropped.

    `largest` are (index of the leader, images, captions) of the largest clusters.
    """

    clusters_within_captions: int
    images_within_captions: int
    clusters_across_captions: int
    images_across_captions: int
    largest: tuple[tuple[int, int, int], ...]


def summarize_clusters(rows: Rows, cluster: Places, caption: Places) -> AlikeFacts:
    """Count the clusters of the rows that nothing speaks against so far.

    `cluster` is the index of each row's leader, `caption` the number of its caption.
    """
    members = _find_members(rows, cluster)
    leaders, number, images = np.unique(cluster[members], return_inverse=True, return_counts=True)
    captions = _count_captions(caption[members], number, len(leaders))
    across = captions > 1
    order = np.lexsort((leaders, -images))[:_LARGEST]
    return AlikeFacts(
        clusters_within_captions=int((~across).sum()),
        images_within_captions=int(images[~across].sum()),
        clusters_across_captions=int(across.sum()),
        images_across_captions=int(images[across].sum()),
        largest=tuple((int(leaders[n]), int(images[n]), int(captions[n])) for n in order),
    )


def _find_members(rows: Rows, cluster: Places) -> Places:
    """The rows of clusters of two and more."""
    follows = np.flatnonzero(cluster != np.arange(len(cluster), dtype=POSITION))
    kept = follows[rows.reason[follows] == KEPT_CODE]
    members: Places = np.union1d(kept, cluster[kept])
    return members


def _count_captions(
    captions: Places, number: npt.NDArray[np.int64], clusters: int
) -> npt.NDArray[np.int64]:
    """The different captions of each cluster."""
    order = np.lexsort((captions, number))
    captions, number = captions[order], number[order]
    new = np.ones(len(order), dtype=np.bool_)
    new[1:] = (captions[1:] != captions[:-1]) | (number[1:] != number[:-1])
    return np.bincount(number[new], minlength=clusters)

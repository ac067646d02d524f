"""Latencies as the ledger keeps them: counts in steps of √2, a few numbers however many the requests. Pure.

A latency is the time from writing a request until the head of its response is complete. Step n holds those
from 2^(n/2) to 2^((n+1)/2) milliseconds; step -20 also holds everything shorter, and step 43 everything
longer, all from 49 minutes.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping

_FIRST, _LAST = -20, 43
_STARTS_S = tuple(2 ** (step / 2) / 1000 for step in range(_FIRST + 1, _LAST + 1))


def step_of(latency_s: float) -> int:
    """The step of a latency. Called for each request of a crawl: a search is cheaper than a logarithm."""
    return bisect_right(_STARTS_S, latency_s) + _FIRST


def quantile_ms(counts: Mapping[int, int], share: float) -> float:
    """The geometric middle of the step that holds the quantile `share` (by nearest rank, 0 to 1).

    `counts` are by step, at least one. The true quantile is within 19 % of it: a factor of 2^(1/4).
    """
    rank = max(1, math.ceil(share * sum(counts.values())))
    for step in sorted(counts):
        rank -= counts[step]
        if rank <= 0:
            break
    return float(2 ** ((step + 0.5) / 2))

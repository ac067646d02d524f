"""Latencies as the ledger keeps them: counts in steps of √2, few whatever the number of requests. Pure.

A latency is the time from writing a request until the head of its response is complete. Step n holds those
from 2^(n/2) to 2^((n+1)/2) milliseconds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

_SHORTEST_MS = 1e-3


def step_of(latency_s: float) -> int:
    """The step of a latency; 1 µs or less is the first one, -20."""
    return math.floor(2 * math.log2(max(latency_s * 1000, _SHORTEST_MS)))


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

"""Latencies in steps of √2: a quantile is the middle of the step that holds the true one."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from pipeline.core.latencies import quantile_ms, step_of


@pytest.mark.parametrize(
    ("latency_s", "step"),
    [
        (0.001, 0),
        (0.00141, 0),
        (0.00142, 1),
        (0.002, 2),
        (0.1, 13),
        (3.0, 23),
        (0.0, -20),
        (1e5, 43),
    ],
)
def test_a_step_holds_latencies_up_to_a_factor_of_root_two(latency_s: float, step: int) -> None:
    assert step_of(latency_s) == step


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.95, 1.0])
@pytest.mark.parametrize("number", [1, 2, 19, 20, 21, 1000])
def test_a_quantile_is_within_a_fourth_root_of_two_of_the_true_one(
    number: int, share: float
) -> None:
    latencies_s = np.random.default_rng(number).lognormal(-2, 2, number)
    counts = Counter(map(step_of, latencies_s.tolist()))
    true_ms = 1000 * np.quantile(latencies_s, share, method="inverted_cdf")
    assert 2**-0.25 <= quantile_ms(counts, share) / true_ms <= 2**0.25


def test_a_quantile_is_by_nearest_rank() -> None:
    assert quantile_ms({0: 95, 10: 5}, 0.95) == quantile_ms({0: 1}, 0.5)
    assert quantile_ms({0: 94, 10: 6}, 0.95) == quantile_ms({10: 1}, 0.5)

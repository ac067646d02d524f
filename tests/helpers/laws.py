"""How laws are tested: over examples that hypothesis makes up, the same ones at every run."""

from __future__ import annotations

from hypothesis import HealthCheck, settings


def lawful(examples: int = 60) -> settings:
    """Settings of a law: always the same examples, and no limit of time that a busy machine would break."""
    return settings(
        derandomize=True,
        deadline=None,
        database=None,
        max_examples=examples,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )

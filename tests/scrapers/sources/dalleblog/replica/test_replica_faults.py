"""Faults are determined by seed and URL, in the configured shares, and disappear when they should."""

from __future__ import annotations

from collections import Counter

import pytest

from pipeline.core.errors import ConfigError
from pipeline.demo.replica.config import FaultPlan, ReplicaServeConfig
from pipeline.demo.replica.faults import FAULT_KINDS, check_plan, fault_for, fault_of

PATHS = [f"/dall-e/v2/samples/emojis/key_{number}.png" for number in range(4000)]


def test_a_plan_without_shares_has_no_faults() -> None:
    assert not any(fault_of(FaultPlan(), path) for path in PATHS)


def test_the_plan_names_every_kind_of_fault() -> None:
    assert all(getattr(FaultPlan(), kind) == 0 for kind in FAULT_KINDS)


def test_shares_are_kept() -> None:
    plan = FaultPlan(seed=5, slow=0.1, error=0.2, missing=0.05)
    found = Counter(fault.kind for path in PATHS if (fault := fault_of(plan, path)))
    shares = {kind: count / len(PATHS) for kind, count in found.items()}
    assert shares == pytest.approx({"slow": 0.1, "error": 0.2, "missing": 0.05}, abs=0.02)


def test_another_seed_affects_other_urls() -> None:
    def hit(seed: int) -> set[str]:
        return {path for path in PATHS if fault_of(FaultPlan(seed=seed, error=0.3), path)}

    assert hit(1) == hit(1)
    assert hit(1) != hit(2)


def test_a_temporary_fault_disappears_after_its_number_of_requests_for_good() -> None:
    plan = FaultPlan(error=1.0, passing_attempts=3)
    healed = Counter[int]()
    for path in PATHS[:300]:
        fault = fault_of(plan, path)
        assert fault is not None
        assert fault.heals_after is not None
        sick = [attempt for attempt in range(1, 10) if fault_for(plan, path, attempt)]
        assert sick == list(range(1, fault.heals_after + 1))
        healed[fault.heals_after] += 1
    assert set(healed) == {1, 2, 3}


def test_permanent_faults_never_disappear() -> None:
    plan = FaultPlan(reset=1.0, permanent=1.0)
    assert fault_for(plan, PATHS[0], 10_000)


@pytest.mark.parametrize("kind", ["missing", "corrupt", "opted_out"])
def test_missing_corrupt_and_opted_out_images_stay_so(kind: str) -> None:
    plan = FaultPlan(**{kind: 1.0})  # type: ignore[arg-type]
    fault = fault_of(plan, PATHS[0])
    assert fault is not None
    assert fault.heals_after is None


@pytest.mark.parametrize(
    "plan",
    [
        FaultPlan(error=0.7, slow=0.6),
        FaultPlan(error=-0.1),
        FaultPlan(error=1.5),
        FaultPlan(passing_attempts=0),
    ],
)
def test_invalid_shares_are_refused(plan: FaultPlan) -> None:
    with pytest.raises(ConfigError, match="add up to at most 1"):
        check_plan(plan)


def test_options_of_the_command_reach_the_plan() -> None:
    config = ReplicaServeConfig(
        seed=9, error=0.1, busy=0.2, missing=0.3, sections=("emojis",)
    ).replica()
    assert (config.faults.seed, config.faults.error, config.faults.busy) == (9, 0.1, 0.2)
    assert (config.missing_ranks, config.sections) == (0.3, ("emojis",))

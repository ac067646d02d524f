"""Parts on Ray: the same results in the same order as on this machine, whatever dies."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from pipeline.core.engine import Engine, map_parts, open_pool
from pipeline.core.errors import ConfigError, ContractError, DependencyError, PipelineError
from pipeline.core.part_result import PartResult
from pipeline.dedupe.config import DedupeConfig

RAY = Engine(name="ray")


def test_without_the_package_the_error_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(DependencyError, match=r"dalle-pipeline\[ray\]"):
        list(map_parts(square, [1], engine=RAY))


def test_an_address_needs_ray(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--ray-address needs --engine ray"):
        DedupeConfig(workspace=tmp_path, ray_address="auto")


def square(number: int) -> int:
    return number * number


def slow_first(number: int) -> int:
    time.sleep(0.3 if number == 0 else 0)
    return number


@pytest.mark.slow
def test_signal_handlers_stay_as_they_were() -> None:
    pytest.importorskip("ray")
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    results = map_parts(square, range(3), engine=RAY, workers=1)
    assert next(results).value == 0
    assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)] == before
    assert values(results) == [1, 4]
    assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)] == before


@pytest.mark.slow
@pytest.mark.parametrize("slow_starts", [1, 3])
def test_a_start_that_takes_too_long_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, slow_starts: int
) -> None:
    ray = pytest.importorskip("ray")
    start, tries = ray.init, []

    def init(**options: Any) -> Any:
        tries.append(options)
        if len(tries) <= slow_starts:
            raise Exception("The current node timed out during startup.")
        return start(**options)

    monkeypatch.setattr(ray, "init", init)
    results = map_parts(square, range(3), engine=RAY, workers=1)
    if slow_starts == 1:
        assert values(results) == [0, 1, 4]
    else:
        with pytest.raises(ConfigError, match="Ray can't be started: The current node timed out"):
            next(results)
    assert len(tries) == min(slow_starts + 1, 3)


@pytest.mark.slow
def test_no_cluster_at_the_address_is_a_sentence() -> None:
    pytest.importorskip("ray")
    with pytest.raises(ConfigError, match=r"No Ray cluster answers at 127\.0\.0\.1:1"):
        values(map_parts(square, [1], engine=Engine(name="ray", address="127.0.0.1:1")))


class Tries(NamedTuple):
    """A part that notes each try in a folder."""

    folder: Path
    number: int
    deaths: int


def die_at_first(part: Tries) -> int:
    """Die in the first `deaths` tries of part 3."""
    tried = len(list(part.folder.glob(f"{part.number}-*")))
    (part.folder / f"{part.number}-{tried}").touch()
    if part.number == 3 and tried < part.deaths:
        os.kill(os.getpid(), signal.SIGKILL)
    return part.number


def hang_at_one(number: int) -> int:
    if number == 1:
        time.sleep(600)
    return number


def refuse(number: int) -> int:
    if number == 2:
        raise ContractError("It is two.")
    return number


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    ray = pytest.importorskip("ray")
    os.environ.update(RAY_USAGE_STATS_ENABLED="0", RAY_AUTH_MODE="disabled")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
    yield ray
    ray.shutdown()


def values(results: Iterator[PartResult[Any, Any]]) -> list[Any]:
    return [result.value if result.failure is None else result.failure for result in results]


@pytest.mark.slow
def test_results_come_in_the_order_of_the_parts(cluster: Any) -> None:
    assert values(map_parts(slow_first, range(20), engine=RAY)) == list(range(20))


@pytest.mark.slow
def test_parts_are_read_as_they_are_needed(cluster: Any) -> None:
    read = []

    def parts() -> Iterator[int]:
        for number in range(1000):
            read.append(number)
            yield number

    results = map_parts(square, parts(), engine=RAY, workers=2)
    assert next(results).value == 0
    assert len(read) <= 5
    results.close()  # type: ignore[attr-defined]


@pytest.mark.slow
def test_a_part_whose_worker_dies_runs_again(cluster: Any, tmp_path: Path) -> None:
    parts = [Tries(tmp_path, number, 1) for number in range(6)]
    assert values(map_parts(die_at_first, parts, engine=RAY)) == list(range(6))
    assert (tmp_path / "3-1").exists()


@pytest.mark.slow
def test_a_part_whose_worker_dies_twice_is_lost_alone(cluster: Any, tmp_path: Path) -> None:
    parts = [Tries(tmp_path, number, 9) for number in range(6)]
    found = values(map_parts(die_at_first, parts, engine=RAY))
    assert found.pop(3).startswith("its process died 2 times on Ray")
    assert found == [0, 1, 2, 4, 5]


@pytest.mark.slow
def test_a_part_that_hangs_is_ended(cluster: Any) -> None:
    found = values(map_parts(hang_at_one, range(3), engine=RAY, timeout_s=1))
    assert found[0] == 0
    assert "died" in found[1]
    assert found[2] == 2


@pytest.mark.slow
def test_an_error_of_the_function_is_raised_as_it_is(cluster: Any) -> None:
    with pytest.raises(ContractError, match="It is two"):
        values(map_parts(refuse, range(5), engine=RAY))


@pytest.mark.slow
def test_calls_on_a_pool_have_futures(cluster: Any, tmp_path: Path) -> None:
    with open_pool(RAY, None) as pool:
        good, bad = pool.submit(square, 7), pool.submit(refuse, 2)
        mortal = pool.submit(die_at_first, Tries(tmp_path, 3, 9))
        assert good.result() == 49
        with pytest.raises(ContractError, match="It is two"):
            bad.result()
        with pytest.raises(PipelineError, match="A task on Ray failed"):
            mortal.result()

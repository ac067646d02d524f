"""Results are returned in order, and a worker that dies loses only its part."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing.context import ForkServerProcess

import pytest

from pipeline.core.engine import map_parts
from pipeline.core.errors import ContractError
from pipeline.core.part_result import PartResult


def square(number: int) -> int:
    return number * number


def slow_first(number: int) -> int:
    time.sleep(0.2 if number == 0 else 0)
    return number


def die_of_three(number: int) -> int:
    if number == 3:
        os.kill(os.getpid(), signal.SIGSEGV)
    return number


def leave_at_three(number: int) -> int:
    if number == 3:
        os._exit(7)
    return number


def hang_at_one(number: int) -> int:
    if number == 1:
        time.sleep(60)
    return number


def die_while_answering_two(number: int) -> int:
    """The worker is killed after it has sent the length and a little of an answer of 8 MB."""
    if number == 2:
        pipe = sys._getframe(2).f_locals["pipe"]
        os.write(pipe.fileno(), struct.pack("!i", 8 << 20) + bytes(1000))
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def signal_itself(number: int) -> int:
    for signum in (signal.SIGINT, signal.SIGTERM):
        os.kill(os.getpid(), signum)
    return number


class UnreadableError(Exception):
    """Can be pickled but not unpickled: it needs two arguments."""

    def __init__(self, what: str, why: str) -> None:
        super().__init__(f"{what} {why}")


def raise_unreadable(number: int) -> int:
    raise UnreadableError("a hidden", "cause")


def give_unpicklable(number: int) -> object:
    return lambda: number


def refuse(number: int) -> int:
    raise ContractError(f"part {number} is broken")


def process_of(_: int) -> int:
    return os.getpid()


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_results_come_in_the_order_of_the_parts(workers: int) -> None:
    results = list(map_parts(slow_first, range(8), workers=workers))
    assert [r.result for r in results] == list(range(8))
    assert [r.part for r in results] == list(range(8))


def test_no_parts_yield_no_results() -> None:
    assert list(map_parts(square, [], workers=2)) == []


def test_no_process_is_started_before_there_is_a_part() -> None:
    def parts() -> Iterator[int]:
        assert multiprocessing.active_children() == []
        yield from ()

    assert list(map_parts(square, parts(), workers=2)) == []


def test_zero_workers_stay_in_this_process() -> None:
    assert [r.result for r in map_parts(process_of, [1], workers=0)] == [os.getpid()]


def test_one_worker_is_another_process() -> None:
    assert [r.result for r in map_parts(process_of, [1], workers=1)] != [os.getpid()]


def test_a_worker_that_dies_fails_its_part_and_no_other() -> None:
    results = list(map_parts(die_of_three, range(8), workers=2))
    assert [r.part for r in results if r.failure] == [3]
    assert results[3].failure == "its process died of SIGSEGV"
    assert [r.result for r in results if not r.failure] == [0, 1, 2, 4, 5, 6, 7]


def test_a_worker_that_dies_in_the_middle_of_its_answer_fails_its_part_and_no_other() -> None:
    results = list(map_parts(die_while_answering_two, range(6), workers=2))
    assert [r.part for r in results if r.failure] == [2]
    assert results[2].failure == "its process died of SIGKILL"
    assert [r.result for r in results if not r.failure] == [0, 1, 3, 4, 5]


@pytest.mark.parametrize("deaths", [1, 2, 3])
def test_a_worker_that_is_killed_at_its_start_is_started_again(
    deaths: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = [deaths]
    real = ForkServerProcess.start

    def start(process: ForkServerProcess) -> None:
        if left[0]:
            left[0] -= 1
            raise BrokenPipeError(errno.EPIPE, "Broken pipe")
        real(process)

    monkeypatch.setattr(ForkServerProcess, "start", start)
    if deaths == 3:
        with pytest.raises(BrokenPipeError):
            list(map_parts(square, range(3), workers=1))
    else:
        assert [r.value for r in map_parts(square, range(3), workers=1)] == [0, 1, 4]


def test_workers_leave_interrupts_and_terminations_to_the_parent() -> None:
    results = list(map_parts(signal_itself, range(3), workers=1))
    assert [r.result for r in results] == [0, 1, 2]


def test_unread_results_do_not_keep_the_process_alive() -> None:
    code = (
        "from pipeline.core.engine import map_parts\n"
        "from tests.core.test_engine import hang_at_one\n"
        "results = map_parts(hang_at_one, range(3), workers=1)\n"
        "print(next(results).result)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=50)
    assert (done.returncode, done.stdout) == (0, "0\n")


@pytest.mark.parametrize("function", [raise_unreadable, give_unpicklable])
def test_an_unpicklable_value_is_an_error_and_no_dead_worker(
    function: Callable[[int], object],
) -> None:
    with pytest.raises((RuntimeError, AttributeError, TypeError), match=r"a hidden cause|lambda"):
        list(map_parts(function, [1], workers=1))


def test_a_worker_that_exits_is_reported_with_its_exit_code() -> None:
    results = list(map_parts(leave_at_three, [3], workers=1))
    assert results == [PartResult(part=3, failure="its process ended with exit code 7")]


def test_a_part_that_takes_too_long_fails() -> None:
    results = list(map_parts(hang_at_one, range(3), workers=2, timeout_s=1.5))
    assert [r.failure for r in results] == [None, "no answer in 1.5 s", None]


@pytest.mark.parametrize("workers", [0, 2])
def test_exceptions_of_the_function_are_raised_in_the_parent(workers: int) -> None:
    with pytest.raises(ContractError, match="part 5 is broken"):
        list(map_parts(refuse, [5], workers=workers))


def test_parts_are_read_as_they_are_needed() -> None:
    read: list[int] = []

    def parts() -> Iterator[int]:
        for number in range(1000):
            read.append(number)
            yield number

    results = map_parts(square, parts(), workers=1)
    assert next(results).result == 0
    assert len(read) < 20
    results.close()  # type: ignore[attr-defined]

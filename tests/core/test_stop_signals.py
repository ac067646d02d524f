"""The first signal is a request, the second one ends; handlers are restored afterwards."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from pipeline.core.interrupts import EXIT_INTERRUPTED
from pipeline.core.stop_signals import (
    ECHO_S,
    LAUNCHER_ECHO_S,
    StopRequest,
    watch_signals,
)

PATIENCE_S = 60.0


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def be_interrupted(number: signal.Signals, then: Exception | None = None) -> None:
    with watch_signals() as request:
        found = [request.asked]
        signal.raise_signal(number)
        found.append(request.asked)
        assert found == [False, True]
        if then is not None:
            raise then


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_only_sets_asked(number: signal.Signals) -> None:
    with pytest.raises(ValueError, match="work goes on"):
        be_interrupted(number, ValueError("work goes on"))


def test_a_signal_that_nobody_acted_on_is_not_lost() -> None:
    with pytest.raises(KeyboardInterrupt):
        be_interrupted(signal.SIGTERM)


def test_handlers_are_restored() -> None:
    def own(_number: int, _frame: object) -> None:
        raise AssertionError

    signal.signal(signal.SIGTERM, own)
    with watch_signals():
        assert signal.getsignal(signal.SIGTERM) is not own
    assert signal.getsignal(signal.SIGTERM) is own
    assert signal.set_wakeup_fd(-1) == -1


def test_an_ignored_signal_stays_ignored() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with watch_signals() as request:
        signal.raise_signal(signal.SIGTERM)
        time.sleep(0.05)
        assert not request.asked


def test_another_thread_gets_no_signals_and_keeps_working() -> None:
    found: list[bool] = []

    def work() -> None:
        with watch_signals() as request:
            found.append(request.asked)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [False]


@pytest.mark.parametrize("echo_s", [ECHO_S, LAUNCHER_ECHO_S])
def test_forwarded_or_repeated_signals_do_not_count_as_a_second_one(echo_s: float) -> None:
    request = StopRequest(echo_s=echo_s)
    request.note(100.0)
    request.note(100.0 + 0.9 * echo_s)
    assert (request.asked, request.repeated) == (True, False)
    request.note(100.0 + 1.1 * echo_s)
    assert request.repeated


# Prints a line when it is ready for signals, and one when it was asked to stop.
SCRIPT = """
import sys, time
from pipeline.core.stop_signals import watch_signals
with watch_signals() as request:
    print("ready", flush=True)
    while not request.asked:
        time.sleep(0.001)
    print("asked", flush=True)
    {work}
"""
DEAF = """
    import threading
    while True:
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            pass
"""


@pytest.mark.parametrize("work", ["time.sleep(3600)", DEAF.strip()])
def test_a_second_signal_ends_immediately_in_any_call(work: str) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT.format(work=work)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        os.kill(process.pid, signal.SIGTERM)
        assert process.stdout.readline() == "asked\n"
        end_s = time.monotonic() + PATIENCE_S
        while process.poll() is None:  # until one counts as a second one
            os.kill(process.pid, signal.SIGTERM)
            assert time.monotonic() < end_s
            time.sleep(0.1)
        # SIGTERM itself ends it if one more comes once the handlers are restored.
        ends = (-signal.SIGINT, -signal.SIGTERM, EXIT_INTERRUPTED)
        assert process.returncode in ends
    finally:
        process.kill()
        process.communicate()

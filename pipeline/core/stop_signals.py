"""Treat Ctrl-C and SIGTERM as a request to stop long work at its next safe point.

    with watch_signals() as request:
        while more():
            work()
            if request.asked:
                save()
                raise KeyboardInterrupt

A further signal, at least a second later, ends the process immediately, even in a call that never returns to
Python.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

from pipeline.core.interrupts import EXIT_INTERRUPTED, SIGNALS

# A signal within this time of the first one is an echo: `timeout` sends each twice, to its child and to its
# process group; a launcher of several processes forwards signals that the system (Slurm, a terminal) has
# sent to them as well.
ECHO_S = 1.0
LAUNCHER_ECHO_S = 5.0
# How long an immediate stop may take to clean up; after that the process is ended.
PARTING_S = 3.0


class StopRequest:
    """State of a stop request: `asked` once, `repeated`, and whether KeyboardInterrupt was `raised`."""

    def __init__(self, *, echo_s: float = ECHO_S) -> None:
        self._echo_s = echo_s
        self._first_s: float | None = None
        self.asked = False
        self.repeated = False
        self.raised = False

    def note(self, now_s: float) -> None:
        """Record a signal at a time of the monotonic clock."""
        self.asked = True
        if self._first_s is None:
            self._first_s = now_s
        elif now_s - self._first_s >= self._echo_s:
            self.repeated = True


@contextlib.contextmanager
def watch_signals() -> Iterator[StopRequest]:
    """Inside, the first SIGINT or SIGTERM only sets `asked`; a further one raises KeyboardInterrupt.

    If that has no effect within `PARTING_S` (a computation, a process that waits for another), the process
    exits with 130. An ignored signal stays ignored. At the end, KeyboardInterrupt is raised if a signal came
    and was not acted on. Only the main thread receives signals: in another thread `asked` stays false.
    """
    launched = "WORLD_SIZE" in os.environ
    request = StopRequest(echo_s=LAUNCHER_ECHO_S if launched else ECHO_S)
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    with _listen(request), _handle(request):
        yield request
    if request.asked:
        raise KeyboardInterrupt


@contextlib.contextmanager
def _handle(request: StopRequest) -> Iterator[None]:
    """Install the signal handlers, and restore the previous ones at the end."""

    def handle(_signum: int, _frame: FrameType | None) -> None:
        request.asked = True
        if request.repeated and not request.raised:
            request.raised = True
            raise KeyboardInterrupt

    found = {number: signal.getsignal(number) for number in SIGNALS}
    taken = {n: handler for n, handler in found.items() if handler not in (signal.SIG_IGN, None)}
    for number in taken:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in taken.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _listen(request: StopRequest) -> Iterator[None]:
    """Count signals in a thread, since Python's own handlers wait for the current call to return."""
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    ended = threading.Event()
    main = threading.get_ident()

    def count() -> None:
        while data := os.read(read_end, 64):
            for number in (byte for byte in data if byte in SIGNALS):
                request.note(time.monotonic())
                if request.repeated and not ended.is_set():
                    if not request.raised:  # the handler may have been faster
                        signal.pthread_kill(main, number)
                    if not ended.wait(PARTING_S):
                        os._exit(EXIT_INTERRUPTED)

    thread = threading.Thread(target=count, name="stop signals", daemon=True)
    previous = signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        signal.set_wakeup_fd(previous)
        os.close(write_end)
        thread.join()
        os.close(read_end)

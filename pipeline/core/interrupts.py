"""Make Ctrl-C and SIGTERM end a command in the same way at any time.

Both raise KeyboardInterrupt in the main thread, so that running work can save its state. During an import
this is deferred: some packages (torch) abort the process when an exception passes through their C++
initialisation. The signal is then sent again every few milliseconds until the import is over; a second
Ctrl-C meanwhile ends the process immediately.
"""

from __future__ import annotations

import _thread
import atexit
import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, NoReturn

EXIT_INTERRUPTED = 130
SIGNALS = (signal.SIGINT, signal.SIGTERM)
_AGAIN_S = 0.01
_IMPORTING = frozenset({"<frozen importlib._bootstrap>", "<frozen importlib._bootstrap_external>"})
_current: list[Interrupts] = []  # the innermost is last


@contextlib.contextmanager
def interruptible() -> Iterator[Interrupts]:
    """Let SIGINT and SIGTERM raise KeyboardInterrupt inside this block, in the main thread.

    An ignored signal stays ignored (shells start background jobs with SIGINT ignored).
    """
    interrupts = Interrupts(outer=_frames(sys._getframe()))
    _current.append(interrupts)
    hook, sys.unraisablehook = sys.unraisablehook, interrupts.repeat_unraisable
    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, interrupts.handle)
    try:
        yield interrupts
    finally:
        interrupts.over = True
        _current.pop()
        for number, handler in before.items():
            signal.signal(number, handler)
        sys.unraisablehook = hook


def raise_deferred() -> None:
    """After an import, raise the KeyboardInterrupt that was deferred because of it."""
    if _current and _current[-1].is_deferred:
        _current[-1].is_deferred = False
        raise KeyboardInterrupt


def end_quietly() -> None:
    """From now on, let a signal end the process immediately, without a traceback from the interpreter.

    At interpreter exit, when handlers are removed, signals are ignored: all work is done.
    """
    _set_handlers(lambda *_: os._exit(EXIT_INTERRUPTED))
    atexit.register(_set_handlers, signal.SIG_IGN)


def _set_handlers(handler: Callable[[int, FrameType | None], object] | signal.Handlers) -> None:
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handler)


class Interrupts:
    """Signals during a command; imports in the `outer` frames, which began before it, don't count."""

    def __init__(self, outer: frozenset[FrameType] = frozenset()) -> None:
        self.came = False
        self.over = False
        self._outer = outer
        self.is_deferred = False
        self._is_ours = False  # the next signal was sent again by ourselves

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Raise KeyboardInterrupt, or have the signal sent again after the import."""
        self.came = True
        is_repeated = self.is_deferred and not self._is_ours
        self._is_ours = False
        self.is_deferred = self._is_importing(frame)
        if not self.is_deferred:
            raise KeyboardInterrupt
        if is_repeated and number == signal.SIGINT:
            _end_now()
        self._send_again(number)

    def repeat_unraisable(self, unraisable: Any) -> None:
        """Resend an interrupt that was raised in an interpreter callback, where exceptions are swallowed."""
        if unraisable.exc_type is KeyboardInterrupt:
            self._send_again(signal.SIGINT)
        else:
            sys.__unraisablehook__(unraisable)

    def _is_importing(self, frame: FrameType | None) -> bool:
        while frame is not None and frame not in self._outer:
            if frame.f_code.co_filename in _IMPORTING:
                return True
            frame = frame.f_back
        return False

    def _send_again(self, number: int) -> None:
        """Send it to the main thread, so that it also interrupts a system call."""
        main = threading.main_thread().ident
        assert main is not None

        deferred = self.is_deferred

        def send() -> None:
            time.sleep(_AGAIN_S)
            if not self.over and (self.is_deferred or not deferred):
                self._is_ours = True
                signal.pthread_kill(main, number)

        # Not a threading.Thread: the interrupted code may hold that module's locks.
        _thread.start_new_thread(send, ())


def _frames(frame: FrameType | None) -> frozenset[FrameType]:
    """A frame and its callers."""
    found = set()
    while frame is not None:
        found.add(frame)
        frame = frame.f_back
    return frozenset(found)


def _end_now() -> NoReturn:
    os.write(2, b"\nError: stopped immediately. Finished work is kept.\n")
    os._exit(EXIT_INTERRUPTED)

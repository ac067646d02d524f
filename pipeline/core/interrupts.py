"""Ctrl-C and SIGTERM end a command in the same way, whenever they come.

Both raise KeyboardInterrupt in the main thread, so that what is under way can save what it has. Not in the
middle of an import, though: some packages (torch) abort the process when an exception comes through their
C++ initialisation. There the signal is sent again a moment later, until the import is over; a second Ctrl-C
at such a place ends the process at once.
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
_current: list[Interrupts] = []  # the innermost last


@contextlib.contextmanager
def interruptible() -> Iterator[Interrupts]:
    """Let SIGINT and SIGTERM raise KeyboardInterrupt in here, in the main thread.

    A signal that is ignored (shells start what they put in the background so) stays ignored.
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
    """Raise now, after an import, the KeyboardInterrupt that was put off because of it."""
    if _current and _current[-1].is_deferred:
        _current[-1].is_deferred = False
        raise KeyboardInterrupt


def end_quietly() -> None:
    """From now on a signal ends the process at once: the interpreter would print where it was met.

    At its very end, where it takes its handlers away, signals are ignored: all is done.
    """
    _set_handlers(lambda *_: os._exit(EXIT_INTERRUPTED))
    atexit.register(_set_handlers, signal.SIG_IGN)


def _set_handlers(handler: Callable[[int, FrameType | None], object] | signal.Handlers) -> None:
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handler)


class Interrupts:
    """What came while a command ran; imports in the `outer` frames, which began before it, don't count."""

    def __init__(self, outer: frozenset[FrameType] = frozenset()) -> None:
        self.came = False
        self.over = False
        self._outer = outer
        self.is_deferred = False
        self._is_ours = False  # the signal that comes next was sent again by us

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Raise KeyboardInterrupt, or see to it that the signal comes again when the import is over."""
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
        """Send an interrupt again that was raised in a callback of the interpreter, which swallows it."""
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
        """To the main thread, so that it also ends a system call."""
        main = threading.main_thread().ident
        assert main is not None

        deferred = self.is_deferred

        def send() -> None:
            time.sleep(_AGAIN_S)
            if not self.over and (self.is_deferred or not deferred):
                self._is_ours = True
                signal.pthread_kill(main, number)

        # Not threading's: its locks may be held by what the signal interrupted.
        _thread.start_new_thread(send, ())


def _frames(frame: FrameType | None) -> frozenset[FrameType]:
    """A frame and those that called it."""
    found = set()
    while frame is not None:
        found.add(frame)
        frame = frame.f_back
    return frozenset(found)


def _end_now() -> NoReturn:
    os.write(2, b"\nError: stopped at once. What was finished is kept.\n")
    os._exit(EXIT_INTERRUPTED)

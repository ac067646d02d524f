"""Waiting for another program's lock on a SQLite file: logged, patient, and ended on request."""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

logger = logging.getLogger(__name__)

# How long SQLite itself waits before it reports a lock.
BUSY_S = 5.0
# Then the lock is logged and we wait on: a crawl of days is worth more than an hour. Shorter in the
# main thread, where an interrupt would go unnoticed meanwhile.
PATIENCE_S = 3600.0
MAIN_PATIENCE_S = 60.0
_PAUSE_S = 0.1
_BUSY = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})

Result = TypeVar("Result")


class Patience:
    """Retries what a lock on `path` has stopped."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._ended = threading.Event()

    def end(self) -> None:
        """End all waiting, in whatever thread."""
        self._ended.set()

    def wait_for(self, work: Callable[[], Result]) -> Result:
        """The result of `work`, retried while the file is locked; its last error after an hour."""
        in_main = threading.current_thread() is threading.main_thread()
        patience_s = MAIN_PATIENCE_S if in_main else PATIENCE_S
        started, announced = time.monotonic(), False
        while True:
            try:
                found = work()
            except sqlite3.OperationalError as error:
                waited_s = time.monotonic() - started
                if not is_busy(error) or waited_s > patience_s:
                    raise
                if not announced:
                    logger.warning("Another program has locked %s: waiting for it.", self._path)
                announced = True
                if self._ended.wait(_PAUSE_S):
                    raise
            else:
                if announced:
                    logger.warning(
                        "%s is free again after %.0f s.", self._path, time.monotonic() - started
                    )
                return found


def is_busy(error: sqlite3.Error) -> bool:
    """Whether an error only means that another program holds a lock."""
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and code & 0xFF in _BUSY

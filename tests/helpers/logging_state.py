"""The logging that a command sets up in the process that runs it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def logging_restored() -> Iterator[None]:
    """Undo what a command that ran in this process has set up: `--quiet` would silence later tests."""
    loggers = (logging.getLogger(), logging.getLogger("scrapers.crawl.announcing"))
    levels = [logger.level for logger in loggers]
    handlers = list(loggers[0].handlers)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        for handler in loggers[0].handlers[:]:
            if handler not in handlers and type(handler) is logging.StreamHandler:
                loggers[0].removeHandler(handler)

"""The logging that a command sets up in the process that runs it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def logging_restored() -> Iterator[None]:
    """Undo what a command that ran in this process has set up: `--quiet` would silence later tests."""
    root = logging.getLogger()
    levels, root_level, handlers = _levels(), root.level, list(root.handlers)
    try:
        yield
    finally:
        root.setLevel(root_level)
        for name, level in _levels().items():
            before = levels.get(name, logging.NOTSET)
            if level != before:
                logging.getLogger(name).setLevel(before)
        for handler in root.handlers[:]:
            if handler not in handlers and type(handler) is logging.StreamHandler:
                root.removeHandler(handler)


def _levels() -> dict[str, int]:
    """The levels of the project's own loggers."""
    found = logging.Logger.manager.loggerDict
    return {
        name: logger.level
        for name, logger in found.items()
        if isinstance(logger, logging.Logger) and name.startswith(("pipeline", "scrapers"))
    }

"""Warnings about hosts, of which a list may name a million: only those about the first few are shown."""

from __future__ import annotations

import logging

logger = logging.getLogger(__name__)

_SHOWN = 20


class FewHosts:
    """Logs about the first 20 hosts with trouble as warnings, and about any further ones for debugging."""

    def __init__(self) -> None:
        self._shown: set[str] = set()

    def warn(self, origin: str, message: str, *values: object) -> None:
        """Log a message about a host."""
        if origin in self._shown:
            logger.warning(message, *values)
        elif len(self._shown) < _SHOWN:
            self._shown.add(origin)
            logger.warning(message, *values)
            if len(self._shown) == _SHOWN:
                logger.warning(
                    "%d hosts have had trouble: that of further hosts is only logged at level DEBUG.",
                    _SHOWN,
                )
        else:
            logger.debug(message, *values)

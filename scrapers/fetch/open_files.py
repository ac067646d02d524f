"""How many connections may be open at once: each one takes a file descriptor."""

from __future__ import annotations

import contextlib
import resource

# More than a crawl needs; a limit of the system that is "unlimited" is often not to be had.
_WANTED = 65_536
# For the store, name lookups, libraries.
_RESERVED = 256


def raise_limit() -> int:
    """Raise the process's soft limit of open files as far as it may; returns the limit that holds."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    infinite = resource.RLIM_INFINITY
    wanted = _WANTED if hard == infinite else min(_WANTED, hard)
    if soft != infinite and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _WANTED if soft == infinite else soft


def connection_limit(limit: int) -> int:
    """The connections that fit into a limit of open files."""
    return max(8, limit - min(_RESERVED, limit // 2))

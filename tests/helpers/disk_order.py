"""The order in which bytes reach the disk: what a power cut leaves depends on it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


class DiskOrder:
    """Records writes, fsyncs, renames and deletions while a test runs, as `verb name` in their order.

    A temporary file has the name that it gets later. `mark` adds an event of the test's own.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.events: list[str] = []
        self._spy = monkeypatch.setattr
        for name, verb in (("fsync", "sync"), ("fdatasync", "sync"), ("write", "write")):
            self._record_descriptor(name, verb)
        for name in ("replace", "rename"):
            self._record_path(name, "rename", 1)
        self._record_path("unlink", "delete", 0)

    def mark(self, event: str) -> None:
        """Add an event."""
        self.events.append(event)

    def record_call(self, owner: type, name: str, event: str) -> None:
        """Add `event` whenever the method `name` of `owner` is called."""
        method = getattr(owner, name)

        def call(*args: Any, **options: Any) -> Any:
            self.mark(event)
            return method(*args, **options)

        self._spy(owner, name, call)

    def of(self, *names: str) -> list[str]:
        """The events of these names, a repeated one once."""
        found = [event for event in self.events if event.split(" ", 1)[-1] in names]
        return [
            event for event, before in zip(found, ["", *found], strict=False) if event != before
        ]

    def _record_descriptor(self, name: str, verb: str) -> None:
        function: Callable[..., Any] = getattr(os, name)

        def call(descriptor: int, *args: Any) -> Any:
            path = Path(f"/proc/self/fd/{descriptor}").readlink()
            self.mark(f"{verb} {_final_name(path)}")
            return function(descriptor, *args)

        self._spy(os, name, call)

    def _record_path(self, name: str, verb: str, place: int) -> None:
        function: Callable[..., Any] = getattr(os, name)

        def call(*args: Any, **options: Any) -> Any:
            self.mark(f"{verb} {_final_name(Path(args[place]))}")
            return function(*args, **options)

        self._spy(os, name, call)


def _final_name(path: Path) -> str:
    return path.name.removesuffix(".partial")

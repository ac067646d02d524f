"""The declaration of a command: its name, its options, and the function that runs it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pipeline.app.run_all import Call
from pipeline.core.contracts import StageReport


@dataclass(frozen=True, kw_only=True)
class Command:
    """A command whose flags are the fields of `config`; those in `arguments` are positional.

    `run` may return a report, which is printed and determines the exit code. `panel` is the heading under
    which the command is listed. With `makes_workspace` there is no default for the workspace.
    """

    name: str
    config: type[Any]
    run: Callable[[Any, Call], StageReport | None]
    help: str
    arguments: tuple[str, ...] = ()
    metrics: bool = False
    panel: str = "Other commands"
    makes_workspace: bool = False

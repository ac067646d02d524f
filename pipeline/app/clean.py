"""`pipeline clean`: list codecs, tokenizers and codes that nothing needs, and remove them on request.

Nothing that was used to make a run, shards or images is ever listed (see `uses`). With `--keep-runs` it lists
the old runs of each series instead.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

from pipeline.app.run_all import Call
from pipeline.app.run_log import keep_record
from pipeline.core.config import StageConfig, option
from pipeline.core.contracts import StageReport
from pipeline.core.ownership import remove_own
from pipeline.core.uses import find_old_runs, find_unneeded, size_of
from pipeline.core.workspace import Workspace


@dataclass(frozen=True, kw_only=True)
class CleanConfig(StageConfig):
    """The workspace to clean, and whether to remove anything."""

    yes: bool = option(False, "Remove what is listed (default: only list it).")
    keep_runs: int | None = option(
        None,
        "List old runs instead: those named NAME-TIME (such as dalle-20260104T000000), except the newest N "
        "of each NAME and those that images or other runs need.",
        low=1,
    )


def clean(config: CleanConfig, call: Call) -> StageReport:
    """List what nothing needs, with its size; remove it with `yes`.

    Raises WorkspaceError for a folder that is not a workspace, LockedError while a command runs in it.
    """
    root = Workspace(config.workspace).open().root
    working = (
        keep_record(root, "pipeline clean", whole=True, clock=call.clock)
        if config.yes
        else contextlib.nullcontext()
    )
    with working:
        unneeded = (
            find_unneeded(root)
            if config.keep_runs is None
            else find_old_runs(root, config.keep_runs)
        )
        sizes = {folder.name: size_of(folder) for folder in unneeded}
        _show(sizes, call)
        for folder in reversed(unneeded) if config.yes else ():  # codes before their codec
            remove_own(folder.path, folder.contract)
    said = "removed" if config.yes else "unneeded"
    counts = {said: len(unneeded), "bytes": sum(sizes.values())}
    return StageReport(
        stage="clean",
        outcome="done",
        counts=counts,
        details={"folders": sizes},
    )


def _show(sizes: dict[str, int], call: Call) -> None:
    if not sizes:
        call.screen.say("Nothing to remove: everything is in use, or is the latest of its kind.")
        return
    rows = [(name, f"{size / 1e6:,.1f} MB") for name, size in sizes.items()]
    call.screen.table("not used any more", ("folder", "size"), rows)

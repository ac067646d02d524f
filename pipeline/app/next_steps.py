"""What to type next: the command of the first stage after this one that has not been run."""

from __future__ import annotations

import dataclasses
import shlex
import shutil
import sys
from pathlib import Path

from pipeline.app.stages import STAGES
from pipeline.core.config import StageConfig
from pipeline.core.contracts import StageReport
from pipeline.core.inventory import find_folders

_PROMPT = '"A PROMPT"'


def next_command(root: Path, after: str) -> str | None:
    """The command to run in the workspace `root` after a stage; None after the last one.

    Stages whose result is there and has been made from what is there now are left out.
    """
    names = list(STAGES)
    fresh = {
        folder.contract
        for folder in find_folders(root)
        if folder.manifest is not None and not folder.stale
    }
    for name in names[names.index(after) + 1 :]:
        stage = STAGES[name]
        if stage.contract_name not in fresh:
            words = [called_as(), name, *([_PROMPT] if stage.runs_only_with else [])]
            return " ".join([*words, "--workspace", shlex.quote(str(root))])
    return None


def with_next(
    report: StageReport, root: Path, after: str, config: StageConfig | None = None
) -> StageReport:
    """The report with the line that says what to type next, if there is anything."""
    if getattr(config, "plan", False):
        line = "Next: the same command without --plan fetches the images."
    else:
        command = next_command(root, after)
        if command is None:
            return report
        line = f"Next: {command}"
    return dataclasses.replace(report, next=(line,))


def called_as(script: str | None = None) -> str:
    """How a shell calls this program: `pipeline` may not be on the path, as after `make demo`."""
    script = script or sys.argv[0]
    found = shutil.which("pipeline")
    if found is not None and Path(script).resolve() == Path(found).resolve():
        return "pipeline"
    if Path(script).suffix == ".py":
        return f"{shlex.quote(sys.executable)} -m pipeline"
    return shlex.quote(script)

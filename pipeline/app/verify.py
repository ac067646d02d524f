"""`pipeline verify`: whether a workspace is what its manifests say; drops what is damaged.

Checked: every manifest is readable, of our version and as it was written; every file it
names is there, with its size and sha256; every table has its rows; the ledger holds what the crawl said, and
the segments every image of the ledger; *rows in = kept + rejected + failed* at each stage. Of codes: each
lies in its codebook, and some decode to their images. Of shards: each row has the ids and codes that the
index says, and as many as it says. What is measured on the way is printed: use and perplexity of codebooks,
PSNR, lengths of captions.

A folder that a stage has not finished, and one made from older inputs, are listed and are no damage. Nothing
is written, unless `--repair` is given.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.app.run_all import Call
from pipeline.app.run_log import keep_record
from pipeline.app.stages import STAGES
from pipeline.core.contracts import StageReport
from pipeline.core.errors import REPAIR
from pipeline.core.workspace import Workspace
from pipeline.verify.config import VerifyConfig

if TYPE_CHECKING:
    from pipeline.verify.faults import Checked, State
    from pipeline.verify.work import Repairs


_LISTED: tuple[State, ...] = ("damaged", "unfinished", "outdated")


def show_verify(config: VerifyConfig, call: Call) -> StageReport:
    """Check everything and print what was found; the outcome is `damaged` where damage remains."""
    root = Workspace(config.workspace).open().root
    if not config.repair:
        return _report(_check(root, config, call), None, call)
    from pipeline.verify.repair import repair

    with keep_record(root, "pipeline verify --repair", whole=True, clock=call.clock) as record:
        checked = _check(root, config, call)
        report = _report(checked, repair(root, checked, STAGES), call)
        record.outcome = report.outcome
    return report


def _check(root: Path, config: VerifyConfig, call: Call) -> list[Checked]:
    from pipeline.verify.check import check_workspace

    with call.screen.progress("verify") as progress:
        checked = list(check_workspace(root, config.pictures, progress))
    rows = [(each.folder.name, each.state, each.why) for each in checked]
    call.screen.table("Verified", ("folder", "state", "why"), rows)
    for contract in dict.fromkeys(each.folder.contract for each in checked):
        _show_facts(call, contract, checked)
    return checked


def _report(checked: list[Checked], repairs: Repairs | None, call: Call) -> StageReport:
    states = Counter(each.state for each in checked)
    by_state: dict[str, int] = {state: states[state] for state in _LISTED}
    files = sum(len(each.folder.manifest.files) for each in checked if each.folder.manifest)
    if repairs is not None:
        _show_repairs(call, repairs)
    elif faults := [fault for each in checked for fault in each.faults]:
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        call.screen.fail(f"{faults[0]}{more}. {REPAIR}")
    damage = states["damaged"] if repairs is None else len(repairs.not_repaired)
    return StageReport(
        stage="verify",
        outcome="damaged" if damage else "done",
        counts={"folders": len(checked), "files": files, **by_state},
        details={**dict(_describe(checked)), **(repairs.as_dict() if repairs else {})},
    )


def _describe(checked: list[Checked]) -> Iterator[tuple[str, Any]]:
    """What `--json` says of each folder, and what was measured by contract."""
    yield (
        "folders",
        {
            each.folder.name: {
                "state": each.state,
                "damaged": [{"file": fault.file, "found": fault.found} for fault in each.faults],
                "notes": list(each.notes),
            }
            for each in checked
        },
    )
    measured: dict[str, list[dict[str, object]]] = {}
    for each in checked:
        if each.facts:
            measured.setdefault(each.folder.contract, []).extend(dict(row) for row in each.facts)
    yield "measured", measured


def _show_facts(call: Call, contract: str, checked: list[Checked]) -> None:
    facts = [row for each in checked if each.folder.contract == contract for row in each.facts]
    if facts:
        columns = tuple(facts[0])
        rows = [tuple(row.get(column, "") for column in columns) for row in facts]
        call.screen.table(f"Measured in {contract}", columns, rows)


def _show_repairs(call: Call, repairs: Repairs) -> None:
    for line in repairs.done:
        call.screen.say(line)
    for line in repairs.not_repaired:
        call.screen.fail(line)
    if repairs.commands:
        call.screen.say("To make it anew:")
        for command in repairs.commands:
            call.screen.say(f"  {command}")
    elif not repairs.not_repaired:
        call.screen.say("Nothing is damaged.")

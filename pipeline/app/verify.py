"""`pipeline verify`: check whether a workspace matches its manifests, and optionally repair it.

Checks: every manifest is readable, of our version and unchanged; every file that it names exists, with its
size and sha256; every table has its number of rows; the ledger matches its manifest, and the segments hold
every image of the ledger; *rows in = kept + rejected + failed* at each stage. Codes must be within their
codebook, and some are decoded and compared with their images. Shards must have as many rows as their index
says, with valid ids and codes. Measurements made on the way are printed: codebook use and perplexity, PSNR,
caption lengths.

Folders that a stage has not finished, or that were made from older inputs, are listed but are not damage.
Nothing is written unless `--repair` is given.
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
from pipeline.core.workspace import Workspace
from pipeline.verify.config import VerifyConfig

if TYPE_CHECKING:
    from pipeline.verify.faults import Checked, State
    from pipeline.verify.work import Repairs


_LISTED: tuple[State, ...] = ("damaged", "unfinished", "outdated")


def show_verify(config: VerifyConfig, call: Call) -> StageReport:
    """Check everything and print the results; the outcome is `damaged` if damage remains."""
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
        checked = list(check_workspace(root, config.images, progress))
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
        remedies = " ".join(dict.fromkeys(fault.remedy for fault in faults))
        call.screen.fail(f"{faults[0]}{more}. {remedies}")
    damage = states["damaged"] if repairs is None else len(repairs.not_repaired)
    return StageReport(
        stage="verify",
        outcome="damaged" if damage else "done",
        counts={"folders": len(checked), "files": files, **by_state},
        details={**dict(_describe(checked)), **(repairs.as_dict() if repairs else {})},
    )


def _describe(checked: list[Checked]) -> Iterator[tuple[str, Any]]:
    """Details for `--json`: the state of each folder, and measurements by contract."""
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
        call.screen.say("Run next:")
        for command in repairs.commands:
            call.screen.say(f"  {command}")
    elif not repairs.not_repaired:
        call.screen.say("Nothing is damaged.")

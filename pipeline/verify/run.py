"""`pipeline verify`: prove that a workspace is what its manifests say. Floor 5.

Checked: every manifest is readable and of our version; every file it names is there, with its size and
sha256; every table has its rows; the ledger holds what the crawl said; *rows in = kept + rejected +
failed* at each stage; every input is still the one that a stage was made from. Of codes: each lies in
its codebook, and some decode to their pictures. Of shards: each row has the ids and codes that the
index says, and as many as it says. What is measured on the way is printed: use and perplexity of
codebooks, PSNR, lengths of captions.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pipeline.config import StageConfig, option
from pipeline.contracts import StageReport
from pipeline.errors import ContractError, PipelineError
from pipeline.inventory import Folder, find_folders
from pipeline.road import Call
from pipeline.verify.folders import check_folder
from pipeline.workspace import Workspace

Facts = Mapping[str, object]
Found = tuple[list[str], list[Facts]]


@dataclass(frozen=True, kw_only=True)
class VerifyConfig(StageConfig):
    """What to prove."""

    stale: bool = option(True, "Count a folder made from older inputs as a problem.")
    pictures: int = option(
        16, "Pictures of each set of codes to decode and compare; 0 for none.", low=0
    )


def show_verify(config: VerifyConfig, call: Call) -> StageReport:
    """Check everything and print what was found.

    Raises ContractError if anything is not as promised.
    """
    root = Workspace(config.workspace).open().root
    folders = find_folders(root)
    total = sum(len(folder.manifest.files) for folder in folders if folder.manifest)
    rows, problems, files = [], [], 0
    measured: dict[str, list[Facts]] = defaultdict(list)
    with call.screen.progress("verify") as progress:
        for folder in folders:
            found = list(check_folder(folder, stale=config.stale))
            inner, facts = look_inside(folder, Workspace(root), config.pictures)
            found += inner
            measured[folder.contract] += facts
            problems += found
            files += len(folder.manifest.files) if folder.manifest else 0
            progress(files, total)
            rows.append((folder.name, "ok" if not found else "; ".join(found)))
    call.screen.table("Verified", ("folder", "result"), rows)
    for contract, facts in measured.items():
        _show_facts(call, contract, facts)
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise ContractError(f"{problems[0]}{more}")
    return StageReport(
        stage="verify",
        outcome="done",
        counts={"folders": len(folders), "files": files},
        details={name: [dict(row) for row in facts] for name, facts in measured.items() if facts},
    )


def look_inside(folder: Folder, workspace: Workspace, pictures: int) -> Found:
    """Problems in a folder of codes or shards, and what was measured in it."""
    look = _inspectors().get(folder.contract)
    if look is None or folder.manifest is None:
        return [], []
    try:
        return look(folder, workspace, pictures)
    except PipelineError as error:
        return [f"{folder.name} can't be looked into: {error}"], []


def _inspectors() -> Mapping[str, Callable[[Folder, Workspace, int], Found]]:
    from pipeline.verify.codes import look_into_codes
    from pipeline.verify.shards import look_into_shards

    return {"codes": look_into_codes, "shards": look_into_shards}


def _show_facts(call: Call, contract: str, facts: list[Facts]) -> None:
    if facts:
        columns = tuple(facts[0])
        call.screen.table(
            f"Measured in {contract}", columns, [tuple(row.values()) for row in facts]
        )

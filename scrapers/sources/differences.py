"""Differences between page and catalogue: sentences for the report, one warning for losses.

Reads and writes `raw/differences.json`, the losses that a workspace was warned of: a weekly refresh warns of
new ones only.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.core.errors import ContractError
from pipeline.core.parsing import parse_json_file
from pipeline.core.storage import sha256_bytes, write_json
from pipeline.core.workspace import Workspace

logger = logging.getLogger(__name__)

MAX_SENTENCES = 200


def describe_differences(differences: Sequence[str]) -> dict[str, Any]:
    """The details of a report: how many there are, and the first `MAX_SENTENCES` of them."""
    return {
        "num_differences": len(differences),
        "differences": list(differences[:MAX_SENTENCES]),
    }


@dataclass(frozen=True, kw_only=True)
class Warned:
    """The content of `differences.json`: short hashes of the sentences that were warned of."""

    warned: tuple[str, ...] = ()


def warn_of_losses(losses: Sequence[str], workspace: Workspace | None = None) -> None:
    """One warning for all that could not be used; none if `workspace` was warned of each already."""
    if not losses:
        return
    number = len(losses)
    sentence = "Parts of the page could not be used: {}, the first: {}".format(
        "1 problem" if number == 1 else f"{number:,} problems", losses[0].rstrip(".") + "."
    )
    if workspace is not None and not _note_new(losses, workspace.raw / "differences.json"):
        logger.info("%s All of them are known.", sentence)
    else:
        logger.warning("%s The report has more (--json).", sentence)


def _note_new(losses: Sequence[str], path: Path) -> bool:
    """Whether some of these are not in the file at `path`; then they are added."""
    try:
        known = set(parse_json_file(path, Warned).warned)
    except ContractError:  # missing or damaged: it is written again
        known = set()
    found = {sha256_bytes(text.encode("utf-8", "surrogatepass"))[:16] for text in losses}
    if found <= known:
        return False
    write_json(path, {"warned": sorted(known | found)})
    return True

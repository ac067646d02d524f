"""Where page and catalogue disagree: one line for the log, the sentences for the report."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

logger = logging.getLogger(__name__)

MAX_SENTENCES = 200


def describe_differences(differences: Sequence[str]) -> dict[str, Any]:
    """The details of a report: how many there are, and the first `MAX_SENTENCES` of them."""
    return {
        "num_differences": len(differences),
        "differences": list(differences[:MAX_SENTENCES]),
    }


def warn_of_differences(differences: Sequence[str]) -> None:
    """One warning for all of them; none if there are none."""
    if differences:
        number = len(differences)
        logger.warning(
            "%s between page and catalogue, the first: %s More in the report (--json).",
            "1 difference" if number == 1 else f"{number:,} differences",
            differences[0].rstrip(".") + ".",
        )

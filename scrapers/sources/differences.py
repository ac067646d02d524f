"""Where page and catalogue disagree: the sentences for the report, one line for what was lost by it."""

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


def warn_of_losses(losses: Sequence[str]) -> None:
    """One warning for all that of the page could not be used; none if there is nothing."""
    if losses:
        number = len(losses)
        logger.warning(
            "The page gives cause for %s, the first: %s More in the report (--json).",
            "1 doubt" if number == 1 else f"{number:,} doubts",
            losses[0].rstrip(".") + ".",
        )

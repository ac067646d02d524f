"""The tokenizer of the workspace, to turn ids back into text and to count the tokens of captions."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from pipeline.core.errors import PipelineError
from pipeline.report.view import View

if TYPE_CHECKING:
    from pipeline.models.tokenizers.base import TextTokenizer

logger = logging.getLogger(__name__)


def load_tokenizer_of(view: View) -> TextTokenizer | None:
    """The tokenizer of the latest shards, else of the workspace; None if there is none that can be loaded."""
    for contract in ("shards", "tokenizer"):
        folder = view.latest(contract)
        if folder is None:
            continue
        try:
            from pipeline.models.tokenizers.load import load_tokenizer

            return load_tokenizer(folder.path / "tokenizer.json")
        except (ImportError, PipelineError) as error:
            logger.warning("Token ids are not shown as text: %s", error)
            return None
    return None

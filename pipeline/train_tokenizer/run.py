"""dedupe/captions.parquet → tokenizers/NAME/tokenizer.json: a byte-level BPE of the captions.

It is trained only on captions of the training split. The same captions and options produce the same bytes.
"""

from __future__ import annotations

import logging

import pyarrow.compute as pc

from pipeline.core.artifact import Artifact, digest_input, find_trained
from pipeline.core.config import resolved
from pipeline.core.contracts import StageReport
from pipeline.core.errors import ContractError
from pipeline.core.kept_images import dedupe_tables, read_tables
from pipeline.core.progress import Progress, no_progress
from pipeline.core.storage import write_bytes
from pipeline.core.workspace import Workspace
from pipeline.models.tokenizers.load import TOKENIZER_FILE, train_bpe
from pipeline.train_tokenizer.config import TrainTokenizerConfig

log = logging.getLogger(__name__)

_CAPTIONS = "captions.parquet"
_ROWS = 16_384


def run(config: TrainTokenizerConfig, progress: Progress = no_progress) -> StageReport:
    """Train a tokenizer; does nothing if captions and options are unchanged.

    A finished tokenizer is never replaced, since token ids may depend on it: another one is written to
    NAME-2, NAME-3, …. Raises ContractError if dedupe has not finished or there are no training captions,
    DamageError if its table was modified.
    """
    workspace = Workspace(config.workspace)
    inputs = digest_input(workspace.dedupe, "dedupe", root=workspace.root)
    named = workspace.tokenizer(config.name)
    out = find_trained(named, "tokenizer", config=resolved(config), inputs=inputs)
    if not out.is_current:
        _train(out, config, _training_captions(workspace), progress)
    return out.report()


def _train(
    out: Artifact, config: TrainTokenizerConfig, captions: list[str], progress: Progress
) -> None:
    progress(0, len(captions), None)
    tokenizer = train_bpe(captions, config.vocab_size)
    if tokenizer.vocab_size < config.vocab_size:
        log.warning(
            "The tokenizer has %d ids instead of --vocab-size %d: its %d training captions have no more "
            "pairs to merge.",
            tokenizer.vocab_size,
            config.vocab_size,
            len(captions),
        )
    out.start_over()
    write_bytes(out.folder / TOKENIZER_FILE, tokenizer.json_bytes)
    out.finish(
        counts={"captions": len(captions), "vocab_size": tokenizer.vocab_size},
        files=(TOKENIZER_FILE,),
        details={"fingerprint": tokenizer.fingerprint, "vocab_size": tokenizer.vocab_size},
    )
    progress(len(captions), len(captions), None)


def _training_captions(workspace: Workspace) -> list[str]:
    """Captions of the training split, in the table's order."""
    captions: list[str] = []
    for rows in read_tables(dedupe_tables(workspace, _CAPTIONS), ("caption", "split"), _ROWS):
        captions += rows.filter(pc.equal(rows["split"], "train"))["caption"].to_pylist()
    if not captions:
        raise ContractError(
            f"{workspace.dedupe / _CAPTIONS} has no captions in the training split: there is nothing to "
            "train on. Scrape more captions, then run `pipeline dedupe`."
        )
    return captions

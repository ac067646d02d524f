"""dedupe/captions.parquet → tokenizers/NAME/tokenizer.json: a byte-level BPE of the captions.

It is trained only on captions of the training split. The same captions and options produce the same bytes.
"""

from __future__ import annotations

import logging

import pyarrow.compute as pc

from pipeline.core.config import resolved
from pipeline.core.contracts import Manifest, StageReport
from pipeline.core.errors import ContractError
from pipeline.core.integrity import checked_files
from pipeline.core.inventory import find_trained, folder_for_training
from pipeline.core.kept_images import read_tables
from pipeline.core.ownership import start_over
from pipeline.core.progress import Progress, no_progress
from pipeline.core.storage import (
    file_entry,
    input_digest,
    make_manifest,
    read_manifest,
    write_bytes,
    write_manifest,
)
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
    named = workspace.tokenizer(config.name)
    dedupe = read_manifest(workspace.dedupe, "dedupe")
    inputs = {"dedupe": input_digest(workspace.dedupe)}
    plan = resolved(config)
    found = find_trained(named, "tokenizer", config=plan, inputs=inputs)
    if found is not None:
        folder, current = found
        return StageReport(
            stage="train-tokenizer",
            outcome="unchanged",
            counts=current.counts,
            outputs=(str(folder),),
            details=current.details,
        )
    folder = folder_for_training(named)
    captions = _training_captions(workspace, dedupe)
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
    start_over(folder, "tokenizer")
    write_bytes(folder / TOKENIZER_FILE, tokenizer.json_bytes)
    counts = {"captions": len(captions), "vocab_size": tokenizer.vocab_size}
    details = {"fingerprint": tokenizer.fingerprint, "vocab_size": tokenizer.vocab_size}
    files = (file_entry(folder / TOKENIZER_FILE, folder),)
    write_manifest(
        folder,
        make_manifest(
            "tokenizer", config=plan, inputs=inputs, counts=counts, files=files, details=details
        ),
    )
    progress(len(captions), len(captions), None)
    return StageReport(
        stage="train-tokenizer",
        outcome="done",
        counts=counts,
        outputs=(str(folder),),
        details=details,
    )


def _training_captions(workspace: Workspace, dedupe: Manifest) -> list[str]:
    """Captions of the training split, in the table's order."""
    entries = [entry for entry in dedupe.files if entry.path == _CAPTIONS]
    captions: list[str] = []
    for rows in read_tables(checked_files(workspace.dedupe, entries), ("caption", "split"), _ROWS):
        captions += rows.filter(pc.equal(rows["split"], "train"))["caption"].to_pylist()
    if not captions:
        raise ContractError(
            f"{workspace.dedupe / _CAPTIONS} has no captions in the training split: there is nothing to "
            "train on. Scrape more captions, then run `pipeline dedupe`."
        )
    return captions

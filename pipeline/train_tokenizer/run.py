"""dedupe/captions.parquet → tokenizers/NAME/tokenizer.json: a byte-level BPE of the captions.

It is trained only on captions of the training split. The same captions and options produce the same bytes.
"""

from __future__ import annotations

import logging
import time

import pyarrow.compute as pc

from pipeline.core.artifact import Artifact, digest_input, find_trained
from pipeline.core.config import resolved
from pipeline.core.contracts import StageReport
from pipeline.core.errors import ContractError
from pipeline.core.estimate import Estimate, announce, memory_so_far
from pipeline.core.kept_images import dedupe_tables, read_tables
from pipeline.core.progress import NOW, Progress, no_progress
from pipeline.core.quantities import rough_duration
from pipeline.core.storage import write_bytes
from pipeline.core.workspace import Workspace
from pipeline.models.tokenizers.load import TOKENIZER_FILE, train_bpe
from pipeline.train_tokenizer.config import TrainTokenizerConfig

log = logging.getLogger(__name__)

_CAPTIONS = "captions.parquet"
_ROWS = 16_384
# The time is judged by a hundredth of the captions, unless these are fewer than a few. Measured with 200,000
# captions: 65 bytes of tokenizer.json for each id, and 150 bytes of memory for each caption.
_MEASURED_SHARE, _FEW_CAPTIONS = 100, 200
_ID_BYTES, _CAPTION_MEMORY_BYTES = 65, 150


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
    progress = announce(_estimate(out, config, captions), progress, force=config.force)
    progress(0, len(captions), {NOW: "merging pairs"})
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


def _estimate(out: Artifact, config: TrainTokenizerConfig, captions: list[str]) -> Estimate:
    seconds = _guess_seconds(captions, config.vocab_size)
    return Estimate(
        stage="train-tokenizer",
        work=f"learn {config.vocab_size:,} ids from {len(captions):,} captions",
        folder=out.folder,
        disk_bytes=config.vocab_size * _ID_BYTES,
        memory_bytes=memory_so_far() + len(captions) * _CAPTION_MEMORY_BYTES,
        times="" if seconds is None else rough_duration(seconds),
    )


def _guess_seconds(captions: list[str], vocab_size: int) -> float | None:
    """The time for all captions, from that for some of them; None if there are too few to be worth it."""
    some = captions[: len(captions) // _MEASURED_SHARE]
    if len(some) < _FEW_CAPTIONS:
        return None
    began_s = time.monotonic()
    train_bpe(some, vocab_size)
    return (time.monotonic() - began_s) * len(captions) / len(some)


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

"""dedupe/kept + codes + a tokenizer → shards/NAME/{train,val}/NNNNNN.tar with an index and a dataset card.

Every kept image is written, rejected or failed; images left out are rows of `left_out.parquet`. The same
sequence of inputs yields the same bytes, even if runs were killed on the way. New images go into new shards;
existing shards are not written again (see `layout`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.core.artifact import find_artifact
from pipeline.core.config import resolved
from pipeline.core.contracts import LEFT_OUT, SPLITS, FileEntry, Split, StageReport
from pipeline.core.engine import LOCAL, open_pool
from pipeline.core.estimate import announce
from pipeline.core.ownership import own_files
from pipeline.core.progress import NOW, Progress, no_progress
from pipeline.core.storage import (
    arrow_schema,
    atomic_write,
    file_entry,
    input_digest,
    storage_error,
    write_bytes,
)
from pipeline.core.workspace import Workspace
from pipeline.models.tokenizers.load import TOKENIZER_FILE
from pipeline.shard.card import write_card
from pipeline.shard.codes import CODES_DTYPE, write_codes_file
from pipeline.shard.config import ShardConfig
from pipeline.shard.estimate import estimate_shards
from pipeline.shard.images import check_form
from pipeline.shard.inputs import Inputs, chosen_tokenizer, dalle_pytorch_options, find_inputs
from pipeline.shard.inspecting import inspect_sample
from pipeline.shard.join import Joined, LeftOut, TextFile, join
from pipeline.shard.layout import lay_out
from pipeline.shard.scratch import Scratch
from pipeline.shard.write import LayoutWriter
from pipeline.webdata.index import INDEX_NAME, ShardEntry, ShardIndex, TokenizerRef, write_index
from pipeline.webdata.remote import publish

log = logging.getLogger(__name__)

CARD = "README.md"
LEFT_OUT_TABLE = "left_out.parquet"
Entries = Mapping[Split, Sequence[ShardEntry]]


def run(config: ShardConfig, progress: Progress = no_progress) -> StageReport:
    """Write the shards and copy them to `config.out`; does nothing if nothing has changed.

    Raises ConfigError for options that match nothing, ContractError for inputs that violate their contract,
    StorageError if the disk or the object store fails, DependencyError if a package for the store is
    missing. With `config.inspect` it only shows that sample.
    """
    if config.inspect is not None:
        return inspect_sample(config, *config.inspect)
    report = make_shards(config, progress)
    return report if config.out is None else _publish(report, config.out, progress)


def _publish(report: StageReport, url: str, progress: Progress) -> StageReport:
    (folder,) = report.outputs
    published = publish(Path(folder), url, progress)
    unchanged = report.outcome == "unchanged" and not (published.uploaded or published.removed)
    return dataclasses.replace(
        report,
        outcome="done" if report.outcome == "unchanged" and not unchanged else report.outcome,
        outputs=(folder, url),
        details={**report.details, "published": dataclasses.asdict(published)},
    )


def make_shards(config: ShardConfig, progress: Progress) -> StageReport:
    """Write the shards into the workspace."""
    check_form(config.images)
    folder = Workspace(config.workspace).shards(config.name)
    config = dataclasses.replace(config, tokenizer=chosen_tokenizer(config))
    inputs = find_inputs(config)
    out = find_artifact(folder, "shards", config=resolved(config), inputs=inputs.digests)
    if out.is_current:
        return out.report(details={"fingerprint": input_digest(folder)})
    progress(0, None, {NOW: "checking the tables"})
    inputs.check()
    progress = announce(estimate_shards(config, inputs, folder), progress, force=config.force)
    scratch = Scratch(out, inputs.lineage(out.config))
    joined, entries, reused = _write_shards(config, inputs, folder, scratch, progress)
    index = make_index(config, inputs, entries)
    counts = _counts(config, index, joined)
    options = dalle_pytorch_options(inputs.tokenizer)
    card = write_card(
        index, counts, images=config.images, tokenizer_options=options, fields=joined.fields
    )
    files = _write_rest(folder, index, inputs, joined.left_out, card)
    scratch.end()
    out.finish(
        counts=counts,
        files=files,
        details={
            "codec": {"name": inputs.codec.name, "fingerprint": inputs.codec.fingerprint},
            "tokenizer": {"fingerprint": inputs.tokenizer.fingerprint},
        },
    )
    if counts["train"] and not counts["val"]:
        log.warning(
            "No sample is in the validation split: training has nothing to validate on. Run "
            "`pipeline dedupe` with a larger --val-fraction."
        )
    details = {"fingerprint": input_digest(folder), "shards_reused": reused}
    return out.report(incomplete=counts["failed"] > 0, details=details)


def _write_shards(
    config: ShardConfig, inputs: Inputs, folder: Path, scratch: Scratch, progress: Progress
) -> tuple[Joined, Entries, int]:
    """Join, lay out and write: the samples, their shards, and the number of shards that were reused."""
    base = scratch.begin()
    with (
        _disk_errors(scratch.path),
        contextlib.closing(write_codes_file(inputs, scratch.path / "codes")) as codes,
        contextlib.closing(TextFile(scratch.path / "texts")) as texts,
        open_pool(config.where() if config.reads_images else LOCAL, config.workers) as pool,
    ):
        joined = join(config, inputs, codes, texts, progress)
        seed = config.shuffle_seed if config.order == "shuffled" else None
        layout = lay_out(base.keys, joined.keys, joined.captions, joined.split_rows, seed=seed)
        shards = LayoutWriter(
            folder=folder,
            done=scratch.done,
            config=config,
            inputs=inputs,
            joined=joined,
            codes=codes,
            pool=pool,
            progress=progress,
        )
        return joined, shards.write(layout, base.entries), shards.reused


@contextlib.contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    """Translate errors of writing the scratch files in `path`."""
    try:
        yield
    except OSError as error:
        raise storage_error(error, path) from error


def make_index(config: ShardConfig, inputs: Inputs, entries: Entries) -> ShardIndex:
    """The index of these shards."""
    return ShardIndex(
        name=config.name,
        text_seq_len=config.text_seq_len,
        num_codes=inputs.num_codes,
        codebook_size=inputs.codebook_size,
        vocab_size=inputs.tokenizer.vocab_size,
        grid=inputs.grid,
        views=inputs.views,
        codec=inputs.codec,
        tokenizer=TokenizerRef(fingerprint=inputs.tokenizer.fingerprint, file=TOKENIZER_FILE),
        members=inputs.members,
        tokens_dtype=inputs.tokens_dtype,
        codes_dtype=CODES_DTYPE,
        lineage=inputs.lineage(resolved(config)),
        shards={split: tuple(entries[split]) for split in SPLITS},
    )


def _counts(config: ShardConfig, index: ShardIndex, joined: Joined) -> dict[str, int]:
    """Counts of what was written: images (+ further captions) = written + rejected + failed."""
    counts = {
        name: joined.counts[name] for name in ("images", "rejected", "failed", "long_captions")
    }
    if config.caption_choice == "all":
        counts["further_captions"] = joined.counts["samples"] - joined.counts["images"]
    for split in SPLITS:
        counts[split] = index.samples[split]
    counts["written"] = sum(index.samples.values())
    counts["shards"] = sum(len(index.shards[split]) for split in SPLITS)
    return counts


def _write_rest(
    folder: Path,
    index: ShardIndex,
    inputs: Inputs,
    left_out: list[LeftOut],
    card: str,
) -> tuple[FileEntry | str, ...]:
    """Write everything but tars and manifest, remove obsolete files, and list every file."""
    write_index(folder, index)
    write_bytes(folder / TOKENIZER_FILE, inputs.tokenizer.json_bytes)
    write_bytes(folder / CARD, card.encode())
    _write_left_out(folder / LEFT_OUT_TABLE, left_out)
    shards = [entry for split in SPLITS for entry in index.shards[split]]
    _remove_others(folder, {name for entry in shards for name in (entry.url, entry.table)})
    return (
        *(
            FileEntry(path=e.url, bytes=e.filesize, sha256=e.sha256, rows=e.nsamples)
            for e in shards
        ),
        *(FileEntry(path=e.table, bytes=e.table_bytes, sha256=e.table_sha256) for e in shards),
        *(INDEX_NAME, TOKENIZER_FILE, CARD),
        file_entry(folder / LEFT_OUT_TABLE, folder, rows=len(left_out)),
    )


def _write_left_out(path: Path, left_out: list[LeftOut]) -> None:
    columns = zip(*sorted(left_out), strict=True) if left_out else ([] for _ in LEFT_OUT)
    schema = arrow_schema(LEFT_OUT)
    table = pa.table([pa.array(list(c), pa.string()) for c in columns], schema=schema)
    with atomic_write(path) as file:
        pq.write_table(table, file)


def _remove_others(folder: Path, belonging: set[str]) -> None:
    """Remove the shards of an abandoned layout."""
    for name in own_files(folder, "shards"):
        if name.split("/")[0] in SPLITS and name not in belonging:
            (folder / name).unlink()

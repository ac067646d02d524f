"""Check shards: ids and codes are within their ranges, and the number of samples matches the manifest."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from pipeline.core.contracts import SPLITS, Split
from pipeline.core.inventory import Folder
from pipeline.core.workspace import Workspace
from pipeline.verify.faults import Facts, Fault
from pipeline.verify.usage import CodebookUse
from pipeline.webdata.index import INDEX_NAME
from pipeline.webdata.reader import ShardReader

_ROWS = 4096


def check_shards(
    folder: Folder, workspace: Workspace, images: int
) -> tuple[list[Fault], list[Facts]]:
    """Faults and measurements of the shards, one row of measurements per split."""
    del workspace, images  # the codes are those of the codes folder and are decoded there
    faults: list[Fault] = []
    facts: list[Facts] = []
    for split in SPLITS:
        found, measured = _check_split(folder, split)
        faults += found
        facts.append(measured)
    return faults, facts


def _check_split(folder: Folder, split: Split) -> tuple[list[Fault], Facts]:
    assert folder.manifest is not None
    reader = ShardReader(folder.path, split, check_hashes=False)
    use, ids = CodebookUse(reader.index.codebook_size), CodebookUse(reader.index.vocab_size)
    lengths = [np.zeros(0, np.int64)]
    faults: dict[tuple[str, str], Fault] = {}
    expected = folder.manifest.counts.get(split)
    if len(reader) != expected:
        found = f"lists {len(reader)} samples of {split}, expected {expected}"
        faults[INDEX_NAME, split] = Fault(folder=folder.name, file=INDEX_NAME, found=found)
    for rows, tokens, codes in _read(reader):
        lengths.append(_lengths(tokens))
        for name, highest, end in (
            ("code", use.add(codes), use.num_tokens),
            ("token id", ids.add(tokens), ids.num_tokens),
        ):
            if highest >= end:
                url = reader.url_of(int(rows[0]))
                found = f"has the {name} {highest}; the last one is {end - 1}"
                faults[url, name] = Fault(folder=folder.name, file=url, found=found)
    return list(faults.values()), _facts(folder, reader, np.concatenate(lengths), use)


def _read(
    reader: ShardReader,
) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.int32], npt.NDArray[np.int32]]]:
    """Rows of one shard with their ids [rows, T] and the codes of all views [views, rows, N]."""
    views = range(len(reader.index.views))
    for entry in reader.index.shards[reader.split]:
        of_shard = reader.rows_of(entry.url)
        for start in range(of_shard.start, of_shard.stop, _ROWS):
            rows = np.arange(start, min(start + _ROWS, of_shard.stop))
            batches = [reader.gather(rows, view) for view in views]
            yield rows, batches[0].tokens_BT, np.stack([batch.codes_BN for batch in batches])


def _lengths(tokens_BT: npt.NDArray[np.int32]) -> npt.NDArray[np.int64]:
    """The number of ids of each caption, up to the last that is not padding."""
    last = tokens_BT.shape[1] - np.argmax(tokens_BT[:, ::-1] != 0, axis=1)
    return np.where((tokens_BT != 0).any(axis=1), last, 0)


def _facts(
    folder: Folder, reader: ShardReader, lengths: npt.NDArray[np.int64], use: CodebookUse
) -> Facts:
    limit = reader.index.text_seq_len
    none = not len(lengths)
    return {
        "shards": f"{folder.name}/{reader.split}",
        "samples": len(reader),
        "token ids, median": 0 if none else int(np.median(lengths)),
        "most": 0 if none else int(lengths.max()),
        f"of {limit}": f"{0 if none else 100 * float((lengths == limit).mean()):.1f} % full",
        "codebook used": str(use),
        "perplexity": round(use.perplexity, 1),
    }

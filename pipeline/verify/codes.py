"""A folder of codes: every code lies in its codebook, and some decode to their pictures."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from pipeline.contracts import CodecFacts
from pipeline.inventory import Folder
from pipeline.shard.code_tables import read_batches
from pipeline.storage import read_detail
from pipeline.verify.pictures import compare_pictures
from pipeline.verify.usage import CodebookUse
from pipeline.workspace import Workspace

Facts = Mapping[str, object]


def look_into_codes(
    folder: Folder, workspace: Workspace, pictures: int
) -> tuple[list[str], list[Facts]]:
    """Problems of the codes and what was measured; decodes `pictures` of them."""
    assert folder.manifest is not None
    codec = read_detail(folder.path, folder.manifest, "codec", CodecFacts)
    use, problems, rows = CodebookUse(codec.num_tokens), [], 0
    num_codes = codec.grid[0] * codec.grid[1]
    for entry in folder.manifest.files:
        if entry.path.endswith(".parquet") and (folder.path / entry.path).is_file():
            for batch in read_batches(folder.path / entry.path, ["codes"]):
                rows += batch.num_rows
                problems += _check(f"{folder.name}/{entry.path}", batch, use, num_codes)
    facts = {
        "codes": folder.name,
        "rows": rows,
        "codebook used": str(use),
        "perplexity": round(use.perplexity, 1),
    }
    compared = compare_pictures(folder, workspace, pictures) if pictures and not problems else {}
    return problems, [{**facts, **compared}]


def _check(name: str, batch: pa.RecordBatch, use: CodebookUse, num_codes: int) -> list[str]:
    """What is wrong with some rows of a table."""
    lengths = np.diff(batch["codes"].offsets.to_numpy())
    wrong = lengths[lengths != num_codes]
    problems = [f"{name} has a row of {wrong[0]} codes, expected {num_codes}"] if len(wrong) else []
    highest = use.add(batch["codes"].flatten().to_numpy())
    if highest >= use.num_tokens:
        problems.append(f"{name} has the code {highest}, its codebook ends at {use.num_tokens - 1}")
    return problems

"""Check codes: all are within the codebook, each view occurs once, and a sample decodes to its images."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.core.contracts import CodecFacts
from pipeline.core.errors import PipelineError
from pipeline.core.inventory import Folder
from pipeline.core.kept_images import read_tables
from pipeline.core.ownership import path_inside
from pipeline.core.storage import MANIFEST_NAME, read_detail
from pipeline.core.workspace import Workspace
from pipeline.verify.faults import Facts, Fault
from pipeline.verify.folders import explain
from pipeline.verify.images import compare_images
from pipeline.verify.usage import CodebookUse

_COLUMNS = ("pixel_sha256", "view", "codes")
_ROWS = 4096


def check_codes(
    folder: Folder, workspace: Workspace, images: int
) -> tuple[list[Fault], list[Facts]]:
    """Faults and measurements of the codes; decodes `images` images."""
    assert folder.manifest is not None
    look = _CodesCheck(folder, read_detail(folder.path, folder.manifest, "codec", CodecFacts))
    names = [e.path for e in folder.manifest.files if e.path.endswith(".parquet")]
    faults = [fault for name in names for fault in look.check(name)]
    facts = {
        "codes": folder.name,
        "rows": look.rows,
        "codebook used": str(look.use),
        "perplexity": round(look.use.perplexity, 1),
    }
    compared = _compare(folder, workspace, images) if images and not faults else {}
    return faults, [{**facts, **compared}]


def _compare(folder: Folder, workspace: Workspace, images: int) -> Facts:
    """The PSNR, or why it can't be measured: its inputs may be damaged, which they report themselves."""
    try:
        return compare_images(folder, workspace, images)
    except PipelineError as error:
        return {"PSNR": f"not measured: {explain(error)}", "PSNR to other images": ""}


@dataclass
class _CodesCheck:
    """State of the check across a folder's tables."""

    folder: Folder
    codec: CodecFacts
    rows: int = 0
    use: CodebookUse = field(init=False)
    _seen: npt.NDArray[np.uint64] = field(init=False)

    def __post_init__(self) -> None:
        self.use = CodebookUse(self.codec.num_tokens)
        self._seen = np.zeros(0, dtype=np.uint64)

    def check(self, name: str) -> Iterator[Fault]:
        """Yield the faults of a table."""
        path = path_inside(self.folder.path, name, source=self.folder.path / MANIFEST_NAME)
        found: dict[str, None] = {}
        views = [np.zeros(0, dtype=np.uint64)]
        for batch in read_tables([path], _COLUMNS, _ROWS):
            self.rows += batch.num_rows
            found |= dict.fromkeys(self._check_codes(batch))
            views.append(_number_views(batch))
        numbers = np.concatenate(views)
        if len(np.unique(numbers)) < len(numbers) or np.isin(numbers, self._seen).any():
            found["has the same view of the same pixels twice"] = None
        self._seen = np.concatenate([self._seen, numbers])
        for text in found:
            yield Fault(folder=self.folder.name, file=name, found=text)

    def _check_codes(self, batch: pa.RecordBatch) -> Iterator[str]:
        rows, columns = self.codec.grid
        lengths = np.diff(batch["codes"].offsets.to_numpy())
        wrong = lengths[lengths != rows * columns]
        if len(wrong):
            yield f"has a row of {wrong[0]} codes, expected {rows * columns}"
        highest = self.use.add(batch["codes"].flatten().to_numpy())
        if highest >= self.codec.num_tokens:
            last = self.codec.num_tokens - 1
            yield f"has the code {highest}; its codebook ends at {last}"


def _number_views(batch: pa.RecordBatch) -> npt.NDArray[np.uint64]:
    """A 64-bit hash of each row's pixels and view."""
    names = zip(batch["pixel_sha256"].to_pylist(), batch["view"].to_pylist(), strict=True)
    hashes = (hashlib.blake2b(repr(name).encode(), digest_size=8).digest() for name in names)
    return np.frombuffer(b"".join(hashes), dtype="<u8")

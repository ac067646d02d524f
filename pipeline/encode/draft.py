"""The unfinished part of codes, saved so that a kill does not lose it: a part may take hours.

draft.npz holds the batches encoded so far. It is written every minute and on an interrupt; the next run
resumes after it with the same batches, so the part gets the same bytes.

Legend: B views of a batch, N codes of a view.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import accumulate
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.core.errors import ContractError
from pipeline.core.parsing import parse_json
from pipeline.core.storage import atomic_write
from pipeline.encode.batches import Task
from pipeline.encode.parts import DRAFT_NAME, FailedRow


@dataclass(frozen=True, kw_only=True)
class Done:
    """An encoded batch: its number of images, their views (hash, name), codes and failures."""

    images: int
    views: tuple[tuple[str, str], ...]
    codes_BN: npt.NDArray[np.uint16]
    failed: tuple[FailedRow, ...]


@dataclass(frozen=True, kw_only=True)
class _Described:
    """The metadata of a batch in the draft."""

    images: int = field(metadata={"low": 1})
    views: tuple[tuple[str, str], ...]
    failed: tuple[FailedRow, ...]


def write_draft(folder: Path, done: Sequence[Done]) -> None:
    """Save the batches of the current part; raises StorageError if writing fails."""
    described = [asdict(_Described(images=d.images, views=d.views, failed=d.failed)) for d in done]
    with atomic_write(folder / DRAFT_NAME) as file:
        np.savez(
            file,
            allow_pickle=False,
            batches=np.frombuffer(json.dumps(described).encode(), dtype=np.uint8),
            codes=np.concatenate([d.codes_BN for d in done]),
        )


def read_draft(folder: Path, part: Sequence[Task], num_codes: int) -> list[Done]:
    """The saved batches if they are the first ones of `part`, else an empty list."""
    try:
        with np.load(folder / DRAFT_NAME, allow_pickle=False) as saved:
            text, codes_XN = bytes(saved["batches"]), saved["codes"]
        described = parse_json(list[_Described], text, source=DRAFT_NAME)
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile, ContractError):
        return []
    rows = [0, *accumulate(len(batch.views) for batch in described)]
    if codes_XN.shape != (rows[-1], num_codes) or codes_XN.dtype != np.uint16:
        return []
    done = [
        Done(
            images=batch.images,
            views=batch.views,
            codes_BN=codes_XN[start:end],
            failed=batch.failed,
        )
        for batch, start, end in zip(described, rows, rows[1:], strict=False)
    ]
    return done if _is_prefix(part, done) else []


def remove_draft(folder: Path) -> None:
    """Delete the draft once its part is written."""
    (folder / DRAFT_NAME).unlink(missing_ok=True)


def count_images(done: Sequence[Done]) -> int:
    """The number of images in batches, including failures."""
    return sum(batch.images for batch in done)


def _is_prefix(part: Sequence[Task], done: Sequence[Done]) -> bool:
    """Whether the batches hold exactly the views of a part's first images."""
    first = part[: count_images(done)]
    failed = {row.pixel_sha256 for batch in done for row in batch.failed}
    wanted = [
        (task.image.pixel_sha256, view)
        for task in first
        if task.image.pixel_sha256 not in failed
        for view in task.views
    ]
    found = [view for batch in done for view in batch.views]
    return wanted == found and failed <= {task.image.pixel_sha256 for task in first}

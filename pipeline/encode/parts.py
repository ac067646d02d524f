"""A codes folder on disk: parts, which are only ever added, and the list of failures.

NNNNN.parquet is a part; its existence marks it as complete. During a run, NNNNN.failed.jsonl beside it lists
the part's failed images. At the end these are merged into failed.jsonl, and parts without rows are removed.
A new part takes the first free number, so a rebuilt part gets its old number.

Legend: N codes of an image.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.core import ownership
from pipeline.core.contracts import CODES, FileEntry, Manifest
from pipeline.core.errors import REPAIR, damaged
from pipeline.core.integrity import checked_files, described_files
from pipeline.core.parsing import read_json_lines
from pipeline.core.storage import (
    TABLE_OPTIONS,
    atomic_write,
    file_entry,
    table_schema,
    write_bytes,
)

FAILED_NAME = "failed.jsonl"
DRAFT_NAME = "draft.npz"  # the current part's batches: see `draft`
_REMEDY = "Delete the file: its images are then tried again."

_PART = re.compile(r"\d+\.parquet")
_OF_A_RUN = re.compile(r"\d+\.(parquet|failed\.jsonl)(\.partial)?")


@dataclass(frozen=True, kw_only=True)
class FailedRow:
    """An image without codes, and the reason; a line of `failed.jsonl`."""

    pixel_sha256: str
    key: str
    status: str
    detail: str


@dataclass(frozen=True)
class CodesFolder:
    """The parts and failures of one codes folder; the constructor does no I/O."""

    path: Path

    def check(self, manifest: Manifest | None) -> None:
        """Check that the folder can be resumed, and delete what its last run left beside `manifest`'s files.

        Raises WorkspaceError for a folder that is not ours; DamageError, and changes nothing, for a part
        that was modified after its run finished.
        """
        ownership.claim(self.path, "codes")
        checked_files(self.path, described_files(self.path).values())
        if manifest is not None:
            self.sweep(manifest)

    def encoded(self) -> dict[str, frozenset[str]]:
        """The views that have codes, by pixel hash.

        Raises DamageError, naming the part, if one can't be read.
        """
        found: dict[str, frozenset[str]] = {}
        sets: dict[frozenset[str], frozenset[str]] = {}  # shares equal sets to save memory
        for path in self._parts():
            for pixel_sha256, view in _read_views(path):
                views = found.get(pixel_sha256, frozenset()) | {view}
                found[pixel_sha256] = sets.setdefault(views, views)
        return found

    def failed(self) -> dict[str, FailedRow]:
        """Failures in the parts of the current run, by pixel hash."""
        rows: dict[str, FailedRow] = {}
        for part in self._parts():
            path = self._failed_path(part)
            for row in read_json_lines(path, FailedRow, remedy=_REMEDY):
                rows[row.pixel_sha256] = row
        return rows

    def failed_rows(self) -> list[FailedRow]:
        """Failures of the last finished run."""
        return read_json_lines(self.path / FAILED_NAME, FailedRow, remedy=REPAIR)

    def add_part(
        self,
        views: Sequence[tuple[str, str]],
        codes_BN: npt.NDArray[np.uint16],
        failed: Sequence[FailedRow],
    ) -> Path:
        """Write the next part: the codes of `views` (hash, name) in order, and the failures."""
        taken = {int(part.stem) for part in self._parts()}
        number = next(number for number in itertools.count() if number not in taken)
        path = self.path / f"{number:05d}.parquet"
        failures = self._failed_path(path)
        if failed:
            write_bytes(failures, _lines(failed))
        else:
            failures.unlink(missing_ok=True)
        with atomic_write(path) as file:
            pq.write_table(_table(views, codes_BN), file, **TABLE_OPTIONS)
        return path

    def files(self) -> tuple[FileEntry, ...]:
        """The non-empty parts, for the manifest."""
        rows = {path: pq.read_metadata(path).num_rows for path in self._parts()}
        return tuple(
            file_entry(path, self.path, rows=count) for path, count in rows.items() if count
        )

    def write_failed(self, rows: Sequence[FailedRow]) -> tuple[FileEntry, ...]:
        """Write failed.jsonl, or delete it if nothing failed."""
        path = self.path / FAILED_NAME
        if not rows:
            path.unlink(missing_ok=True)
            return ()
        write_bytes(path, _lines(rows))
        return (file_entry(path, self.path, rows=len(rows)),)

    def sweep(self, manifest: Manifest) -> None:
        """Delete files that only an unfinished run needs."""
        named = {entry.path for entry in manifest.files}
        for path in sorted(self.path.glob("[0-9]*")):
            if _OF_A_RUN.fullmatch(path.name) and path.name not in named:
                path.unlink()
        (self.path / DRAFT_NAME).unlink(missing_ok=True)

    def _parts(self) -> list[Path]:
        found = (path for path in self.path.glob("*.parquet") if _PART.fullmatch(path.name))
        return sorted(found, key=lambda path: int(path.stem))

    def _failed_path(self, part: Path) -> Path:
        return part.with_name(f"{part.stem}.{FAILED_NAME}")


def _read_views(path: Path) -> Iterator[tuple[str, str]]:
    """(hash, name) of each view in a part."""
    try:
        table = pq.read_table(path, columns=["pixel_sha256", "view"])
        columns = (table["pixel_sha256"].to_pylist(), table["view"].to_pylist())
    except (OSError, KeyError, IndexError, pa.ArrowException) as error:
        raise damaged(f"{path} can't be read ({error}).") from error
    return zip(*columns, strict=True)


def _table(views: Sequence[tuple[str, str]], codes_BN: npt.NDArray[np.uint16]) -> pa.Table:
    offsets = np.arange(len(codes_BN) + 1, dtype=np.int32) * codes_BN.shape[1]
    codes = pa.ListArray.from_arrays(pa.array(offsets), pa.array(codes_BN.reshape(-1)))
    columns = [pa.array([row[place] for row in views], pa.string()) for place in (0, 1)]
    columns.append(codes)
    return pa.Table.from_arrays(columns, schema=table_schema(CODES))


def _lines(rows: Sequence[FailedRow]) -> bytes:
    return "".join(json.dumps(asdict(row), sort_keys=True) + "\n" for row in rows).encode()

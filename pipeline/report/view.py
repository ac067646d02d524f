"""The inputs of every part of the report, and how its parts read tables and shrink images."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from pipeline.core.contracts import KEPT, REJECTED
from pipeline.core.image_decode import Pixels, decode_image
from pipeline.core.inventory import Folder
from pipeline.core.kept_images import dedupe_tables, read_image, read_image_tables, stored_image
from pipeline.core.storage import arrow_schema
from pipeline.core.workspace import Workspace
from pipeline.report.config import ReportConfig
from pipeline.report.page import fit, image_tag

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.compute as pc

_MAX_PIXELS = 64 * 2**20
_ROWS = 16_384
_TABLES = {"kept/": KEPT, "rejected/": REJECTED}


@dataclass(frozen=True, kw_only=True)
class View:
    """The workspace as its manifests describe it, and the options of the page."""

    workspace: Workspace
    folders: list[Folder]
    config: ReportConfig
    loaded: dict[Path, Any] = field(default_factory=dict, repr=False, compare=False)
    _tables: dict[str, tuple[Path, ...]] = field(default_factory=dict, repr=False, compare=False)

    def finished(self, contract: str) -> list[Folder]:
        """The finished folders of a contract."""
        return [f for f in self.folders if f.contract == contract and f.manifest is not None]

    def latest(self, contract: str) -> Folder | None:
        """The finished folder of a contract that was made last, if there is one."""
        folders = self.finished(contract)
        name = self.workspace.latest(contract)
        return next((f for f in folders if f.path.name == name), folders[-1] if folders else None)

    def batches(self, prefix: str, columns: list[str]) -> Iterator[pa.RecordBatch]:
        """The rows of the dedupe tables below `prefix`; raises DamageError if a table was changed."""
        if prefix not in self._tables:  # checking their hashes takes as long as reading them
            self._tables[prefix] = dedupe_tables(self.workspace, prefix)
        return read_image_tables(self._tables[prefix], columns, _ROWS)

    def read_table(
        self, prefix: str, columns: list[str], wanted: pc.Expression | None = None
    ) -> pa.Table:
        """The wanted rows of the dedupe tables below `prefix` as one table."""
        import pyarrow as pa

        schema = pa.schema([f for f in arrow_schema(_TABLES[prefix]) if f.name in columns])
        parts = [schema.empty_table().select(columns)]
        for rows in self.batches(prefix, columns):
            part = pa.Table.from_batches([rows])
            parts.append(part if wanted is None else part.filter(wanted))
        return pa.concat_tables(parts).select(columns)

    def read_rows(
        self, prefix: str, columns: list[str], positions: Iterable[int]
    ) -> dict[int, dict[str, Any]]:
        """The rows at `positions`, counted over all tables below `prefix`, by position."""
        wanted = sorted(set(positions))
        rows: dict[int, dict[str, Any]] = {}
        start = 0
        for batch in self.batches(prefix, columns):
            here = [at for at in wanted if start <= at < start + len(batch)]
            values = batch.take([at - start for at in here]).to_pylist() if here else []
            rows.update(zip(here, values, strict=True))
            start += len(batch)
        return rows

    def pixels(self, row: Mapping[str, Any]) -> Pixels:
        """The raster of a scraped image, from its row in `kept`."""
        return decode(read_image(self.workspace.segments, stored_image(row)))

    def thumbnail(self, row: Mapping[str, Any], alt: str) -> str:
        """The `<img>` of a scraped image, from its row in `kept`."""
        return thumbnail(self.pixels(row), self.config.thumbnail, alt)


def thumbnail(pixels_HWC: Pixels, side: int, alt: str) -> str:
    """The `<img>` of a raster, in its own shape, in a square of `side` CSS pixels."""
    height, width, _ = pixels_HWC.shape
    data = shrink(pixels_HWC, side)
    return image_tag(data, kind="jpeg", alt=alt, size=fit((width, height), side))


def decode(data: bytes) -> Pixels:
    """The RGB raster of an image file."""
    return decode_image(data, max_pixels=_MAX_PIXELS).pixels_HWC


def shrink(pixels_HWC: Pixels, side: int) -> bytes:
    """A JPEG for a square of `side` CSS pixels, sharp on displays with two device pixels for each."""
    small = Image.fromarray(pixels_HWC)
    small.thumbnail((2 * side, 2 * side))
    out = io.BytesIO()
    small.save(out, "JPEG", quality=82)
    return out.getvalue()

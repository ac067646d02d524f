"""What shards and tables of codes say of samples: where each is, its ids as text, what its codes decode to.

Used by the report for all images on its page at once, and by `pipeline serve` for one image at a time.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pipeline.core.contracts import SPLITS
from pipeline.core.errors import PipelineError
from pipeline.core.image_decode import Pixels
from pipeline.core.integrity import checked_files
from pipeline.core.inventory import Folder
from pipeline.core.kept_images import read_tables
from pipeline.report.reconstructions import (
    decode_codes,
    load_latest_codec,
    most_decoded,
    quality_of,
)
from pipeline.report.tokens import load_tokenizer_of
from pipeline.report.view import View
from pipeline.webdata.keys import read_keys
from pipeline.webdata.reader import Sample, ShardReader

if TYPE_CHECKING:
    from pipeline.models.tokenizers.base import TextTokenizer

logger = logging.getLogger(__name__)

_MAX_SCANNED_BYTES = 16 * 10**9  # of shards whose headers are read
_CODES_ROWS = 4096

Codes = npt.NDArray[np.int32]


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a sample is: its shard, what the shard says of it, and its token ids as text."""

    shard: str
    sample: Sample
    text: str | None


@dataclass(frozen=True, kw_only=True)
class Reconstruction:
    """What a sample's codes decode to, and its PSNR in dB."""

    pixels_HWC: Pixels
    psnr_db: float


# --- Shards -------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class OpenShards:
    """The shards of a workspace, opened once for any number of samples; `splits` has the key of every row."""

    folder: Folder
    splits: tuple[tuple[ShardReader, npt.NDArray[np.bytes_]], ...]
    tokenizer: TextTokenizer | None

    def find(self, keys: Iterable[str]) -> dict[str, Place]:
        """The place of each image (at least one) that is in a shard, by its key, with its first caption.

        Raises ContractError or DamageError if a sample can't be read.
        """
        wanted = np.array(sorted(key.encode() for key in keys), dtype=np.bytes_)
        found = [
            self._place(reader, int(row))
            for reader, keys_R in self.splits
            for row in _rows_with(keys_R, wanted)
        ]
        return {place.sample.key: place for place in found}

    def _place(self, reader: ShardReader, row: int) -> Place:
        sample = reader.sample(row)
        return Place(
            shard=f"{self.folder.name}/{reader.url_of(row)}",
            sample=sample,
            text=self._text(sample.tokens.tolist()),
        )

    def _text(self, tokens: list[int]) -> str | None:
        try:
            return None if self.tokenizer is None else self.tokenizer.decode(tokens)
        except PipelineError as error:
            return str(error)


def open_shards(view: View) -> OpenShards | None:
    """The latest shards, after reading all keys; None if there are none, or too many bytes to read.

    Takes about a second for a million samples. Raises ContractError or DamageError if they are damaged.
    """
    folder = view.latest("shards")
    if folder is None or folder.manifest is None:
        return None
    if sum(entry.bytes for entry in folder.manifest.files) > _MAX_SCANNED_BYTES:
        logger.info("%s is too large to look up in which shard samples are", folder.name)
        return None
    readers = [ShardReader(folder.path, split, check_hashes=False) for split in SPLITS]
    return OpenShards(
        folder=folder,
        splits=tuple((reader, _all_keys(reader)) for reader in readers if len(reader)),
        tokenizer=load_tokenizer_of(view),
    )


def _rows_with(
    keys_R: npt.NDArray[np.bytes_], wanted: npt.NDArray[np.bytes_]
) -> npt.NDArray[np.int64]:
    """The rows whose keys are wanted, which are sorted and at least one; `np.isin` takes 10 times as long."""
    nearest_R = wanted.searchsorted(keys_R).clip(max=len(wanted) - 1)
    return np.flatnonzero(wanted[nearest_R] == keys_R)


def _all_keys(reader: ShardReader) -> npt.NDArray[np.bytes_]:
    entries = reader.index.shards[reader.split]
    return np.concatenate([read_keys(reader.folder, entry) for entry in entries])


# --- Codes --------------------------------------------------------------------------------------------


def find_codes(
    view: View, rows: Iterable[Mapping[str, Any]], places: Mapping[str, Place]
) -> dict[str, Codes]:
    """The codes of samples by key: from their shards, else from the tables of codes.

    Raises DamageError for a table that was changed.
    """
    if places or view.latest("shards") is not None:
        return {key: place.sample.codes for key, place in places.items()}
    folder = view.latest("codes")
    keys = {row["pixel_sha256"]: row["key"] for row in rows if row.get("pixel_sha256")}
    if folder is None or folder.manifest is None:
        return {}
    return {keys[pixels]: codes for pixels, codes in _read_codes(folder, keys)}


def _read_codes(folder: Folder, pixels: Mapping[str, str]) -> Iterable[tuple[str, Codes]]:
    """(hash of the pixels, codes of the first view) of the images with these pixel hashes."""
    import pyarrow as pa
    import pyarrow.compute as pc

    assert folder.manifest is not None
    parts = (entry for entry in folder.manifest.files if entry.path.endswith(".parquet"))
    wanted, seen = pa.array(sorted(pixels), pa.string()), set()
    for part in parts:
        tables = checked_files(folder.path, [part])
        for batch in read_tables(tables, ["pixel_sha256", "view", "codes"], _CODES_ROWS):
            for row in batch.filter(pc.is_in(batch["pixel_sha256"], wanted)).to_pylist():
                if row["view"] == "center" and row["pixel_sha256"] not in seen:
                    seen.add(row["pixel_sha256"])
                    yield row["pixel_sha256"], np.array(row["codes"], dtype=np.int32)
        if len(seen) == len(pixels):
            return


def reconstruct_samples(
    view: View, rows: Sequence[Mapping[str, Any]], codes: Mapping[str, Codes]
) -> dict[str, Reconstruction]:
    """What the codes of rows of `kept` decode to, by key; only a few if the codec is large.

    Raises DependencyError without torch, ModelError if the codec can't be loaded or the codes are not its
    own.
    """
    wanted = [row for row in rows if row["key"] in codes]
    codec = load_latest_codec(view) if wanted else None
    if codec is None:
        return {}
    wanted = wanted[: most_decoded(codec, len(wanted))]
    decoded = decode_codes(codec, np.stack([codes[row["key"]] for row in wanted]))
    return {
        row["key"]: Reconstruction(
            pixels_HWC=pixels_HWC, psnr_db=quality_of(view.pixels(row), pixels_HWC)
        )
        for row, pixels_HWC in zip(wanted, decoded, strict=True)
    }

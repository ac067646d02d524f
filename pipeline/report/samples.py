"""The images of the page that open when clicked, and what is then shown of each.

A sample is shown as its original beside its reconstruction from codes, its token ids turned back into text,
its record, where it came from and in which shard it is. All of this is looked up once, at the end, for all
images on the page: codes and ids in the shards, or the codes alone before there are shards.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pipeline.core.contracts import SPLITS
from pipeline.core.errors import DependencyError, PipelineError
from pipeline.core.image_decode import DecodeError
from pipeline.core.integrity import checked_files
from pipeline.core.kept_images import STORED_IMAGE_COLUMNS, read_image, read_tables, stored_image
from pipeline.core.plain_text import plain_text
from pipeline.core.tar import BLOCK
from pipeline.report.page import data_uri, shown
from pipeline.report.reconstructions import (
    decode_codes,
    load_latest_codec,
    most_decoded,
    quality_of,
)
from pipeline.report.tokens import load_tokenizer_of
from pipeline.report.view import View, decode, shrink, thumbnail
from pipeline.webdata.index import ShardEntry
from pipeline.webdata.keys import key_of_header, read_table
from pipeline.webdata.reader import Sample, ShardReader

if TYPE_CHECKING:
    from pipeline.models.tokenizers.base import TextTokenizer

logger = logging.getLogger(__name__)

# What a button needs of a row of `kept` or `rejected`; the rest of what the row says is shown, too.
SAMPLE_COLUMNS = (
    "key", "url", "source", "section", "caption", "captions", "rank", "extra", *STORED_IMAGE_COLUMNS,
)  # fmt: skip
KEPT_COLUMNS = (
    *SAMPLE_COLUMNS, "format", "width", "height", "pixel_sha256", "looks_cut", "cluster", "split",
)  # fmt: skip
REJECTED_COLUMNS = (*SAMPLE_COLUMNS, "reason", "detail", "stands_for")
_MAX_SCANNED_BYTES = 16 * 10**9  # of shards whose headers are searched for the samples
_CODES_ROWS = 4096


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a sample is: its shard, and what the shard says of it."""

    shard: str
    sample: Sample


@dataclass(kw_only=True)
class SampleBook:
    """The samples on the page, each listed once, in the order of their first image."""

    view: View
    rows: list[dict[str, Any]] = field(default_factory=list)
    _numbers: dict[str, int] = field(default_factory=dict)
    _tokenizer: list[TextTokenizer | None] = field(default_factory=list)

    def button(self, row: Mapping[str, Any], alt: str) -> str:
        """The image of a row of `kept` or `rejected`, as a button that opens its sample.

        An image that can't be decoded is replaced by the reason.
        """
        number = self._numbers.setdefault(row["key"], len(self.rows))
        if number == len(self.rows):
            self.rows.append(dict(row))
        side = self.view.config.thumbnail
        if not row["segment"]:
            return _placeholder(side, "no bytes", "It was not fetched.")
        try:
            image = thumbnail(self.view.pixels(row), side, alt)
        except (DecodeError, PipelineError) as error:
            return _placeholder(side, "can't be decoded", str(error))
        return f'<button type="button" class="shot" data-sample="{number}">{image}</button>'

    def describe(self) -> list[dict[str, Any]]:
        """What the page shows of each sample: title, facts, JSON; the reconstruction if there are codes."""
        places = self._find_places()
        codes = self._codes(places)
        pictures = self._reconstruct(codes)
        return [
            self._describe(row, places.get(row["key"])) | pictures.get(row["key"], {})
            for row in self.rows
        ]

    def _describe(self, row: Mapping[str, Any], place: Place | None) -> dict[str, Any]:
        text = None if place is None else self._text(place)
        facts = [*_facts(row), *([] if place is None else _place_facts(place, text))]
        record = dict(row) | {"captions": list(row.get("captions") or ())}
        shard = None if place is None else {"key": place.sample.key, "json": place.sample.record}
        return {
            "title": plain_text(str(row["caption"])),
            "facts": [(name, plain_text(value)) for name, value in facts],
            "json": {"dedupe": record, "shard": shard},
        }

    # --- Shards ----------------------------------------------------------------------------------------

    def _find_places(self) -> dict[str, Place]:
        """The sample of each row that is in a shard, by key."""
        folder = self.view.latest("shards")
        kept = {row["key"] for row in self.rows if "split" in row}
        if folder is None or folder.manifest is None or not kept:
            return {}
        if sum(entry.bytes for entry in folder.manifest.files) > _MAX_SCANNED_BYTES:
            logger.info("%s is too large to look up in which shard samples are", folder.name)
            return {}
        places: dict[str, Place] = {}
        try:
            for split in SPLITS:
                reader = ShardReader(folder.path, split, check_hashes=False)
                for row in _find_rows(reader, kept):
                    sample = reader.sample(row)
                    shard = f"{folder.name}/{reader.url_of(row)}"
                    places[sample.key] = Place(shard=shard, sample=sample)
        except (PipelineError, OSError) as error:
            logger.warning("The samples' shards can't be looked up: %s", error)
        return places

    def _text(self, place: Place) -> str | None:
        """The text of a sample's token ids, from the tokenizer beside its shards."""
        if not self._tokenizer:
            self._tokenizer.append(load_tokenizer_of(self.view))
        tokenizer = self._tokenizer[0]
        try:
            return None if tokenizer is None else tokenizer.decode(place.sample.tokens.tolist())
        except PipelineError as error:
            return str(error)

    # --- Codes -----------------------------------------------------------------------------------------

    def _codes(self, places: Mapping[str, Place]) -> dict[str, npt.NDArray[np.int32]]:
        """The codes of the samples by key: from their shards, else from the tables of codes."""
        if places or self.view.latest("shards") is not None:
            return {key: place.sample.codes for key, place in places.items()}
        folder = self.view.latest("codes")
        keys = {row["pixel_sha256"]: row["key"] for row in self.rows if row.get("pixel_sha256")}
        if folder is None or folder.manifest is None:
            return {}
        return {
            keys[pixels]: codes
            for pixels, codes in _read_codes(folder.path, folder.manifest.files, keys)
        }

    def _reconstruct(self, codes: Mapping[str, npt.NDArray[np.int32]]) -> dict[str, dict[str, str]]:
        """The reconstruction of each sample with codes, and its PSNR, by key."""
        wanted = [row for row in self.rows if row["key"] in codes]
        try:
            codec = load_latest_codec(self.view) if wanted else None
            if codec is None:
                return {}
            wanted = wanted[: most_decoded(codec, len(wanted))]
            decoded = decode_codes(codec, np.stack([codes[row["key"]] for row in wanted]))
        except (PipelineError, DependencyError, ValueError) as error:
            logger.warning("Samples are shown without their reconstructions: %s", error)
            return {}
        side, pictures = self.view.config.thumbnail, {}
        for row, pixels_HWC in zip(wanted, decoded, strict=True):
            original = decode(read_image(self.view.workspace.segments, stored_image(row)))
            words = f"reconstruction, PSNR {quality_of(original, pixels_HWC):.1f} dB"
            picture = data_uri(shrink(pixels_HWC, side), "jpeg")
            pictures[row["key"]] = {"reconstruction": picture, "quality": words}
        return pictures


def _placeholder(side: int, words: str, why: str) -> str:
    """What stands where an image can't be shown."""
    style = f"width:{side}px;min-height:{side // 2}px"
    return f'<span class="none" style="{style}" title="{shown(why)}">{shown(words)}</span>'


def _facts(row: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    """What the tables say of a sample, for people."""
    further = [text for text in (row.get("captions") or ())[1:] if text]
    yield "caption", str(row["caption"])
    if further:
        yield "further captions", "\n".join(further)
    yield "came from", str(row["url"])
    yield "source, section", f"{row['source']}, {row['section'] or 'none'}"
    if row["rank"] is not None:
        yield "rank", str(row["rank"])
    for name in ("reason", "detail", "stands_for", "split", "cluster"):
        if row.get(name):
            yield (
                {"stands_for": "represented by", "detail": "evidence"}.get(name, name),
                str(row[name]),
            )
    if row.get("width"):
        yield (
            "image",
            f"{row['format']}, {row['width']} × {row['height']} pixels, {row['bytes']:,} bytes",
        )
    if row["segment"]:
        yield "bytes in", f"{row['segment']} at {row['offset']:,}"
    if row["extra"]:
        yield "from the source", _one_line(row["extra"])


def _one_line(extra: str) -> str:
    try:
        return json.dumps(json.loads(extra), ensure_ascii=False)
    except ValueError:
        return extra


def _place_facts(place: Place, text: str | None) -> Iterable[tuple[str, str]]:
    ids = [int(i) for i in place.sample.tokens if i]
    yield "shard", place.shard
    yield f"{len(ids)} token ids", " ".join(map(str, ids))
    if text is not None:
        yield "ids as text", text
    codes = place.sample.codes.tolist()
    yield f"{len(codes)} codes", " ".join(map(str, codes[:24])) + (" …" if len(codes) > 24 else "")


def _find_rows(reader: ShardReader, keys: set[str]) -> Iterable[int]:
    """The rows of a split whose keys are wanted, from the headers of its tars."""
    for entry in reader.index.shards[reader.split]:
        first = reader.rows_of(entry.url).start if entry.nsamples else 0
        for at in _find_in_shard(reader.folder, entry, keys):
            yield first + at


def _find_in_shard(folder: Path, entry: ShardEntry, keys: set[str]) -> list[int]:
    """The positions in a tar of the samples with these keys."""
    if not entry.nsamples:
        return []
    starts = read_table(folder, entry)[:, 0, 0] - BLOCK
    tar = np.memmap(folder / entry.url, dtype=np.uint8, mode="r")
    names = np.lib.stride_tricks.sliding_window_view(tar, 100)[starts]
    # Compared as bytes first: turning a million headers into text takes seconds.
    ends = np.where((names == ord(".")).any(axis=1), (names == ord(".")).argmax(axis=1), 100)
    found = np.where(np.arange(100) < ends[:, None], names, 0).astype(np.uint8).view("S100")[:, 0]
    wanted = np.array(sorted(key.encode() for key in keys), dtype="S100")
    places = np.flatnonzero(np.isin(found, wanted))
    return [int(at) for at in places if key_of_header(names[at].tobytes()) in keys]


def _read_codes(
    folder: Path, entries: Iterable[Any], pixels: Mapping[str, str]
) -> Iterable[tuple[str, npt.NDArray[np.int32]]]:
    """(hash of the pixels, codes of the first view) of the images with these pixel hashes."""
    import pyarrow as pa
    import pyarrow.compute as pc

    tables = checked_files(folder, (e for e in entries if e.path.endswith(".parquet")))
    wanted, seen = pa.array(sorted(pixels), pa.string()), set()
    for batch in read_tables(tables, ["pixel_sha256", "view", "codes"], _CODES_ROWS):
        for row in batch.filter(pc.is_in(batch["pixel_sha256"], wanted)).to_pylist():
            if row["view"] == "center" and row["pixel_sha256"] not in seen:
                seen.add(row["pixel_sha256"])
                yield row["pixel_sha256"], np.array(row["codes"], dtype=np.int32)

"""The images of the page that open when clicked, and what is then shown of each.

A sample is shown as its original beside its reconstruction from codes, its token ids turned back into text,
its record, where it came from and in which shard it is. All of this is looked up once, at the end, for all
images on the page: codes and ids in the shards, or the codes alone before there are shards.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.core.errors import PipelineError
from pipeline.core.image_decode import DecodeError
from pipeline.core.kept_images import STORED_IMAGE_COLUMNS
from pipeline.core.plain_text import plain_text
from pipeline.report.lookup import (
    Codes,
    Place,
    Reconstruction,
    find_codes,
    open_shards,
    reconstruct_samples,
)
from pipeline.report.page import data_uri, shown
from pipeline.report.view import View, shrink, thumbnail

logger = logging.getLogger(__name__)

# What a button needs of a row of `kept` or `rejected`; the rest of what the row says is shown, too.
SAMPLE_COLUMNS = (
    "key", "url", "source", "section", "caption", "captions", "rank", "extra", *STORED_IMAGE_COLUMNS,
)  # fmt: skip
KEPT_COLUMNS = (
    *SAMPLE_COLUMNS, "format", "width", "height", "pixel_sha256", "looks_cut", "cluster", "split",
)  # fmt: skip
REJECTED_COLUMNS = (*SAMPLE_COLUMNS, "reason", "detail", "stands_for")


@dataclass(kw_only=True)
class SampleBook:
    """The samples on the page, each listed once, in the order of their first image."""

    view: View
    rows: list[dict[str, Any]] = field(default_factory=list)
    _numbers: dict[str, int] = field(default_factory=dict)

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
        made = self._reconstruct(find_codes(self.view, self.rows, places))
        return [
            _describe(row, places.get(row["key"]))
            | (self._picture(made[row["key"]]) if row["key"] in made else {})
            for row in self.rows
        ]

    def _find_places(self) -> dict[str, Place]:
        """The sample of each row that is in a shard, by key."""
        kept = [row["key"] for row in self.rows if "split" in row]
        try:
            shards = open_shards(self.view) if kept else None
            return {} if shards is None else shards.find(kept)
        except (PipelineError, OSError) as error:
            logger.warning("The samples' shards can't be looked up: %s", error)
            return {}

    def _reconstruct(self, codes: Mapping[str, Codes]) -> dict[str, Reconstruction]:
        try:
            return reconstruct_samples(self.view, self.rows, codes)
        except PipelineError as error:
            logger.warning("Samples are shown without their reconstructions: %s", error)
            return {}

    def _picture(self, made: Reconstruction) -> dict[str, str]:
        drawn = data_uri(shrink(made.pixels_HWC, self.view.config.thumbnail), "jpeg")
        return {"reconstruction": drawn, "quality": words_of_quality(made)}


def _placeholder(side: int, words: str, why: str) -> str:
    """What stands where an image can't be shown."""
    style = f"width:{side}px;min-height:{side // 2}px"
    return f'<span class="none" style="{style}" title="{shown(why)}">{shown(words)}</span>'


def _describe(row: Mapping[str, Any], place: Place | None) -> dict[str, Any]:
    facts = [*_facts(row), *([] if place is None else facts_of_place(place))]
    record = dict(row) | {"captions": list(row.get("captions") or ())}
    return {
        "title": plain_text(str(row["caption"])),
        "facts": [(name, plain_text(value)) for name, value in facts],
        "json": {"dedupe": record, "shard": None if place is None else record_of_place(place)},
    }


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


def facts_of_place(place: Place) -> Iterator[tuple[str, str]]:
    """What a shard holds of a sample: where, its ids, the text of the ids, its first codes."""
    ids = [int(i) for i in place.sample.tokens if i]
    yield "shard", place.shard
    yield f"{len(ids)} token ids", " ".join(map(str, ids))
    if place.text is not None:
        yield "ids as text", place.text
    codes = place.sample.codes.tolist()
    yield f"{len(codes)} codes", " ".join(map(str, codes[:24])) + (" …" if len(codes) > 24 else "")


def record_of_place(place: Place) -> dict[str, Any]:
    """The key and the JSON of a sample in its shard."""
    return {"key": place.sample.key, "json": place.sample.record}


def words_of_quality(made: Reconstruction) -> str:
    """The words below a reconstruction."""
    return f"reconstruction, PSNR {made.psnr_db:.1f} dB"

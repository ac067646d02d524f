"""The source `folder`: one row for each image with a caption."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from pipeline.core.errors import ConfigError, SourceError
from pipeline.core.original_files import read_whole
from scrapers.local.looking import MAX_IMAGE_BYTES
from scrapers.source import Discovery, FilePlace, Item, StartPage
from scrapers.sources.folder.caption_table import CaptionTable
from scrapers.sources.folder.captions import (
    Captions,
    caption_in_name,
    captions_in_image,
    parse_captions_from,
    read_caption_file,
)
from scrapers.sources.folder.listing import IMAGE, IMAGE_SUFFIXES, Listed, Listing
from scrapers.sources.folder.pairing import NO_CAPTION, pair_files
from scrapers.sources.remarks import Remarks

if TYPE_CHECKING:
    from scrapers.sources.folder import FolderConfig


class FolderSource:
    """The images of one folder and the folders in it."""

    name = "folder"
    start_url: str | None = None

    def __init__(self, config: FolderConfig) -> None:
        """Raises ConfigError unless there is one folder."""
        if len(config.inputs) != 1:
            raise ConfigError(
                f"The source folder reads one folder, found {len(config.inputs)}. "
                "Give its path: pipeline scrape folder PATH."
            )
        self._root = Path(config.inputs[0]).resolve()
        if not self._root.is_dir():
            raise ConfigError(f"{config.inputs[0]} is not a folder. Give a folder of images.")
        self._config = config
        self._from = parse_captions_from(config.captions_from)

    def discover(self, _page: StartPage | None) -> Discovery:
        """See `LocalSource.discover`."""
        return Discovery.of(lambda: self.items_on_disk(Remarks()), limit=self._config.limit)

    def items_on_disk(self, remarks: Remarks) -> Iterator[Item]:
        """See `LocalSource.items_on_disk`."""
        listing = Listing(
            self._root,
            remarks,
            caption_suffix=self._from.suffix,
            leave_out=self._config.workspace.resolve(),
        )
        with contextlib.closing(listing):
            listing.read()
            found = False
            for item in self._pairs(listing, remarks):
                found = True
                yield item
        if not found:
            self._refuse_nothing(remarks)

    def _refuse_nothing(self, remarks: Remarks) -> None:
        """An empty folder is more likely a disk that is not mounted than the wish to lose all rows."""
        why = " ".join(remarks.sentences()) or f"No file ends in {', '.join(IMAGE_SUFFIXES)}."
        raise SourceError(f"{self._root} has no image with a caption. {why}")

    def _pairs(self, listing: Listing, remarks: Remarks) -> Iterator[Item]:
        if self._from.suffix is not None:
            for image, file in pair_files(listing, remarks):
                found = read_caption_file(self._root / file.name, self._from)
                if found.fault is not None:
                    remarks.note("Caption files that can't be used", f"{file.name} ({found.fault})")
                else:
                    yield self._item(image, found, name=image.name.removesuffix(image.suffix))
            return
        table = None
        if self._from.kind == "csv":
            table = CaptionTable(Path(self._from.argument), listing.database, remarks)
        for image in listing.files():
            found = self._captions_of(image, table)
            if found.texts:
                yield self._item(image, found, name=image.name)
            else:
                why = f" ({found.fault})" if found.fault else ""
                remarks.note(NO_CAPTION, image.name + why)
        if table is not None:
            table.note_unused()

    def _captions_of(self, image: Listed, table: CaptionTable | None) -> Captions:
        assert image.kind == IMAGE
        if table is not None:
            return Captions(table.captions_of(image.name))
        if self._from.kind in ("png-title", "xmp"):
            return self._inside(image)
        folder = image.folder.rpartition("/")[2] or self._root.name
        text = caption_in_name(image.stem if self._from.kind == "filename" else folder)
        return Captions((text,) if text else ())

    def _inside(self, image: Listed) -> Captions:
        try:
            data, _ = read_whole(str(self._root / image.name), max_bytes=MAX_IMAGE_BYTES)
        except OSError as error:
            return Captions((), fault=f"it can't be read: {error.strerror or error}")
        if data is None:
            return Captions((), fault="it is too large")
        return captions_in_image(data, self._from.kind)

    def _item(self, image: Listed, found: Captions, *, name: str) -> Item:
        path = f"{self._root}/{image.name}" if str(self._root) != "/" else f"/{image.name}"
        return Item(
            url="file://" + quote(path),
            captions=found.texts,
            group=image.folder.partition("/")[0] or self._root.name or "images",
            extra=found.extra,
            name=name,
            place=FilePlace(path, 0, image.bytes, image.bytes, image.mtime),
        )

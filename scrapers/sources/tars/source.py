"""The source `tars`: one row for each sample of WebDataset tars that has an image and a caption."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from pipeline.core.errors import SourceError
from pipeline.core.original_files import is_address
from scrapers.source import Discovery, Item, StartPage
from scrapers.sources.remarks import Remarks
from scrapers.sources.tars.expanding import Tar, find_tars
from scrapers.sources.tars.members import EndsEarlyError, Member, as_files, read_members
from scrapers.sources.tars.samples import captions_of, image_of, parse_captions_from

if TYPE_CHECKING:
    from scrapers.sources.tars import TarsConfig


class TarsSource:
    """The samples of some tars."""

    name = "tars"
    start_url: str | None = None

    def __init__(self, config: TarsConfig) -> None:
        self._config = config
        self._from = parse_captions_from(config.captions_from)
        self._tars = find_tars(config.inputs, allow_pipe=config.allow_pipe)

    def discover(self, _page: StartPage | None) -> Discovery:
        """See `LocalSource.discover`."""
        return Discovery.of(lambda: self.items_on_disk(Remarks()), limit=self._config.limit)

    def items_on_disk(self, remarks: Remarks) -> Iterator[Item]:
        """See `LocalSource.items_on_disk`."""
        found = False
        for tar in self._tars:
            for item in self._items_of(tar, remarks):
                found = True
                yield item
        if not found:
            why = " ".join(remarks.sentences())
            raise SourceError(f"The tars have no image with a caption. {why}".rstrip())

    def _items_of(self, tar: Tar, remarks: Remarks) -> Iterator[Item]:
        repeats: Counter[int] = Counter()
        for sample in read_samples(tar, remarks):
            item = self._item(tar, sample, remarks)
            if item is not None:
                # A key may come again in a tar: it is another sample.
                repeats[hash(item.name)] += 1
                number = repeats[hash(item.name)]
                yield item if number == 1 else _renamed(item, number)

    def _item(self, tar: Tar, sample: Mapping[str, Any], remarks: Remarks) -> Item | None:
        key = sample["__key__"]
        shown = f"{tar.name}/{key}"
        image, others = image_of(sample)
        if image is None:
            remarks.note("Samples without an image", shown)
            return None
        if others:
            remarks.note("Samples with several images, of which the first one counts", shown)
        found = captions_of(sample, self._from)
        if not found.texts:
            remarks.note("Images without a caption", f"{shown} ({found.fault})")
            return None
        return Item(
            url=url_of(tar, image),
            captions=found.texts,
            group=tar.group or "tars",
            extra=found.extra,
            name=shown,
            place=image.place,
            body=image.body,
        )


def read_samples(tar: Tar, remarks: Remarks) -> Iterator[dict[str, Any]]:
    """The samples of a tar, grouped by webdataset; a tar that ends early is named, what is before counts."""
    # Imported here: it takes seconds.
    from webdataset.tariterators import group_by_keys

    def note(error: Exception) -> bool:
        remarks.note("Members left out by webdataset's rules", f"{tar.name}: {error.args[0]}")
        return True

    files = as_files(_until_the_end(tar, remarks), tar.place)
    yield from group_by_keys(files, handler=note)


def _until_the_end(tar: Tar, remarks: Remarks) -> Iterator[Member]:
    try:
        for member in read_members(tar):
            if _is_utf_8(member.name):
                yield member
            else:
                remarks.note("Members whose name is not UTF-8", ascii(member.name))
    except EndsEarlyError as error:
        remarks.note("Tars that end early", f"{tar.place} ({error})")
    except (OSError, ImportError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        remarks.note("Tars that can't be read", f"{tar.place} ({why})")


def url_of(tar: Tar, member: Member) -> str:
    """The URL of a member: that of its tar, and its name as the fragment."""
    place = tar.place if is_address(tar.place) or tar.is_pipe else "file://" + quote(tar.place)
    return f"{place}#{quote(member.name)}"


def _renamed(item: Item, number: int) -> Item:
    return dataclasses.replace(item, name=f"{item.name}#{number}")


def _is_utf_8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True

"""From what was found in a file to the rows of the ledger, and to the segments if bytes are copied."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

from scrapers.crawl.recorder import Tally
from scrapers.fetch.optouts.signals import Refusal
from scrapers.fetch.request_url import encodable_url, without_credentials
from scrapers.fetch.storable import storable
from scrapers.local.deciding import Wish, validator_of
from scrapers.local.looking import Looked
from scrapers.rawstore.batch_writer import Store
from scrapers.rawstore.file_rows import (
    FileRow,
    FormChange,
    KnownFile,
    files_at,
    next_file_number,
)
from scrapers.rawstore.keys import address_of, image_key, key_of_name
from scrapers.rawstore.ledger_rows import FormRow, Touch, UrlRow
from scrapers.rawstore.ledger_schema import STATE_NUMBER
from scrapers.source import CaptionForm, FilePlace, Item

# Keys of images by URL begin with it: the group may be the name of a folder, which may be renamed.
KEY_PREFIX = "images"
# More files than can wait to be written: an older one is in the ledger.
_FILES_KEPT = 50_000


class Keyed(NamedTuple):
    """An item with its key and URL in the ledger."""

    item: Item
    key: str
    url: str


def keyed(item: Item) -> Keyed:
    """The item with the key of its name or, without one, of its URL."""
    if item.name is not None:
        return Keyed(item, key_of_name(item.name), storable(item.url))
    url = encodable_url(without_credentials(item.url))
    address = address_of(CaptionForm(caption="", url_template=url), KEY_PREFIX)
    return Keyed(item, address.key, address.prefix)


class RowWriter:
    """Adds rows to the store's batches. `moved` counts images whose file or URL has another path now."""

    def __init__(
        self, store: Store, tally: Tally, wish: Wish, clock: Callable[[], float] = time.time
    ) -> None:
        self.moved = 0
        self._store = store
        self._tally = tally
        self._wish = wish
        self._clock = clock
        self._next_file = next_file_number(store.ledger)
        # The files that were seen last, by path; None if the ledger has none there.
        self._files: dict[str, FileRow | None] = {}

    # --- Files ------------------------------------------------------------------------------------

    def note_files(self, items: Iterable[Item]) -> None:
        """Look up the files of items; the images of a file that has changed are to be read again."""
        places = {item.place.path: item.place for item in items if item.place is not None}
        unknown = [path for path in places if path not in self._files]
        found = files_at(self._store.reader, unknown)
        self._files.update((path, found.get(path)) for path in unknown)
        for path, place in places.items():
            row = self._files[path]
            if row is not None and (row.bytes, row.mtime) != (place.file_bytes, place.mtime):
                self._store.batch.files.forgotten.append(row.number)
                self._put_file(row.number, place)
        while len(self._files) > _FILES_KEPT:
            del self._files[next(iter(self._files))]

    def _put_file(self, number: int, place: FilePlace) -> None:
        self._files.pop(place.path, None)
        row = FileRow(number, place.path, place.file_bytes, place.mtime)
        self._files[place.path] = row
        self._store.batch.files.files.append(row)

    def _number_of(self, place: FilePlace) -> int:
        """The number of the file that a place is in; a new one is added."""
        row = self._files.get(place.path)
        if row is None and place.path not in self._files:
            row = files_at(self._store.reader, [place.path]).get(place.path)
        if row is None:
            number, self._next_file = self._next_file, self._next_file + 1
            self._put_file(number, place)
            return number
        if (row.bytes, row.mtime) != (place.file_bytes, place.mtime):
            self._put_file(row.number, place)
        return row.number

    def move(self, each: Keyed, known: KnownFile) -> bool:
        """Give the file of a known image the path of the item; False if the image has to be read."""
        place = each.item.place
        assert place is not None
        assert known.segment is not None
        there = self._files.get(place.path)
        if there is not None and there.number != -known.segment:
            return False
        if there is None:
            self._put_file(-known.segment, place)
        return True

    # --- Forms ------------------------------------------------------------------------------------

    def keep(self, each: Keyed, known: KnownFile) -> None:
        """The image is as it was: only its URL, section, captions or extra may differ."""
        change = self._change(each, known)
        if change[:-1] != known[2:7]:
            self._store.batch.files.forms.append(change)
            self.moved += 1
        if each.item.name is None:
            self.add_captions(each, known)
        else:
            self._replace_captions(each.item, known)

    def _change(self, each: Keyed, known: KnownFile) -> FormChange:
        item = each.item
        # The first caption of a URL stays: others are added.
        caption = storable(item.captions[0]) if item.name is not None else known.caption
        extra = item.extra_json()
        return FormChange(
            each.url,
            storable(item.group),
            caption,
            item.rank,
            None if extra is None else storable(extra),
            known.form,
        )

    def repeat(self, each: Keyed, known: KnownFile) -> None:
        """Another row of a URL, or a failure that is known: only its captions and its section count."""
        group = storable(each.item.group)
        if group != known.section:
            change = FormChange(
                known.prefix, group, known.caption, known.rank, known.extra, known.form
            )
            self._store.batch.files.forms.append(change)
            self.moved += 1
        self.add_captions(each, known)

    def add_captions(self, each: Keyed, known: KnownFile) -> None:
        """Keep captions of the item that the ledger doesn't have."""
        there = {known.caption, *json.loads(known.further)}
        for caption in sorted({storable(text) for text in each.item.captions} - there):
            self._store.add_caption(known.form, caption)
            self._tally.captions += 1

    def _replace_captions(self, item: Item, known: KnownFile) -> None:
        first, *others = map(storable, item.captions)
        wanted = set(others) - {first}
        if wanted == set(json.loads(known.further)):
            return
        self._store.batch.files.dropped.append(known.form)
        for caption in sorted(wanted):
            self._store.add_caption(known.form, caption)
            self._tally.captions += 1

    def _form_of(self, each: Keyed, known: KnownFile | None) -> int:
        if known is not None:
            self.keep(each, known)
            return known.form
        item, number = each.item, self._store.new_form_id()
        first, *others = map(storable, item.captions)
        extra = item.extra_json()
        self._store.add_form(
            FormRow(
                id=number,
                key=each.key,
                plan=number,
                section=storable(item.group),
                caption=first,
                masked=False,
                num_ranks=1,
                prefix=each.url,
                suffix=None,
                rank=item.rank,
                extra=None if extra is None else storable(extra),
            )
        )
        for caption in sorted(set(others) - {first}):
            self._store.add_caption(number, caption)
        return number

    # --- Outcomes ---------------------------------------------------------------------------------

    def fail(self, each: Keyed, known: KnownFile | None) -> None:
        """Another tool could not fetch the image."""
        assert each.item.failure is not None
        state, reason, text = each.item.failure
        form = self._form_of(each, known)
        self._tally.failures[reason] += 1
        refusal = None
        if state == "opted_out":
            refusal = Refusal(signal="x-robots-tag", reason=reason, where=each.url, text=text)
        self._add_row(
            form, state=STATE_NUMBER[state], reason=reason, evidence=self._evidence(refusal)
        )

    def write(self, each: Keyed, known: KnownFile | None, looked: Looked) -> None:
        """The outcome of an image that was read."""
        form = self._form_of(each, known)
        self._count(known, looked)
        if looked.body is not None:
            self._copy(form, each, known, looked)
        elif known is not None and _has_copy(known) and not _is_new(known, looked):
            self._keep_copy(known, looked)
        else:
            self._point(form, each.item, known, looked)

    def _count(self, known: KnownFile | None, looked: Looked) -> None:
        before = None if known is None else known.sha256
        if looked.state != "done":
            self._tally.failures[looked.reason or looked.state] += 1
        elif before == looked.sha256:
            self._tally.unchanged += 1
        else:
            self._tally.stored += 1
            self._tally.bytes += looked.place.size
            self._tally.changed += before is not None

    def _point(self, form: int, item: Item, known: KnownFile | None, looked: Looked) -> None:
        """A row that refers to the file."""
        there = looked.state != "missing"
        is_resized = looked.state == "done" and item.original_sha256 not in (None, looked.sha256)
        self._tally.resized += is_resized
        place = looked.place
        version = self._version(form, known)
        self._add_row(
            form,
            state=STATE_NUMBER[looked.state],
            reason=looked.reason,
            sha256=looked.sha256,
            size=place.size if there else None,
            segment=-self._number_of(place) if there else None,
            offset=place.offset if there else None,
            version=version,
            evidence=self._evidence(looked.refusal),
            original_sha256=item.original_sha256 if is_resized else None,
        )

    def _copy(self, form: int, each: Keyed, known: KnownFile | None, looked: Looked) -> None:
        """A row that refers to a segment, in which the bytes are placed."""
        assert looked.body is not None
        assert looked.sha256 is not None
        if known is not None and _has_copy(known) and not _is_new(known, looked):
            self._keep_copy(known, looked)
            return
        version = self._version(form, known)
        key = image_key(each.key, 0, version)
        segment, offset = self._store.segments.place(
            key, looked.format or "bin", looked.body, _record(each, looked), sha256=looked.sha256
        )
        self._store.add_bytes(len(looked.body))
        self._add_row(
            form,
            state=STATE_NUMBER["done"],
            reason=looked.reason,
            sha256=looked.sha256,
            size=len(looked.body),
            segment=segment,
            offset=offset,
            version=version,
            etag=validator_of(looked.place),
        )

    def _version(self, form: int, known: KnownFile | None) -> int:
        """The version of new bytes; those that were copied earlier are kept as an older one."""
        if known is None:
            return 1
        if _has_copy(known):
            self._store.batch.changed.append((form, 0))
        return known.version + _has_copy(known)

    def _keep_copy(self, known: KnownFile, looked: Looked) -> None:
        """The bytes that were copied earlier are kept, whatever became of the original."""
        is_whole = looked.state == "done"
        refused = looked.state == "opted_out"
        self._tally.kept += not is_whole and not refused
        self._store.add_touch(
            Touch(
                STATE_NUMBER[looked.state] if is_whole or refused else known.state,
                None,
                looked.reason if is_whole or refused else known.reason,
                0,
                self._now(),
                validator_of(looked.place) if is_whole else None,
                None,
                self._evidence(looked.refusal),
                known.form,
                0,
            )
        )

    def _add_row(
        self,
        form: int,
        *,
        state: int,
        reason: str | None,
        sha256: bytes | None = None,
        size: int | None = None,
        segment: int | None = None,
        offset: int | None = None,
        version: int = 1,
        etag: str | None = None,
        evidence: str | None = None,
        original_sha256: bytes | None = None,
    ) -> None:
        self._store.add_row(
            UrlRow(
                form=form,
                rank=0,
                state=state,
                status_code=None,
                reason=reason,
                attempts=0,
                etag=etag,
                last_modified=None,
                final_url=None,
                sha256=sha256,
                bytes=size,
                segment=segment,
                offset=offset,
                version=version,
                time=self._now(),
                evidence=evidence,
                original_sha256=original_sha256,
            )
        )

    def _now(self) -> int:
        return max(int(self._clock()), self._wish.since + 1 if self._wish.since else 0)

    def _evidence(self, refusal: Refusal | None) -> str | None:
        if refusal is None:
            return None
        return refusal.evidence(time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self._now())))


def _has_copy(known: KnownFile) -> bool:
    return known.sha256 is not None and known.segment is not None and known.segment >= 0


def _is_new(known: KnownFile, looked: Looked) -> bool:
    return looked.state == "done" and looked.sha256 != known.sha256


def _record(each: Keyed, looked: Looked) -> str:
    """The record beside a copied image, with the fields that a crawl writes."""
    item = each.item
    assert looked.sha256 is not None
    record = {
        "caption": storable(item.captions[0]),
        "etag": None,
        "final_url": each.url,
        "last_modified": None,
        "masked": False,
        "rank": item.rank,
        "section": storable(item.group),
        "sha256": looked.sha256.hex(),
        "url": each.url,
    }
    return json.dumps(record, sort_keys=True, ensure_ascii=False)

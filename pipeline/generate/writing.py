"""Write the best of the drawn images, their records, the contact sheet and the manifest."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path

from pipeline.core.artifact import Artifact
from pipeline.core.errors import ConfigError
from pipeline.core.ownership import own_files
from pipeline.core.stop_signals import watch_signals
from pipeline.core.storage import file_entry, sha256_bytes, write_bytes
from pipeline.generate.images import SHEET_LINES, contact_sheet, encode_png, images_shown
from pipeline.generate.notes import (
    NOTES,
    RECORDS,
    Record,
    Records,
    add_note,
    read_identity,
    read_notes,
    read_records,
    to_line,
    write_notes,
)
from pipeline.generate.place import CONTRACT
from pipeline.generate.prompts import Order
from pipeline.generate.sketches import Drawn, read_sketches, remove_sketches, write_sketches

CONTACT = "contact.png"
KEEP_EVERY_S = 60.0  # interval of saving the images of unfinished prompts


class ImageWriter:
    """Writes a folder's images as they are drawn; `records` describes those already written.

    `identity` is the recipe's. The folder will get `keep` images for each of the prompt numbers `numbers`.
    Raises ConfigError, and changes nothing, if one of these files exists and is not ours.
    """

    def __init__(self, out: Artifact, identity: str, *, numbers: Iterable[int], keep: int) -> None:
        self.out, self.folder = out, out.folder
        prompts = _find_drawn(out, identity)
        if prompts is None:
            _check_no_overwrite(self.folder, numbers, keep)
            out.start_over()
        else:
            out.reopen()
        write_notes(self.folder, identity, prompts or [])
        self.records = [record for records in prompts or [] for record in records]
        self._sketches: list[Drawn] = []

    @property
    def finished_prompts(self) -> set[int]:
        """The numbers of the prompts whose images are written."""
        return {int(record["number"]) for record in self.records}

    def missing_orders(self, orders: Sequence[Order]) -> list[Order]:
        """The orders that have neither a written nor a saved image yet."""
        todo = [order for order in orders if order.number not in self.finished_prompts]
        self._sketches = read_sketches(self.folder, todo)
        sketched = {(image.order.number, image.order.index) for image in self._sketches}
        return [order for order in todo if (order.number, order.index) not in sketched]

    def write_prompts(
        self, images: Iterator[Drawn], *, drawn: int, keep: int, facts: Mapping[str, str]
    ) -> None:
        """Write the `keep` best of each prompt's `drawn` images as soon as all are drawn.

        `facts` are added to every record. Images of unfinished prompts are saved every minute and on an
        interrupt.
        """
        groups: dict[int, list[Drawn]] = {}
        kept_s = time.monotonic()
        try:
            for image in itertools.chain(self._sketches, images):
                group = groups.setdefault(image.order.number, [])
                group.append(image)
                if len(group) == drawn:
                    self._write_prompt(group, keep=keep, facts=facts)
                    del groups[image.order.number]
                elif time.monotonic() - kept_s >= KEEP_EVERY_S:
                    write_sketches(self.folder, itertools.chain(*groups.values()))
                    kept_s = time.monotonic()
        except KeyboardInterrupt:
            with watch_signals():  # a second signal must not interrupt the write
                write_sketches(self.folder, itertools.chain(*groups.values()))
            raise

    def _write_prompt(self, group: Sequence[Drawn], *, keep: int, facts: Mapping[str, str]) -> None:
        records = [self._write(best, rank, facts) for rank, best in _rank(group, keep)]
        add_note(self.folder, records)
        self.records += records
        remove_sketches(self.folder, (image.order for image in group))

    def finish(self, counts: Mapping[str, int]) -> None:
        """Write the records, the contact sheet and the manifest; then delete the notes."""
        self.records.sort(key=lambda record: (record["number"], record["rank"]))
        write_bytes(self.folder / RECORDS, b"".join(to_line(record) for record in self.records))
        write_bytes(self.folder / CONTACT, contact_sheet(list(self._sheet_rows())))
        images = (str(record["file"]) for record in self.records)
        listed = file_entry(self.folder / RECORDS, self.folder, rows=len(self.records))
        self.out.finish(counts=counts, files=(*images, CONTACT, listed))
        (self.folder / NOTES).unlink(missing_ok=True)

    def _write(self, drawn: Drawn, rank: int, facts: Mapping[str, str]) -> Record:
        order = drawn.order
        record = {"prompt": order.prompt.text, "seed": order.seed, **facts}
        if order.prompt.given is not None:
            record["given"] = order.prompt.given
        if drawn.score is not None:
            record["clip_score"] = round(drawn.score, 4)
        name = _file_name(order.number, rank)
        data = encode_png(drawn.pixels_HWC, {key: str(value) for key, value in record.items()})
        write_bytes(self.folder / name, data)
        place = {"number": order.number, "index": order.index, "rank": rank}
        return {**record, **place, "file": name, "sha256": sha256_bytes(data)}

    def _sheet_rows(self) -> Iterator[tuple[str, list[bytes]]]:
        shown = images_shown(len(self.finished_prompts))
        by_prompt = groupby(self.records, key=lambda record: record["number"])
        for (_, group), _ in zip(by_prompt, range(SHEET_LINES), strict=False):
            records = list(group)
            names = [str(record["file"]) for record in records[:shown]]
            yield records[0]["prompt"], [(self.folder / name).read_bytes() for name in names]


def is_whole(out: Artifact) -> bool:
    """Whether the folder is finished and still has all its files."""
    files = out.manifest.files if out.manifest is not None else ()
    return out.is_current and all((out.folder / entry.path).is_file() for entry in files)


def _find_drawn(out: Artifact, identity: str) -> Records | None:
    """The records of the prompts already drawn; None if the folder was not started."""
    if out.is_current:
        return read_records(out.folder)
    return read_notes(out.folder) if read_identity(out.folder) == identity else None


def _check_no_overwrite(folder: Path, numbers: Iterable[int], keep: int) -> None:
    """Raise ConfigError if a file that isn't ours would be overwritten."""
    if not os.path.lexists(folder):
        return
    own = set(own_files(folder, CONTRACT))
    images = (_file_name(number, rank) for number in numbers for rank in range(keep))
    for name in (RECORDS, CONTACT, *images):
        if name not in own and os.path.lexists(folder / name):
            raise ConfigError(
                f"{folder / name} was not written by this command and would be overwritten. Nothing was "
                "changed. Move it, or give another --name or --out."
            )


def _file_name(number: int, rank: int) -> str:
    return f"{number:04d}-{rank:02d}.png"


def _rank(group: Iterable[Drawn], keep: int) -> Iterator[tuple[int, Drawn]]:
    """The `keep` best with their rank: by score, or in the order drawn if there are no scores."""
    ranked = sorted(group, key=lambda drawn: (-(drawn.score or 0.0), drawn.order.index))
    return enumerate(ranked[:keep])

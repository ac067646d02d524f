"""What is kept of the pictures drawn, and the files it becomes.

A prompt's pictures are written together, then noted in `unfinished.jsonl`, so that a run that was
killed goes on with the first prompt that is not there.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.contracts import FileEntry
from pipeline.errors import ConfigError
from pipeline.generate.pictures import SHEET_LINES, contact_sheet, encode_png, pictures_shown
from pipeline.generate.prompts import Order
from pipeline.storage import MANIFEST_NAME, empty_folder, file_entry, sha256_bytes, write_bytes

RECORDS = "records.jsonl"
CONTACT = "contact.png"
UNFINISHED = "unfinished.jsonl"

Record = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """A picture uint8 [H, W, 3], and what CLIP makes of it, if it was asked."""

    order: Order
    pixels_HWC: npt.NDArray[np.uint8]
    score: float | None = None


class Sketchbook:
    """The folder of pictures while they are made; `records` are those that are there.

    `identity` names everything that the pictures depend on: what another one left is thrown away.
    """

    def __init__(self, folder: Path, identity: str) -> None:
        self.folder = folder
        prompts = _read_unfinished(folder, identity)
        if not prompts:
            empty_folder(folder)
        # Written anew: a killed run may have left the beginning of a line.
        lines = [{"identity": identity}, *prompts]
        write_bytes(folder / UNFINISHED, b"".join(_line(line) for line in lines))
        self.records: list[Record] = [record for records in prompts for record in records]

    @property
    def finished_prompts(self) -> set[int]:
        """The numbers of the prompts whose pictures are there."""
        return {int(record["number"]) for record in self.records}

    def write_prompts(
        self, pictures: Iterator[Drawn], *, drawn: int, keep: int, facts: Mapping[str, str]
    ) -> None:
        """Write the `keep` best of the `drawn` pictures of each prompt as they come.

        `facts` are what every record says.
        """
        while group := list(islice(pictures, drawn)):
            records = [self._write(best, rank, facts) for rank, best in _rank(group, keep)]
            with (self.folder / UNFINISHED).open("ab") as file:
                file.write(_line(records))
            self.records += records

    def finish(self) -> tuple[FileEntry, ...]:
        """Write the records and the contact sheet; return all files."""
        write_bytes(self.folder / RECORDS, b"".join(_line(record) for record in self.records))
        write_bytes(self.folder / CONTACT, contact_sheet(list(self._sheet_rows())))
        (self.folder / UNFINISHED).unlink()
        names = [*(str(record["file"]) for record in self.records), CONTACT]
        listed = file_entry(self.folder / RECORDS, self.folder, rows=len(self.records))
        return (*(file_entry(self.folder / name, self.folder) for name in names), listed)

    def _write(self, drawn: Drawn, rank: int, facts: Mapping[str, str]) -> Record:
        order = drawn.order
        record: Record = {"prompt": order.prompt.text, "seed": order.seed, **facts}
        if order.prompt.given is not None:
            record["given"] = order.prompt.given
        if drawn.score is not None:
            record["clip_score"] = round(drawn.score, 4)
        name = f"{order.number:04d}-{rank:02d}.png"
        data = encode_png(drawn.pixels_HWC, {key: str(value) for key, value in record.items()})
        write_bytes(self.folder / name, data)
        place = {"number": order.number, "index": order.index, "rank": rank}
        return {**record, **place, "file": name, "sha256": sha256_bytes(data)}

    def _sheet_rows(self) -> Iterator[tuple[str, list[bytes]]]:
        shown = pictures_shown(len(self.finished_prompts))
        by_prompt = groupby(self.records, key=lambda record: record["number"])
        for (_, group), _ in zip(by_prompt, range(SHEET_LINES), strict=False):
            records = list(group)
            names = [str(record["file"]) for record in records[:shown]]
            yield records[0]["prompt"], [(self.folder / name).read_bytes() for name in names]


def check_place(folder: Path) -> None:
    """Raise ConfigError for a folder that holds anything but pictures of ours: it would be lost."""
    try:
        known = json.loads((folder / MANIFEST_NAME).read_bytes())["contract"] == "generated"
    except (OSError, ValueError, KeyError, TypeError):  # killed on the way, or at the end of it
        known = any((folder / name).exists() for name in (UNFINISHED, RECORDS))
    if not known and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(
            f"{folder} holds something that was not drawn by this command. Nothing was touched; give "
            "a new folder, or an empty one."
        )


def _rank(group: Iterable[Drawn], keep: int) -> Iterator[tuple[int, Drawn]]:
    """The `keep` best by score, or all in the order in which they were drawn where there is none."""
    ranked = sorted(group, key=lambda drawn: (-(drawn.score or 0.0), drawn.order.index))
    return enumerate(ranked[:keep])


def _line(value: Any) -> bytes:
    return (json.dumps(value, ensure_ascii=False, sort_keys=True) + "\n").encode()


def _read_unfinished(folder: Path, identity: str) -> list[list[Record]]:
    """The records of each prompt that a killed run of the same identity finished."""
    path = folder / UNFINISHED
    if not path.exists():
        return []
    head, *lines = path.read_bytes().splitlines(keepends=True)
    if head != _line({"identity": identity}):
        return []
    prompts: list[list[Record]] = [json.loads(line) for line in lines if line.endswith(b"\n")]
    return [
        records
        for records in prompts
        if all((folder / str(record["file"])).exists() for record in records)
    ]
